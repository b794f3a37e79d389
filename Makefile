# `make` alone lists the commands. Each does its own set-up on a machine with Python 3.11 or newer, pip and make.
PYTHON ?= python3
RUN    := .venv/run
DEV    := .venv/dev
BENCH  := .venv/bench
FUZZ   := .venv/fuzz
SUPPLY := .venv/supply
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help run doctor test test-browser test-faults conformance e2e-observability e2e-container e2e-live e2e-store e2e-continuity check fmt lint fuzz demo bench chaos docs \
  monitoring k8s-validate image sbom scan lock clean

help:  ## list the commands
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-17s %s\n", $$1, $$2}'

# Environments: .venv/NAME is created from requirements/NAME.txt; its stamp is newer than the lock file.
define create_environment
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; found " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@$(PYTHON) -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r $<
	@touch $@
endef

.venv/run/.stamp: requirements/runtime.txt tools/install_command.py
	$(create_environment)
	@$(@D)/bin/python tools/install_command.py "$(CURDIR)"

.venv/%/.stamp: requirements/%.txt
	$(create_environment)

# RELAY_UPSTREAM=auto (the simulator if there is no key), unless the environment or a file sets RELAY_UPSTREAM.
AUTO = grep -qsE '^ *(export +)?RELAY_UPSTREAM *=' .env .env.local $${RELAY_ENV:+.env.$$RELAY_ENV} || export RELAY_UPSTREAM=$${RELAY_UPSTREAM:-auto}

run: $(RUN)/.stamp  ## serve on 127.0.0.1:8080; without a key, on the built-in simulator
	@$(AUTO); exec $(RUN)/bin/python -m service serve

doctor: $(RUN)/.stamp  ## check a connection step by step and explain the first failure; ARGS="--turn" and others are passed on
	@$(AUTO); exec $(RUN)/bin/python -m service doctor $(ARGS)

# Six processes, since the tests wait for timers half of the time. A file stays in one process, and files run in the order of
# their names: xdist's own order leaves those with few tests to the end, which are the long ones, and wait together. The
# variable, which some containers set, would make each process compile all tests in every run.
test: $(DEV)/.stamp  ## run the tests
	@PYTHONDONTWRITEBYTECODE= $(DEV)/bin/python -m pytest --numprocesses 6 --dist loadfile --no-loadscope-reorder

# Chromium and Node are installed when run as root, the packages of npm into tests/browser/node_modules.
test-browser: $(DEV)/.stamp  ## test the console's pages in Chromium with a fake microphone; ARGS="talk-call" and others are passed on
	@$(DEV)/bin/python -m tests.browser $(ARGS)

# In namespaces of their own, so that no firewall rule or mount touches the machine. The tests use asyncio's loop, the relays uvloop.
test-faults: $(DEV)/.stamp  ## run the tests with network faults; needs root
	@[ "$$(id -u)" = 0 ] || { echo "test-faults needs root, to create a network namespace" >&2; exit 2; }
	@command -v ip >/dev/null && command -v iptables >/dev/null || \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends iproute2 iptables
	@unshare --net --mount -- sh -c 'ip link set lo up && TEST_FAULTS=1 TEST_LOOP=asyncio exec $(DEV)/bin/python -m pytest tests/namespaces -p no:cacheprovider'

# The first run prepares wstest in ~/.cache/realtime-relay; without Python 2.7 on this machine that needs root and three minutes.
conformance: $(DEV)/.stamp  ## run Autobahn's WebSocket test suite on both sides of the relay; ARGS="--short" and others are passed on
	@$(DEV)/bin/python -m tests.conformance $(ARGS)

# The programs are Debian packages: installed when run as root, else unpacked to a temporary folder.
e2e-observability: $(DEV)/.stamp  ## trigger every alert by its real cause on a real Prometheus and Alertmanager; run every panel's query
	@status=0; $(DEV)/bin/python -m tests.observability || status=$$?; [ $$status = 0 ] || [ $$status = 3 ]

e2e-container: $(DEV)/.stamp  ## test image and compose file in the Docker Engine that `docker` reaches; reports if there is none
	@status=0; $(DEV)/bin/python -m tests.e2e.container $(ARGS) || status=$$?; [ $$status = 0 ] || [ $$status = 3 ]

# Packages of PyPI and npm, in ~/.cache/realtime-relay: 1 GB for all clients. Chromium is installed when run as root.
e2e-live: $(DEV)/.stamp  ## let unmodified clients of GPT-Live speak through the relay; ARGS="--only livekit" and others are passed on
	@status=0; $(DEV)/bin/python -m tests.e2e.live_clients $(ARGS) || status=$$?; [ $$status = 0 ] || [ $$status = 3 ]

# redis-server is a Debian package: installed when run as root, else unpacked to a temporary folder.
e2e-store: $(DEV)/.stamp  ## 500 callers at three relays on one real Redis, while processes are killed; ARGS="--seconds 4" and others are passed on
	@status=0; $(DEV)/bin/python -m tests.e2e.shared_store $(ARGS) || status=$$?; [ $$status = 0 ] || [ $$status = 3 ]

