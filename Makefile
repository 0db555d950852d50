# make setup    the environment: .venv with the package and the framework that suits this machine
# make demo     set-up, then a short study on offline text; again: it continues
# make test     set-up with both frameworks, then every test that is not slow
# make slow     the tests that take minutes
# make chaos    nights that are killed, starved and robbed, 500 signals and more
# make browser  the dashboard's tests in a real Chromium, which it installs where there is none
# make check    lint, types, generated docs, links
# make docs     writes the pages of docs/ that are made from help texts, the recipe's keys and measurements
# make clean    removes .venv and tool caches; never studies, never prepared data
#
# PYTHON=python3.13   which Python makes the environment (3.11 or newer)
# TORCH_INDEX=URL     where a new .venv takes torch from, for another build than the default (see README)

ifeq ($(OS),Windows_NT)
$(error autoresearch runs on Linux, macOS and WSL2, not on native Windows. Run "wsl --install" in PowerShell, \
  open its shell, clone there and run make again)
endif

export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_NO_INPUT = 1

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$name" -c "$(NEW_ENOUGH)" 2>/dev/null && echo "$$name" && break; done)

.PHONY: setup demo test slow chaos browser check docs clean help
.NOTPARALLEL:
.DEFAULT_GOAL := help

help:
	@sed -n '/^ifeq/q; s/^# \{0,1\}//p' Makefile

setup: $(VENV)/.setup
	@echo "Ready: $(BIN)/ar --help   (or: source $(BIN)/activate, then ar --help)"

demo: $(VENV)/.setup
	@$(BIN)/ar demo

test: $(VENV)/.dev
	@echo "Running the tests"
	@$(BIN)/python -m pytest -q -m "not slow"

slow: $(VENV)/.dev
	@echo "Running the slow tests"
	@$(BIN)/python -m pytest -q -m slow

chaos: $(VENV)/.dev
	@echo "Hurting nights (CHAOS_SIGNALS=$(or $(CHAOS_SIGNALS),500))"
	@$(BIN)/python -m pytest -q tests/chaos tests/loop/test_killed.py

browser: $(VENV)/.dev
	@echo "Installing playwright, and a Chromium where there is none"
	@$(PIP) install -c constraints.txt -e ".[browser]"
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || $(BIN)/python -m playwright install chromium
	@AUTORESEARCH_BROWSER=1 $(BIN)/python -m pytest -q tests/dashboard/test_browser.py

check: $(VENV)/.dev
	@echo "Checking lint"
	@$(BIN)/ruff check --quiet
	@echo "Checking types"
	@$(BIN)/mypy --no-error-summary
	@echo "Checking docs"
	@$(BIN)/python docs/generate.py --check

docs: $(VENV)/.dev
	@$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find autoresearch backends tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp holds the folder it was made in: scripts of an environment that was moved, or that lost
# its Python to an upgrade, don't work, and it is made anew. One that works is kept.
ifneq ($(shell $(BIN)/python -c "" 2>/dev/null && cat $(VENV)/.python 2>/dev/null),$(CURDIR))
.PHONY: $(VENV)/.python
endif
$(VENV)/.python:
	@"$(or $(PYTHON),python3)" -c "$(NEW_ENOUGH)" 2>/dev/null || { \
		echo "error: autoresearch needs Python 3.11 or newer; $(or $(PYTHON),python3) is $$("$(or $(PYTHON),python3)" --version 2>/dev/null || echo missing)"; \
		echo "  Install one, or name it: make setup PYTHON=/path/to/python3.12"; exit 1; } >&2
	@echo "Making $(VENV) with $$("$(PYTHON)" --version)"
	@"$(PYTHON)" -m venv --clear $(VENV) || { rm -rf $(VENV); \
		echo "error: $(PYTHON) can't make a virtual environment"; \
		echo "  On Debian and Ubuntu: sudo apt install python3-venv. Else name another: make setup PYTHON=..."; exit 1; } >&2
	@echo "$(CURDIR)" > $@

$(VENV)/.setup: pyproject.toml constraints.txt $(VENV)/.python
	@echo "Installing autoresearch and its framework (a minute or more)"
	@if [ -n "$(TORCH_INDEX)" ]; then $(PIP) install --no-deps --index-url "$(TORCH_INDEX)" -c constraints.txt torch; fi
	@$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.setup
	@echo "Installing the test tools and the other framework"
	@$(PIP) install -c constraints.txt -e ".[dev,mlx,test,torch]"
	@touch $@
