# One verb per habit; `make` alone lists them. Every verb does its own set-up on a machine with Python 3.11+, pip and make.
PYTHON ?= python3
RUN    := .venv/run
DEV    := .venv/dev
FUZZ   := .venv/fuzz
BENCH  := .venv/bench
SUPPLY := .venv/supply
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help run doctor test test-faults conformance e2e-observability e2e-container check fmt lint fuzz demo bench docs \
  monitoring k8s-validate image sbom scan lock clean

help:  ## list the verbs
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-17s %s\n", $$1, $$2}'

# A stamp per environment, newer than the lock file it was built from.
$(RUN)/.stamp: requirements/runtime.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; found " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@$(PYTHON) -m venv --clear $(RUN)
	@$(RUN)/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/runtime.txt
	@touch $@

$(DEV)/.stamp: requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; found " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@$(PYTHON) -m venv --clear $(DEV)
	@$(DEV)/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

$(BENCH)/.stamp: requirements/bench.txt
	@$(PYTHON) -m venv --clear $(BENCH)
	@$(BENCH)/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/bench.txt
	@touch $@

# Its own environment: it pins most of what it uses.
$(BENCH)-litellm/.stamp: requirements/bench-litellm.txt
	@$(PYTHON) -m venv --clear $(BENCH)-litellm
	@$(BENCH)-litellm/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/bench-litellm.txt
	@touch $@

$(SUPPLY)/.stamp: requirements/supply.txt
	@$(PYTHON) -m venv --clear $(SUPPLY)
	@$(SUPPLY)/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/supply.txt
	@touch $@

$(FUZZ)/.stamp: requirements/fuzz.txt
	@$(PYTHON) -m venv --clear $(FUZZ)
	@$(FUZZ)/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/fuzz.txt
	@touch $@

# Without a key the simulator is to stand in, unless somebody has chosen an upstream, in the environment or in a file.
AUTO = grep -qsE '^ *(export +)?RELAY_UPSTREAM *=' .env .env.local || export RELAY_UPSTREAM=$${RELAY_UPSTREAM:-auto}

run: $(RUN)/.stamp  ## serve on 127.0.0.1:8080; without a key the built-in simulator stands in for OpenAI
	@$(AUTO); exec $(RUN)/bin/python -m service serve

doctor: $(RUN)/.stamp  ## find out why it does not connect, rung by rung; ARGS="--turn" and others are passed on
	@$(AUTO); exec $(RUN)/bin/python -m service doctor $(ARGS)

# Most of their time the tests wait for clocks. A file stays with one of the two; more than two would make each other late.
test: $(DEV)/.stamp  ## run the tests
	@$(DEV)/bin/python -m pytest --numprocesses 2 --dist loadfile

# A network and mounts of their own, so that no rule touches the machine's. The tests run on asyncio, the relays that they start on uvloop.
test-faults: $(DEV)/.stamp  ## run the tests of networks that fail; needs root
	@[ "$$(id -u)" = 0 ] || { echo "test-faults needs root: it makes a network of its own" >&2; exit 2; }
	@command -v ip >/dev/null && command -v iptables >/dev/null || \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends iproute2 iptables
	@unshare --net --mount -- sh -c 'ip link set lo up && TEST_FAULTS=1 TEST_LOOP=asyncio exec $(DEV)/bin/python -m pytest tests/namespaces -p no:cacheprovider'

# wstest is made ready on its first run, in ~/.cache/realtime-relay; without a Python 2.7 here that takes root and three minutes.
conformance: $(DEV)/.stamp  ## Autobahn's WebSocket test suite on both sides of the relay; ARGS="--short" and others are passed on
	@$(DEV)/bin/python -m tests.conformance $(ARGS)

# The programs come from Debian's packages; they are installed where this is root, else unpacked beside.
e2e-observability: $(DEV)/.stamp  ## every alert by its real cause on a real Prometheus and Alertmanager; every panel's query
	@status=0; $(DEV)/bin/python -m tests.observability || status=$$?; [ $$status = 0 ] || [ $$status = 3 ]

e2e-container: $(DEV)/.stamp  ## image and compose file in the Docker Engine that `docker` reaches; says so where there is none
	@status=0; $(DEV)/bin/python -m tests.e2e.container $(ARGS) || status=$$?; [ $$status = 0 ] || [ $$status = 3 ]