# Packages of PyPI and npm, in ~/.cache/realtime-relay, some of them those of e2e-live.
e2e-continuity: $(DEV)/.stamp  ## let unmodified SDKs outlive their upstream connection; ARGS="--only livekit", --beside and others are passed on
	@status=0; $(DEV)/bin/python -m tests.e2e.continuity_clients $(ARGS) || status=$$?; [ $$status = 0 ] || [ $$status = 3 ]

check: lint test  ## format check, lint, types and tests

fmt: $(DEV)/.stamp  ## format the code and apply safe fixes
	@$(DEV)/bin/ruff check --fix-only -q .
	@$(DEV)/bin/ruff format -q .

lint: $(DEV)/.stamp  ## format check, lint and types, without the tests
	@$(DEV)/bin/ruff format --check .
	@$(DEV)/bin/ruff check .
	@$(DEV)/bin/mypy

monitoring: $(DEV)/.stamp  ## write rules and dashboards to build/; RUNBOOKS=https://... sets the base of the runbook links
	@$(DEV)/bin/python -m monitoring.render $(if $(RUNBOOKS),--runbooks $(RUNBOOKS)) --into build

k8s-validate: $(DEV)/.stamp  ## render the Kubernetes manifests and validate them with kubernetes-validate and checkov
	@$(DEV)/bin/python -m tools.validate_k8s

fuzz: $(FUZZ)/.stamp  ## fuzz the frame scanner with a million inputs, guided by coverage; ARGS="events --runs 100000" and others are passed on
	@$(FUZZ)/bin/python -m fuzz $(or $(ARGS),scanner)

demo: $(DEV)/.stamp  ## send recorded speech through relay and simulator with the official SDK
	@$(DEV)/bin/python -m tools.demo

# LiteLLM has an environment of its own, because it pins most of its dependencies.
bench: $(RUN)/.stamp $(BENCH)/.stamp $(if $(filter soak --short,$(ARGS)),,$(BENCH)-litellm/.stamp)  ## measure the relay beside other proxies, in 40 minutes; ARGS="--short" and others are passed on
	@$(BENCH)/bin/python -m bench $(ARGS)

chaos: $(RUN)/.stamp $(DEV)/.stamp  ## attack the relay beside well-behaved calls, in sixteen minutes; ARGS="--short" and others are passed on
	@$(DEV)/bin/python -m chaos $(ARGS)

docs: $(DEV)/.stamp  ## write all generated files: references, alerting rules, dashboards, numbers in the manifests
	@$(DEV)/bin/python -m tools.generate

image:  ## build the image realtime-relay:local; BASE=python:3.11-slim@sha256:... pins its base
	@docker build --build-arg BASE=$(or $(BASE),python:3.11-slim) --build-arg REVISION=$$(git rev-parse HEAD) \
	  --build-arg VERSION=$$(sed -n 's/^__version__.*"\(.*\)"/\1/p' service/version.py) -t realtime-relay:local .

# The image contains what the lock file lists, so that the list needs no Docker Engine.
sbom: $(SUPPLY)/.stamp  ## write sbom.json, the bill of materials of the image's Python packages (CycloneDX)
	@$(PYTHON) -m venv --clear --without-pip $(SUPPLY)/image
	@$(SUPPLY)/bin/python -m pip --python $(SUPPLY)/image/bin/python install -q --require-hashes --no-deps --only-binary=:all: \
	  -r requirements/runtime.txt
	@$(SUPPLY)/bin/cyclonedx-py environment $(SUPPLY)/image/bin/python --pyproject pyproject.toml --mc-type application \
	  --output-reproducible --of JSON -o sbom.json
	@echo "wrote sbom.json"

scan: $(SUPPLY)/.stamp  ## report known vulnerabilities; fails when the database gives no answer
	@$(SUPPLY)/bin/python -m tools.scan

lock: $(DEV)/.stamp  ## resolve and hash the lock files again
	@$(DEV)/bin/python -m pip install -q --disable-pip-version-check uv
	@for f in "runtime --extra=redis --extra=jwt" "dev --all-extras"; do \
	  $(DEV)/bin/uv pip compile -q pyproject.toml $${f#* } --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-emit-find-links --no-header --upgrade -o requirements/$${f%% *}.txt; done
	@for f in bench/requirements:bench bench/litellm:bench-litellm fuzz/requirements:fuzz k8s/requirements:k8s requirements/supply:supply \
	  $(foreach n,openai livekit pipecat,tests/e2e/live_clients/$(n):live-$(n)) \
  $(foreach n,agents pipecat-1.10 strands,tests/e2e/continuity_clients/$(n):continuity-$(n)); do \
	  $(DEV)/bin/uv pip compile -q $${f%%:*}.in --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-emit-find-links --no-header --upgrade -o requirements/$${f##*:}.txt; done

clean:  ## remove environments, caches and build results
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
