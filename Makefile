# Every target does its own set-up. PYTHON=/path/to/python3.12 picks the interpreter, ARGS="..." goes to pytest.
RUN = .venv/bin/python -m
UV = $(shell uv --version >/dev/null 2>&1 && echo uv || echo .uv/bin/uv)

# Many small models on few cores: one thread a process, and as many processes as cores.
PYTEST = OMP_NUM_THREADS=1 $(RUN) pytest -n auto --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-full lint bench constraints clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## system packages for FFCV, .venv and the project in it (PYTHON=... picks the interpreter)
	@bash packaging/setup.sh

demo: setup ## the whole way on small real images: teacher, scores, selection, students
	@$(RUN) prune_toolkit.demo

test: setup ## the tests, in a few minutes (ARGS="-k beton" picks some)
	@$(PYTEST) -m "not slow" $(ARGS)

test-full: setup ## all tests, the slow ones as well
	@$(PYTEST) $(ARGS)

lint: setup ## ruff and mypy
	@$(RUN) ruff check
	@$(RUN) ruff format --check
	@$(RUN) mypy

bench: setup ## the measurements in benchmarks/, one after the other
	@set -e; for script in $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py)); do \
	  echo "== $$script"; .venv/bin/python $$script; done

constraints: setup ## constraints.txt made anew from pyproject.toml (ARGS=--upgrade for the newest versions)
	@PKG_CONFIG_PATH=$(CURDIR)/packaging/opencv4 $(UV) pip compile pyproject.toml --quiet --all-extras --universal --no-header \
	  --no-annotate --no-emit-index-url --no-emit-find-links --output-file constraints.txt $(ARGS)

clean: ## removes all that was made here: .venv, .uv, caches, demo/
	rm -rf .venv .uv demo dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
