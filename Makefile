# Everything this project can do is one word here; `make help` lists them.
# Each word prepares what it needs: a plain Debian with python3, python3-venv and make is enough.

PYTHON ?= python3
CONFIG ?= config.example.yaml
T ?= 60
# Of the fuzzer: any, but for `make test`, where a run is to be as the one before it.
SEED ?=
LOOP ?= uvloop

BIN := .venv/bin
READY := .venv/.ready-$(notdir $(PYTHON))
STAGE := scripts/stage
# Tests wait as well: half as many processes again as there are cores.
UNIT := --numprocesses $(shell echo $$(($$(nproc) * 3 / 2))) --dist worksteal tests/unit tests/fuzz tests/test_house.py
# Each process in a network of its own; more of them than cores, since most tests mostly wait.
INTEGRATION := --tx '4*popen//python=scripts/own_network $(BIN)/python' --dist worksteal tests/integration

# System packages, by the tests that use them.
INTEROP_PACKAGES := chromium freerdp2-shadow-x11 freerdp2-x11 openssl rdesktop xrdp xvfb
DEPLOY_PACKAGES := buildah debootstrap prometheus systemd
STORE_PACKAGES := haproxy iproute2 nftables redis-sentinel redis-server redis-tools
NAME_PACKAGES := dnsmasq-base
BENCH_PACKAGES := haproxy nginx libnginx-mod-stream gcc libc6-dev iproute2

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help setup check test unit integration coverage interop deploy-check bench demo run fuzz lock format packages clean

help:  ## list these words
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

setup: $(READY)  ## virtual environment in .venv from the lock files

$(READY): requirements-dev.lock pyproject.toml scripts/setup
	scripts/setup $(PYTHON) .venv
	@touch $@

check: setup  ## format, lint, types, floors and unit tests, under a minute
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/pytest -q --loop $(LOOP) $(UNIT)

test:  ## what CI runs: everything below, with a time budget for each stage
	@$(STAGE) setup 240 $(MAKE) setup packages
	@$(STAGE) check 60 $(MAKE) check
	@$(STAGE) unit 120 $(MAKE) unit
	@$(STAGE) fuzz 30 $(MAKE) fuzz T=15 SEED=1
	@$(STAGE) demo 60 $(MAKE) demo
	@$(STAGE) integration 360 $(MAKE) integration COVERAGE=1
	@$(STAGE) coverage 10 $(MAKE) coverage
	@$(STAGE) interop 240 $(MAKE) interop
	@$(STAGE) deploy-check 180 $(MAKE) deploy-check

unit: setup  ## unit tests on asyncio and on uvloop, with the coverage gates
	$(BIN)/pytest -q --loop both --cov --cov-context=test --cov-report= $(UNIT)
	$(BIN)/python scripts/own_coverage.py proxy/wire proxy/routing

integration: setup  ## the running product on loopback
	$(BIN)/pytest $(if $(COVERAGE),--cov --cov-append --cov-report=) $(INTEGRATION)

coverage: setup  ## what the last `make unit integration COVERAGE=1` has left out, with its gate
	$(BIN)/python -m tests.coverage_data
	$(BIN)/coverage report --fail-under=95

interop: setup  ## real RDP clients and hosts; needs `make packages`
	$(BIN)/pytest tests/interop

deploy-check: setup  ## lint image, compose file, service and alert rules; needs `make packages`
	$(BIN)/pytest tests/deploy

bench: setup  ## side by side with HAProxy and nginx, as root: make bench BENCH="--quick --json FILE"
	@scripts/packages $(BENCH_PACKAGES)
	$(BIN)/python -m bench $(BENCH)

demo: setup  ## a simulated farm: round robin, sticky and rdp-proxy side by side
	$(BIN)/rdp-proxy demo

run: setup  ## run the proxy: make run CONFIG=my.yaml
	$(BIN)/rdp-proxy run --config $(CONFIG)

fuzz: setup  ## throw mutated messages at the parsers for T seconds
	$(BIN)/python -m tests.fuzz.fuzz_wire $(T) $(SEED)

format: setup  ## rewrite the sources in the house's format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

lock: setup  ## resolve the dependencies anew into the lock files
	scripts/lock $(BIN)/uv

packages:  ## install the system packages that tests use: clients, hosts, Redis, promtool
	@scripts/packages $(INTEROP_PACKAGES) $(DEPLOY_PACKAGES) $(STORE_PACKAGES) $(NAME_PACKAGES)

clean:  ## remove what the other words have made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	rm -rf build dist htmlcov .demo *.egg-info .coverage .coverage.*
