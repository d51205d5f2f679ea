# Headrace's tasks. `make help` lists them; each does its own set-up and is safe to run again.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLUSTER := PYTHONPATH=tests $(BIN)/python -m cluster

help: ## List the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

# The stamp makes set-up a no-op until a lock or the project's own metadata changes.
$(VENV)/.stamp: locks/dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r locks/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

venv: $(VENV)/.stamp ## Make the virtual environment with all locked dependencies.

lock: ## Resolve the dependencies anew and write locks/ (hashes, no addresses).
	./locks/update

.PHONY: help venv lock
