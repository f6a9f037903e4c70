# `make quickstart` and `make test` are all a newcomer needs: each makes .venv where there is none, installs, does its job.
# With another Python: make test PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
# One process for each core, and one thread for each process.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile
VERSION_CHECK := import sys; sys.exit(sys.version_info < (3, 11))

.PHONY: quickstart test test-slow torture check clean

quickstart: .venv/installed
	$(BIN)/featcache run quickstart

test: .venv/installed-dev
	$(PYTEST) -m "not slow and not torture"

test-slow: .venv/installed-dev
	$(PYTEST) -m slow

# Kills, faults, flips, fuzzing: hours on two cores. A part of it, in minutes: make torture SCALE=0.01
SCALE ?= 1
torture: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/torture -m torture -n auto --scale $(SCALE)

check: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist

# The stamps are newer than pyproject.toml once what it asks for is installed.
.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check -e .
	@touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	@touch .venv/installed $@

.venv/bin/python:
	@$(PYTHON) -c '$(VERSION_CHECK)' 2>/dev/null || { \
	  found=$$($(PYTHON) --version 2>/dev/null | head -n 1); \
	  echo "featcache needs Python 3.11 or newer; '$(PYTHON)' is $${found:-not there}." \
	    "Next: make PYTHON=python3.12, or wherever yours is" >&2; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
