# rdp-proxy in a container: unprivileged, with a read-only root; all it writes is in one volume.
#   docker build -t rdp-proxy .
#   docker run --read-only --cap-drop ALL --network host \
#     -v ./config.yaml:/etc/rdp-proxy/config.yaml:ro -v state:/var/lib/rdp-proxy rdp-proxy
# BASE may be any image with glibc and Python 3.11 or newer at the same path in both stages.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY requirements.lock requirements-build.lock ./
# Two environments: tools stay here, /opt/rdp-proxy goes on without pip and setuptools.
RUN python3 -m venv /tools \
 && python3 -m venv --without-pip /opt/rdp-proxy \
 && /tools/bin/pip install --require-hashes --only-binary :all: -r requirements-build.lock \
 && /tools/bin/pip --python /opt/rdp-proxy/bin/python install \
      --require-hashes --only-binary :all: -r requirements.lock
COPY pyproject.toml README.md ./
COPY proxy proxy
RUN /tools/bin/pip wheel --no-deps --no-index --no-build-isolation --wheel-dir /dist . \
 && /tools/bin/pip --python /opt/rdp-proxy/bin/python install --no-deps --no-index /dist/*.whl

FROM ${BASE}
LABEL org.opencontainers.image.title="rdp-proxy" \
      org.opencontainers.image.description="Load balancer for Remote Desktop farms"
RUN install -d -o 10001 -g 10001 -m 0700 /var/lib/rdp-proxy
COPY --from=build /opt/rdp-proxy /opt/rdp-proxy
ENV PATH=/opt/rdp-proxy/bin:$PATH STATE_DIRECTORY=/var/lib/rdp-proxy
VOLUME /var/lib/rdp-proxy
WORKDIR /var/lib/rdp-proxy
USER 10001:10001
EXPOSE 3389 9389
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
  CMD ["rdp-proxy", "health"]
ENTRYPOINT ["rdp-proxy"]
CMD ["run", "--config", "/etc/rdp-proxy/config.yaml"]
