# Foyer: every verb. `make help` lists them.
PYTHON ?= python3
RUN := .venv/bin/python
PACKAGES := chassis services gateway tools tests bench
ATTEMPTS ?= 100000
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup up test check format protos bench race fault lock clean

help: ## List the verbs
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: ## Make .venv and gen/ from the lock (done by the others when needed)
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not there: install Python 3.11 or newer, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, $(PYTHON) is `$(PYTHON) --version 2>&1`; name another one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) tools/setup.py

up: setup ## Run the whole platform here until Ctrl-C (FOYER_HOME, FOYER_PORT_BASE)
	@exec $(RUN) -m tools.up

test: setup ## Run all tests (TESTS="tests/unit -k money" for some)
	@exec $(RUN) -m pytest $(TESTS)

check: setup ## Check format, lint, types, contract and tidiness
	@$(RUN) -m tools.check

format: setup ## Bring the code into the one format
	@$(RUN) -m ruff format . && $(RUN) -m ruff check --fix-only --quiet .

protos: setup ## Generate gen/ and the API's documents in docs/ from protos/ anew
	@$(RUN) -m tools.protos --force && $(RUN) -m tools.documents

bench: setup ## Measure speed and size beside their floors
	@exec $(RUN) -m bench

race: setup ## 100,000 racing attempts at the same people, rooms and seats (ATTEMPTS=10000 for fewer)
	@exec $(RUN) -m tests.race --attempts $(ATTEMPTS)

fault: setup ## Kill services, NATS and PostgreSQL under load and check what is left, at length
	@exec $(RUN) -m pytest tests/fault --long $(TESTS)

lock: setup ## Resolve requirements.in to the newest versions
	@$(PYTHON) tools/setup.py lock && $(PYTHON) tools/setup.py

clean: ## Delete what was made here, except data in var/
	@rm -rf .venv .foyer gen .mypy_cache .pytest_cache .ruff_cache .hypothesis
