# make train · make test · make check · make bench; each makes the environment first if it is not there.
PYTHON ?= $(shell command -v python3.11 || command -v python3 || command -v python)
BIN := .venv/bin

.PHONY: train test slow check bench
.DEFAULT_GOAL := train

train: .venv/ready ## a first run of the main job, in minutes
	$(BIN)/python train.py experiment=first

test: .venv/ready ## the quick tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

slow: .venv/ready ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

check: .venv/ready ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/ready ## what things cost, as ratios measured side by side
	$(BIN)/python -m benchmarks

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@
