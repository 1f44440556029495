# Everything starts here: `make help` lists the targets. The first call sets up what it needs; later calls find it done.
#
# Needed on the machine: make and CPython 3.11 or newer with its venv module. Another interpreter: PYTHON=python3.13 make test

SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
SAM_VENV := .venv-sam
CHECKOV_VENV := .venv-checkov
BIN := $(VENV)/bin
ARCH ?= arm64
BRIDGE ?= 172.17.0.1
export PYTHON
# They would add other people's packages to the locked ones.
unexport PYTHONHOME PYTHONPATH

.PHONY: help setup run serve test lint format types imports template publish runtime-test env bridge bench teardown smoke lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.packages: requirements/bootstrap.txt requirements/dev.txt requirements/index.sh requirements/install
	@requirements/install $(VENV) requirements/dev.txt
	@touch $@

$(VENV)/.ready: $(VENV)/.packages pyproject.toml
	@echo ">> installing the project itself, editable"
	@$(BIN)/uv pip install --quiet --offline --python $(BIN)/python --no-build-isolation --no-deps --editable .
	@touch $@

$(SAM_VENV)/.ready: requirements/bootstrap.txt requirements/sam.txt requirements/index.sh requirements/install
	@requirements/install $(SAM_VENV) requirements/sam.txt
	@touch $@

$(CHECKOV_VENV)/.ready: requirements/bootstrap.txt requirements/checkov.txt requirements/index.sh requirements/install
	@requirements/install $(CHECKOV_VENV) requirements/checkov.txt
	@touch $@

setup: $(VENV)/.ready ## Install the locked packages and the project into .venv

# What a person types reaches the shell as it is, through the environment: no quote or dollar sign in a question breaks a command.
run: export FOLDER := $(value PROJECT)
run: export QUESTION := $(value ASK)
unexport PROJECT ASK

# `exec`: the signal that ends make's recipe must reach the stack, not a shell in front of it.
run: $(VENV)/.ready ## Try it: PROJECT=folder ASK="question" [ONCE=1]
	@exec $(BIN)/worker-space run $(if $(value PROJECT),--project "$$FOLDER") $(if $(value ASK),--ask "$$QUESTION") $(if $(ONCE),--once)

serve: $(VENV)/.ready ## Start the whole stack on this machine (WORKER_SPACE_PORT, WORKER_SPACE_DATA_DIR)
	@exec $(BIN)/worker-space serve

test: $(VENV)/.ready ## Run the tests with the branch coverage gate (ARGS="-k name" adds arguments)
	@rm -f .coverage .coverage.*
	@$(BIN)/python -m pytest --numprocesses auto --dist loadfile --cov --cov-report=term $(ARGS)

lint: $(VENV)/.ready ## Check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(VENV)/.ready ## Put the code into its format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(VENV)/.ready ## Check types, strictly
	@$(BIN)/mypy

imports: $(VENV)/.ready ## Check which module may import which
	@$(BIN)/lint-imports

template: $(VENV)/.ready $(SAM_VENV)/.ready $(CHECKOV_VENV)/.ready ## Check the templates, build functions and layers, check their size (ARCH=arm64|x86_64)
	@pip="$(BIN)/python -m pip"; . requirements/index.sh; exec $(BIN)/python infra/check.py --sam-bin $(SAM_VENV)/bin --checkov $(CHECKOV_VENV)/bin/checkov --architecture $(ARCH)

publish: $(VENV)/.ready ## After a deployment that changed parameters only: bring them to the alias (STACK=worker-space)
	@exec $(BIN)/python infra/publish.py --stack $(or $(STACK),worker-space)

runtime-test: $(VENV)/.ready $(SAM_VENV)/.ready ## Build for this machine and try that by Lambda's own runtime client (ARGS="-k name" adds arguments)
	@pip="$(BIN)/python -m pip"; . requirements/index.sh; exec $(BIN)/python -m infra.runtime --sam-bin $(SAM_VENV)/bin --uv $(BIN)/uv $(ARGS)

env: $(VENV)/.ready ## Write env.json, for `sam local --env-vars`, from the running stack (BRIDGE=address of Docker's bridge)
	@$(BIN)/python -m worker_space_local.deployed --host $(BRIDGE)

bridge: $(VENV)/.ready ## Let the containers of `sam local` reach the running stack, until Ctrl-C
	@exec $(BIN)/python -m worker_space_local.bridge --host $(BRIDGE)

bench: $(VENV)/.ready ## Measure the speed goals on this machine
	@$(BIN)/python -m tests.bench

# STACK, PREFIX, API and the tokens reach them through the environment, as make passes on what stands on its command line.
teardown: $(VENV)/.ready ## Tell what a deployment made while it ran, and with YES=1 remove it (STACK=name | PREFIX=ws)
	@exec $(BIN)/python -m infra.teardown --stack "$${STACK-}" --prefix "$${PREFIX-}" $(if $(filter 1,$(YES)),--yes)

smoke: $(VENV)/.ready ## Try a deployed stack by HTTP (STACK=name | API=https://…, TOKEN_A=…, TOKEN_B=…)
	@exec $(BIN)/python -m tests.smoke

lock: $(VENV)/.ready ## Resolve the locks again (UPGRADE=1 takes newer versions)
	@UPGRADE=$(UPGRADE) requirements/compile $(VENV)

clean: ## Remove everything that make made, but not .local, which holds your projects
	rm -rf $(VENV) $(SAM_VENV) $(CHECKOV_VENV) .aws-sam .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis env.json
	find functions infra layers tests -name __pycache__ -type d -prune -exec rm -rf {} +
