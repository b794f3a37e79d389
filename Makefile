# One verb per habit; `make` alone lists them. Every verb does its own set-up on a machine with Python 3.11+, pip and make.
PYTHON ?= python3
RUN    := .venv/run
DEV    := .venv/dev
FUZZ   := .venv/fuzz
BENCH  := .venv/bench
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help run doctor test test-faults conformance check fmt lint types fuzz demo bench docs k8s-validate lock clean

help:  ## list the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

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

test: $(DEV)/.stamp  ## run the tests
	@$(DEV)/bin/python -m pytest

# A network and mounts of their own, so that no rule touches the machine's. The tests run on asyncio, the relays that they start on uvloop.
test-faults: $(DEV)/.stamp  ## run the tests of networks that fail; needs root
	@[ "$$(id -u)" = 0 ] || { echo "test-faults needs root: it makes a network of its own" >&2; exit 2; }
	@command -v ip >/dev/null && command -v iptables >/dev/null || \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends iproute2 iptables
	@unshare --net --mount -- sh -c 'ip link set lo up && TEST_FAULTS=1 TEST_LOOP=asyncio exec $(DEV)/bin/python -m pytest tests/namespaces -p no:cacheprovider'

# wstest is made ready on its first run, in ~/.cache/realtime-relay; without a Python 2.7 here that takes root and three minutes.
conformance: $(DEV)/.stamp  ## Autobahn's WebSocket test suite on both sides of the relay; ARGS="--short" and others are passed on
	@$(DEV)/bin/python -m tests.conformance $(ARGS)

check: $(DEV)/.stamp  ## everything that CI checks: format, lint, types, tests
	@$(DEV)/bin/ruff format --check .
	@$(DEV)/bin/ruff check .
	@$(DEV)/bin/mypy
	@$(DEV)/bin/python -m pytest

fmt: $(DEV)/.stamp  ## format the code and apply safe fixes
	@$(DEV)/bin/ruff check --fix-only -q .
	@$(DEV)/bin/ruff format -q .

lint: $(DEV)/.stamp  ## format check, lint and types, without the tests
	@$(DEV)/bin/ruff format --check .
	@$(DEV)/bin/ruff check .
	@$(DEV)/bin/mypy

k8s-validate: $(DEV)/.stamp  ## render the Kubernetes manifests and hold them against kubernetes-validate and checkov
	@$(DEV)/bin/python -m tests.artefacts.validate_k8s

fuzz: $(FUZZ)/.stamp  ## a million inputs for the frame scanner, guided by coverage; ARGS="events --runs 100000" and others are passed on
	@$(FUZZ)/bin/python -m fuzz $(or $(ARGS),scanner)

demo: $(DEV)/.stamp  ## a recorded voice through relay and simulator, with the official SDK
	@$(DEV)/bin/python -m tests.demo

bench: $(RUN)/.stamp $(BENCH)/.stamp $(if $(findstring --short,$(ARGS)),,$(BENCH)-litellm/.stamp)  ## measure the relay against other proxies, in half an hour; ARGS="--short" and others are passed on
	@$(BENCH)/bin/python -m bench $(ARGS)

docs: $(DEV)/.stamp  ## write the generated documents again (settings, failures, numbers in the manifests)
	@$(DEV)/bin/python -m tests.generate

lock: $(DEV)/.stamp  ## resolve and hash the lock files again from pyproject.toml
	@$(DEV)/bin/python -m pip install -q --disable-pip-version-check uv
	@for f in runtime: dev:--extra=dev; do \
	  $(DEV)/bin/uv pip compile -q pyproject.toml $${f#*:} --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-emit-find-links --no-header --upgrade -o requirements/$${f%%:*}.txt; done
	@for f in bench/requirements:bench bench/litellm:bench-litellm fuzz/requirements:fuzz k8s/requirements:k8s; do \
	  $(DEV)/bin/uv pip compile -q $${f%%:*}.in --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-emit-find-links --no-header --upgrade -o requirements/$${f##*:}.txt; done

clean:  ## remove what the verbs above made
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
