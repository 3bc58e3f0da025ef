# make bench   measure the documents' functions, show the table, write results/report/report.html
# make test    run all tests
#
# Both set up a virtual environment in .venv first. PYTHON names the interpreter to build it with.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: bench test clean

bench: $(VENV)/.ready
	$(BIN)/gradbench run --profile quick
	$(BIN)/gradbench report

test: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

# The constraints pin torch to a build without CUDA packages, and all else to what was tested.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,parquet]'
	touch $@

clean:
	rm -rf $(VENV)
