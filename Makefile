# Two commands do everything on a machine with Python 3.11: `make quickstart` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
# Stages of the quickstart that run at once, one thread each, and its copies with other seeds.
JOBS ?= 2
SEEDS ?= 1

.PHONY: quickstart test check fast clean

quickstart: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/slowthink run recipes/quickstart --jobs $(JOBS) --seeds $(SEEDS)
	$(BIN)/slowthink show runs/quickstart

test: check
	$(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

fast: .venv/installed
	$(BIN)/pytest -m "not slow"

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "slowthink needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv runs
