# On a fresh machine with Python 3.11: `make demo` to see it work, `make test` to see it hold.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo demo-reset test lint format bench clean

demo: $(VENV)/demo.stamp
	@$(BIN)/python notebooks/flights.py

demo-reset:
	rm -rf demo

test: lint
	$(BIN)/pytest -q -n auto

lint: $(VENV)/test.stamp
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

format: $(VENV)/test.stamp
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: $(VENV)/test.stamp
	@$(BIN)/python -m tests.benchmarks $(BENCH)

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache

# A stamp per extra: installing again takes seconds, looking at a stamp none.
$(VENV)/%.stamp: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "unbounded needs Python 3.11 or newer; write: make PYTHON=/path/to/python3.11 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing unbounded[$*] into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@
