# Everything runs in .venv, which the first target that needs it creates. No model hub and no account is needed.

PYTHON ?= $(shell for python in python3.11 python3.12 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
BIN := .venv/bin
# Tests at a time; each takes one core and some 1.5 GB.
JOBS ?= 2
INSTALLED := .venv/.installed

export HF_HUB_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export WANDB_MODE := offline
export DS_ACCELERATOR ?= cpu
# A local Ray would otherwise ask for a token, and write one into the home directory.
export RAY_AUTH_MODE := disabled
export RAY_USAGE_STATS_ENABLED := 0

.DEFAULT_GOAL := help
.PHONY: help demo test check docs test-slow clean

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(INSTALLED)  ## Train, serve and evaluate on the toy world; the result is in runs/demo
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash infra/demo.sh

# Those that start clusters of their own come after the others, one at a time.
test: $(INSTALLED)  ## Run all tests but the slow ones
	@$(BIN)/python -m pytest -q -m "not slow" -n $(JOBS) --dist loadfile tests/unit tests/parity tests/repo
	@$(BIN)/python -m pytest -q -m "not slow" tests/integration tests/e2e

test-slow: $(INSTALLED)  ## Run the slow tests
	@$(BIN)/python -m pytest -q -m slow

check: $(INSTALLED)  ## Check format, lint, types and layers, and run the fast tests
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest -q -m "not slow" -n $(JOBS) --dist loadfile tests/unit tests/repo

docs: $(INSTALLED)  ## Build the documentation's site into build/site
	@$(BIN)/zensical build --clean --strict

clean:  ## Remove .venv, caches, build output and runs/demo
	@rm -rf .venv build dist runs/demo .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .cache
	@find packages tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "nigaoe needs Python 3.11 or later: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing into .venv (some minutes the first time) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --disable-pip-version-check -e ".[dev]" -c constraints.txt >.venv/install.log 2>&1 \
		|| { tail -n 20 .venv/install.log; exit 1; }
	@touch $@
