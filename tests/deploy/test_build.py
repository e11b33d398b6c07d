"""The image, really built and run, by buildah over a base that debootstrap makes.

It runs in continuous integration, as root; no engine's daemon and no registry of images is needed.
Everywhere else `docker build .` does the same.
"""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.tools import ROOT
from tests.patience import PATIENCE_S
from tests.servers.ports import free_port

pytestmark = pytest.mark.skipif(
    not os.environ.get("CI"), reason="builds the image as root, in continuous integration alone"
)

BUILD_S = 300.0  # for one step, which may wait for a mirror
CERTIFICATES = "/etc/ssl/certs:/etc/ssl/certs:ro"  # the build trusts what this machine trusts


class Buildah:
    """buildah with a storage of its own, gone with the test's folder."""

    def __init__(self, folder: Path) -> None:
        self.command = ["buildah", "--root", f"{folder}/root", "--runroot", f"{folder}/run"]

    def __call__(self, *arguments: str | Path) -> str:
        done = subprocess.run(
            [*self.command, *map(str, arguments)], capture_output=True, text=True, timeout=BUILD_S
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def run(self, container: str, *arguments: str) -> str:
        return self("run", "--isolation", "chroot", container, "--", *arguments)


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    folder = tmp_path_factory.mktemp("image")
    debian = folder / "debian"
    subprocess.run(
        ["debootstrap", "--variant=minbase", "--include=python3-venv", "trixie", debian],
        check=True,
        capture_output=True,
        timeout=BUILD_S,
    )
    buildah = Buildah(folder)
    base = buildah("from", "scratch")
    buildah("copy", "--quiet", base, debian, "/")
    buildah("commit", "--quiet", base, "localhost/base")
    buildah("rm", base)
    shutil.rmtree(debian)
    yield buildah
    buildah("rm", "--all")
    buildah("rmi", "--all", "--force")


@pytest.fixture(scope="module")
def container(buildah: Buildah) -> str:
    options = ["--network", "host", "--isolation", "chroot", "--format", "docker"]
    build = ["--build-arg", "BASE=localhost/base", "--volume", CERTIFICATES]
    buildah("bud", "--quiet", *options, *build, "--tag", "localhost/rdp-proxy", ROOT)
    return buildah("from", "localhost/rdp-proxy")


def test_the_image_runs_without_privileges_and_without_tools(
    buildah: Buildah, container: str
) -> None:
    assert buildah.run(container, "id", "-u") == "10001"
    assert buildah.run(container, "rdp-proxy", "--version").startswith("rdp-proxy ")
    assert buildah.run(container, "ls", "/opt/rdp-proxy/bin").count("pip") == 0
    writable = ["find", "/opt/rdp-proxy", "-writable", "-not", "-type", "l"]
    assert buildah.run(container, *writable) == ""


def test_the_image_serves_with_its_state_in_the_volume(
    buildah: Buildah, container: str, tmp_path: Path
) -> None:
    metrics = free_port()
    config = tmp_path / "config.yaml"
    config.write_text(
        f"listeners: [{{name: rdp, bind: '127.0.0.1:{free_port()}', pool: desktops}}]\n"
        "pools: [{name: desktops, hosts: [{name: a, address: '127.0.0.1:9'}]}]\n"
        f"metrics: {{bind: '127.0.0.1:{metrics}'}}\n"
    )
    mounted = ["--volume", f"{config}:/etc/rdp-proxy/config.yaml:ro"]
    start = ["run", "--isolation", "chroot", *mounted, container, "--"]
    serve = ["rdp-proxy", "run", "--config", "/etc/rdp-proxy/config.yaml"]
    with subprocess.Popen([*buildah.command, *start, *serve], stderr=subprocess.PIPE) as proxy:
        try:
            deadline = time.monotonic() + PATIENCE_S
            url = f"http://127.0.0.1:{metrics}/healthz"
            while not answers(url):
                assert proxy.poll() is None, proxy.stderr and proxy.stderr.read().decode()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert buildah.run(container, "rdp-proxy", "health", "--url", url) == "ready"
            assert "affinity.db" in buildah.run(container, "ls", "/var/lib/rdp-proxy").split()
        finally:
            proxy.terminate()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):
        return False
