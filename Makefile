# Reeltune. Every target sets up what it needs; `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
NAME ?= all
MINUTES ?= 30
SEED ?=
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
.DEFAULT_GOAL := help
.PHONY: help demo up test e2e lint format gen gen-check bench soak constraints clean

help: ## List the targets
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | while IFS='|' read -r t d; do printf '  make %-12s %s\n' "$$t" "$$d"; done

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Reeltune needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V). Try: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing. On Debian or Ubuntu: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }

# The stamps: `local` is what a user runs, `dev` adds what the tests and tools need, `bench` what the benchmarks compare with.
$(VENV)/.local: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Reeltune into $(VENV) (several GB with PyTorch; a few minutes the first time) ..."
	@$(BIN)/pip install --quiet -c constraints.txt -e '.[local]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Reeltune and its development tools into $(VENV) (several GB with PyTorch; a few minutes the first time) ..."
	@$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.local

$(VENV)/.bench: pyproject.toml constraints.txt | $(VENV)/.dev
	@echo "Installing what the benchmarks compare with into $(VENV) ..."
	@$(BIN)/pip install --quiet -c constraints.txt -e '.[bench]'
	@touch $@

tools/ts/node_modules/.package-lock.json: tools/ts/package-lock.json | $(VENV)/.dev
	@npm --prefix tools/ts ci --no-audit --no-fund --silent

demo: $(VENV)/.local ## Train a real QLoRA adapter through the whole mesh, on this machine, and check it
	@reeltune demo

up: $(VENV)/.local ## Run the whole mesh on this machine until Ctrl-C
	@reeltune up

test: lint gen-check ## Check everything: types, style, contracts, then all tests
	@pytest -q

e2e: $(VENV)/.dev tools/ts/node_modules/.package-lock.json ## Run only the end-to-end tests
	@pytest -q tests/e2e

lint: $(VENV)/.dev ## Check style, types, imports between packages, and the contracts
	@ruff check .
	@ruff format --check .
	@lint-imports --no-cache --no-logo
	@mypy
	@buf lint
	@tools/check_breaking.sh

format: $(VENV)/.dev ## Rewrite the sources in the one style
	@ruff check --fix .
	@ruff format .
	@buf format -w proto

gen: $(VENV)/.dev tools/ts/node_modules/.package-lock.json ## Regenerate gen/ from proto/
	@tools/generate.sh

gen-check: gen ## Fail when gen/ is not what proto/ generates
	@git diff --exit-code --stat gen || { echo "gen/ is stale: run 'make gen' and commit the result."; exit 1; }
	@test -z "$$(git ls-files --others --exclude-standard gen)" || { echo "gen/ has files that are not committed:"; git ls-files --others --exclude-standard gen; exit 1; }

bench: $(VENV)/.bench ## Run the benchmarks (NAME=rpc_edge for one) and write docs/benchmarks.md
	@python -m benchmarks $(NAME)

soak: $(VENV)/.dev ## Random traffic under random faults for MINUTES (30), from SEED or a new one, checked to the last event
	@python -m tests.faults.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

constraints: $(VENV)/.bench ## Record the installed versions as the tested set
	@{ head -1 constraints.txt; $(BIN)/pip freeze --exclude-editable | sort -f; } > constraints.new && mv constraints.new constraints.txt

clean: ## Remove what the targets made, the virtual environment included
	@rm -rf $(VENV) tools/ts/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis
