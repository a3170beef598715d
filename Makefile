# Two commands do everything on a fresh machine: `make run` and `make test`.
# They need Python 3.11 or later, and the package registries for the first time.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOCK := requirements/dev.lock
GRPCURL_VERSION := v1.9.4
# Two processes a core: the tests wait for servers much of the time.
JOBS ?= 4

.DEFAULT_GOAL := help
.PHONY: help setup run test lint format proto lock tools proof clean

help: ## Show this help
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

setup: $(STAMP) ## Make the virtual environment

$(STAMP): $(LOCK) pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCK)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: setup ## Run everything on this machine: databases, service, edge
	@exec $(BIN)/pourtier dev

# Every worker would compile the tests anew on a machine that keeps no bytecode. What is
# tested from outside is not measured: coverage costs half as much again, and shows less.
# Nor is what is marked `no_cover`, which runs what others run.
test: export PYTHONDONTWRITEBYTECODE =
test: setup ## Run every test on real servers, with coverage
	$(BIN)/coverage erase
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --cov --cov-report= tests/unit tests/integration $(ARGS)
	$(BIN)/coverage report
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal tests/e2e $(ARGS)

proof: setup ## Run the long versions of the tests: thousands of rounds
	$(BIN)/python -m pytest -m proof --proof $(ARGS)

lint: setup ## Check format, lint, types, layers, and the contract
	$(BIN)/ruff format --check src tests
	$(BIN)/ruff check src tests
	$(BIN)/mypy src tests
	$(BIN)/lint-imports
	$(BIN)/python -m pourtier_grpc.devtools.contract --check
	$(BIN)/python -m pourtier_grpc.devtools.edge --check

format: setup ## Format the code
	$(BIN)/ruff check --fix-only --quiet src tests
	$(BIN)/ruff format src tests

proto: setup ## Generate gen/ and envoy.yaml from protos/
	$(BIN)/python -m pourtier_grpc.devtools.contract
	$(BIN)/python -m pourtier_grpc.devtools.edge

lock: setup ## Pin every dependency anew, with hashes
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" --quiet --upgrade -o requirements/runtime.lock
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" --quiet --upgrade --constraint requirements/runtime.lock -o requirements/dev.lock

tools: .tools/grpcurl ## Build grpcurl into .tools (needs Go)

.tools/grpcurl:
	GOBIN=$(CURDIR)/.tools GOFLAGS=-trimpath go install github.com/fullstorydev/grpcurl/cmd/grpcurl@$(GRPCURL_VERSION)

clean: ## Remove what was built; keeps the data of `make run`
	rm -rf $(VENV) .build .tools .coverage* .pytest_cache .mypy_cache .ruff_cache
