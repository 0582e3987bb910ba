# make train · make test · make slow · make check · make bench · make weights: each creates the environment first if it is missing.
PYTHON ?= $(shell command -v python3.11 || command -v python3 || command -v python)
BIN := .venv/bin

.PHONY: train test slow check bench weights
.DEFAULT_GOAL := train

train: .venv/ready ## train the default task for about a minute
	$(BIN)/python train.py experiment=quickstart

test: .venv/ready ## the tests, in parallel
	$(BIN)/python -m pytest -n 2 --dist worksteal

slow: .venv/ready ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

check: .venv/ready ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/ready ## costs, as ratios measured side by side
	$(BIN)/python -m benchmarks

weights: .venv/ready ## train the weights that come with the package again, in about an hour
	$(BIN)/python -m patchwork.export.shipped

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@
