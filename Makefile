# `make bench` and `make test` each begin on a bare machine: everything they need is set up first, once.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# one thread a process: ranks are the parallelism here, and timings must not depend on who else computes
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup horovod bench microbench test lint clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

setup:  ## .venv with the pinned wheels, Open MPI, and Horovod built against this torch
	@$(PYTHON) .ci/setup.py

horovod:  ## build Horovod again, after a missing tool was installed
	@$(PYTHON) .ci/setup.py --horovod

bench: setup  ## compare every engine on this machine: tables, figures and one page under results/
	@$(VENV)/bin/ringzero compare quick

microbench: setup  ## pytest-benchmark: collectives and steps, engine by engine
	@$(RUN) -m pytest --benchmark-only

test: setup  ## every test
	@$(RUN) tests/lanes.py

lint: setup  ## ruff and mypy
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy

clean:  ## remove .venv and caches; results and the kept Horovod wheel stay
	@rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .tox build *.egg-info
	@find . -name __pycache__ -prune -exec rm -rf {} +