check: $(DEV)/.stamp  ## everything that CI checks: format, lint, types, tests
	@$(DEV)/bin/ruff format --check .
	@$(DEV)/bin/ruff check .
	@$(DEV)/bin/mypy
	@$(DEV)/bin/python -m pytest --numprocesses 2 --dist loadfile

fmt: $(DEV)/.stamp  ## format the code and apply safe fixes
	@$(DEV)/bin/ruff check --fix-only -q .
	@$(DEV)/bin/ruff format -q .

lint: $(DEV)/.stamp  ## format check, lint and types, without the tests
	@$(DEV)/bin/ruff format --check .
	@$(DEV)/bin/ruff check .
	@$(DEV)/bin/mypy

monitoring: $(DEV)/.stamp  ## rules and dashboards into build/, with links to the runbooks at RUNBOOKS=https://...
	@$(DEV)/bin/python -m monitoring.render $(if $(RUNBOOKS),--runbooks $(RUNBOOKS)) --into build

k8s-validate: $(DEV)/.stamp  ## render the Kubernetes manifests and hold them against kubernetes-validate and checkov
	@$(DEV)/bin/python -m tools.validate_k8s

fuzz: $(FUZZ)/.stamp  ## a million inputs for the frame scanner, guided by coverage; ARGS="events --runs 100000" and others are passed on
	@$(FUZZ)/bin/python -m fuzz $(or $(ARGS),scanner)

demo: $(DEV)/.stamp  ## a recorded voice through relay and simulator, with the official SDK
	@$(DEV)/bin/python -m tools.demo

bench: $(RUN)/.stamp $(BENCH)/.stamp $(if $(findstring --short,$(ARGS)),,$(BENCH)-litellm/.stamp)  ## measure the relay against other proxies, in half an hour; ARGS="--short" and others are passed on
	@$(BENCH)/bin/python -m bench $(ARGS)

docs: $(DEV)/.stamp  ## write what is generated again: settings, failures, rules, dashboards, numbers in the manifests
	@$(DEV)/bin/python -m tools.generate

image:  ## build the image realtime-relay:local; BASE=python:3.11-slim@sha256:... pins what it stands on
	@docker build --build-arg BASE=$(or $(BASE),python:3.11-slim) --build-arg REVISION=$$(git rev-parse HEAD) \
	  --build-arg VERSION=$$(sed -n 's/^__version__.*"\(.*\)"/\1/p' service/version.py) -t realtime-relay:local .

# What the image holds is what the lock says, so that no engine is needed to list it.
sbom: $(SUPPLY)/.stamp  ## write sbom.json, the bill of materials of the image's Python packages (CycloneDX)
	@$(PYTHON) -m venv --clear --without-pip $(SUPPLY)/image
	@$(SUPPLY)/bin/python -m pip --python $(SUPPLY)/image/bin/python install -q --require-hashes --no-deps --only-binary=:all: \
	  -r requirements/runtime.txt
	@$(SUPPLY)/bin/cyclonedx-py environment $(SUPPLY)/image/bin/python --pyproject pyproject.toml --mc-type application \
	  --output-reproducible --of JSON -o sbom.json
	@echo "wrote sbom.json"

scan: $(SUPPLY)/.stamp  ## look for known vulnerabilities; fails where the database cannot be asked
	@$(SUPPLY)/bin/python -m tools.scan

lock: $(DEV)/.stamp  ## resolve and hash the lock files again from pyproject.toml
	@$(DEV)/bin/python -m pip install -q --disable-pip-version-check uv
	@for f in runtime: dev:--extra=dev; do \
	  $(DEV)/bin/uv pip compile -q pyproject.toml $${f#*:} --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-emit-find-links --no-header --upgrade -o requirements/$${f%%:*}.txt; done
	@for f in bench/requirements:bench bench/litellm:bench-litellm fuzz/requirements:fuzz k8s/requirements:k8s requirements/supply:supply; do \
	  $(DEV)/bin/uv pip compile -q $${f%%:*}.in --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-emit-find-links --no-header --upgrade -o requirements/$${f##*:}.txt; done

clean:  ## remove what the verbs above made
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
