# Headrace's tasks. `make help` lists them; each does its own set-up and is safe to run again.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CLUSTER := PYTHONPATH=tests $(BIN)/python -m cluster

check: lint ## What to run before each commit: lint, and the unit tests.
	$(BIN)/pytest -q tests/unit

demo: $(READY) ## The story: 3,000 jobs, a pool that goes 0 -> n -> 0; on a real Kubernetes where containers can run.
	PYTHONPATH=tests $(BIN)/python -m demo

test: $(READY) ## All tests but the end-to-end ones.
	./tests/setup-machine
	$(CLUSTER) build kubernetes helm
	$(BIN)/pytest -m 'not e2e' --durations=10

test-postgres-versions: $(READY) ## The queue's tests on PostgreSQL 14 to 18, fetched by Maven.
	./tests/setup-machine
	./tests/postgres-versions

soak: $(READY) ## Jobs under fire for MINUTES (10): workers, PostgreSQL and Redis are killed, and every job is accounted for.
	./tests/setup-machine
	PYTHONPATH=tests $(BIN)/python -m soak --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

# Outside of pytest, which would hide the progress of minutes; the tests then use what is there.
e2e: $(READY) ## The end-to-end tests, on the kind cluster.
ifneq ($(HEADRACE_E2E_USE_KUBECONFIG),1)
e2e: export KUBECONFIG := build/kubeconfig
e2e: export HEADRACE_E2E_USE_KUBECONFIG := 1
e2e: deploy
endif
e2e:
	$(BIN)/pytest -m e2e --durations=10 tests/e2e

# Not in `make test`: figures need a machine with nothing else to do.
bench: $(READY) ## Queue and worker beside their peers: twenty minutes, docs/benchmarks.md. ONLY=ID measures one, LIST=1 names them, RESUME=1 goes on.
	./tests/setup-machine
	PYTHONPATH=tests $(BIN)/python -m benchmarks $(if $(LIST),--list) $(if $(RESUME),--resume) $(foreach id,$(ONLY),--only $(id))

bench-operator: $(READY) ## What the operator costs, in about 25 minutes: docs/benchmarks-operator.md. SIZE=100 is smaller, ONLY=ID measures one.
	PYTHONPATH=tests:operator:worker $(BIN)/python -m operator_bench $(if $(SIZE),--size $(SIZE)) $(foreach id,$(ONLY),--only $(id))

lint: $(READY) ## Style, types, import contracts, shell scripts.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shellcheck .ci/run tests/setup-machine tests/postgres-versions tests/cluster/postgres/entrypoint locks/update

format: $(READY) ## Mend what the linter can mend.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

cluster: $(READY) ## The kind cluster alone; its kubeconfig is build/kubeconfig.
	$(CLUSTER) up

cluster-down: $(READY) ## Delete the cluster; nothing is left running.
	$(CLUSTER) down

images: $(READY) ## The images, in the local Docker.
	$(CLUSTER) images

deploy: $(READY) ## The cluster with our images in it and the chart installed.
	$(CLUSTER) deploy

venv: $(READY) ## The virtual environment with all locked dependencies.

# The mark makes set-up a no-op until a lock or the project's own metadata changes.
# Debian's Python comes without venv.
$(READY): locks/dev.txt pyproject.toml
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || ./tests/setup-machine
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r locks/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

generate: $(READY) ## What is made from crds/ and the settings: the chart's copies and the reference.
	$(BIN)/python charts/sync-crds
	$(BIN)/python docs/generate-reference

lock: ## Resolve the dependencies anew and write locks/ (hashes, no addresses).
	./locks/update

clean: ## Remove what was built here. Compiled tools stay in the user's cache.
	rm -rf build dist $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

help: ## List the targets.
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 26

.PHONY: check demo test test-postgres-versions soak e2e bench bench-operator lint format cluster cluster-down images deploy venv generate lock clean help
