# Everything runs in .venv, built from pyproject.toml and constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
# the tests of a file that share a run stay together
TEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadgroup

.PHONY: venv demo check test parity lint bench docs wheel format clean

venv: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ivfast needs Python 3.11 or newer: make PYTHON=python3.11 venv")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: venv
	$(BIN)/python -m ivfast.demo --save_path demo_out

check: lint
	$(TEST) -m 'not whole_run and not parity'

test: venv
	$(TEST)

parity: venv
	$(BIN)/python -m pytest parity_tests -q --durations=0

lint: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: venv
	$(BIN)/python -m benchmarks.main_job

docs: venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

wheel: venv
	PYTHON=$(BIN)/python .ci/wheel.sh

clean:
	rm -rf .venv demo_out site build *.egg-info
