# Every target does its own set-up. PYTHON=/path/to/python3.12 picks the interpreter, ARGS="..." goes to what a target runs.
VENV = .venv
RUN = $(VENV)/bin/python -m
UV = $(shell uv --version >/dev/null 2>&1 && echo uv || echo .uv/bin/uv)

# Many small models on few cores: one thread a process, and as many processes as cores.
PYTEST = OMP_NUM_THREADS=1 $(RUN) pytest -n auto --maxprocesses 4 --dist loadfile

PYTHONS = python3.11 python3.12 python3.13

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-full test-all lint bench campaign constraints clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## system packages for FFCV, .venv and the project in it (PYTHON=... picks the interpreter)
	@VENV=$(VENV) bash packaging/setup.sh

demo: setup ## the whole way on small real images: teacher, scores, selection, students
	@$(RUN) prune_toolkit.demo

test: setup ## the tests, in a few minutes (ARGS="-k beton" picks some)
	@$(PYTEST) -m "not slow" $(ARGS)

test-slow: setup ## the tests that make test leaves out
	@$(PYTEST) -m slow $(ARGS)

test-full: setup ## both, and an error if they run too little of the code
	@$(PYTEST) --cov $(ARGS)

test-all: ## make test with Python 3.11, 3.12 and 3.13, each in a .venv-3.X of its own (PYTHONS="..." picks others)
	@set -e; for python in $(PYTHONS); do echo "== $$python"; \
	  $(MAKE) --no-print-directory test PYTHON=$$python VENV=.venv-$${python##*python}; done

lint: setup ## ruff and mypy
	@$(RUN) ruff check
	@$(RUN) ruff format --check
	@$(RUN) mypy

bench: setup ## the measurements in benchmarks/, one after the other
	@set -e; for script in $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py)); do \
	  echo "== $$script"; $(VENV)/bin/python $$script; done

campaign: setup ## faults against every command, in half an hour (ARGS="--moments 2" is quicker, ARGS=--help)
	@PYTHONPATH=$(CURDIR)/tests:$(CURDIR)/tests/support $(RUN) campaign $(ARGS)

constraints: setup ## constraints.txt made anew from pyproject.toml (ARGS=--upgrade for the newest versions)
	@PKG_CONFIG_PATH=$(CURDIR)/packaging/opencv4 $(UV) pip compile pyproject.toml --quiet --all-extras --universal --no-header \
	  --no-annotate --no-emit-index-url --no-emit-find-links --output-file constraints.txt $(ARGS)

clean: ## removes all that was made here: .venv and .venv-3.X, .uv, caches, demo/
	rm -rf .venv .venv-3.* .uv demo dist build .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
