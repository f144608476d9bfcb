# One line for each thing that people do here; `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-gpu chaos check fmt bench bench-gpu clean

help: ## list what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## create .venv with every dependency (a GPU is used where there is one)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else \
	  "blindpairs needs CPython 3.11 to 3.13, $(PYTHON) is %d.%d; run: make setup PYTHON=python3.12" \
	  % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $(READY)

demo: $(READY) ## mine rendered scenes with the bundled encoders and write a report
	$(BIN)/blindpairs demo

test: $(READY) ## run every test that needs no GPU
	$(BIN)/python -m pytest -m "not gpu" --durations=25

test-fast: $(READY) ## run the tests that take no minutes
	$(BIN)/python -m pytest -m "not gpu and not slow"

test-gpu: $(READY) ## run the tests that need a GPU; a skip is a failure
	$(BIN)/python -m pytest -m gpu --no-skips

chaos: $(READY) ## kill, cut and fill up small runs for MINUTES (10) from a SEED on; each has to end as if nothing had been
	$(BIN)/python -m tests.chaos --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

check: $(READY) ## lint, types and layers; edits nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(READY) ## format the code and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## measure encoders, feed and join against their peers on CPU cores (an hour or more), and draw it
	$(BIN)/python -m bench.decode
	$(BIN)/python -m bench.pipeline
	$(BIN)/python -m bench.encode
	$(BIN)/python -m bench.join --data anisotropic
	$(BIN)/python -m bench.join --data clustered
	$(BIN)/python -m bench.join --data clustered-flat --rows 10000,20000,50000
	$(BIN)/python -m bench.join --data demo --rows 500,1000,2000
	$(BIN)/python -m bench.join --providers cpu --rows 50000 --without-amx
	$(BIN)/python -m bench.copies
	$(BIN)/python -m bench.lazy
	$(BIN)/python -m bench.scale
	$(BIN)/python -m bench.lazy --towers small --images 1000 --pairs 50
	$(BIN)/python -m bench.plot bench/results/join.csv docs/join.png
	$(BIN)/python -m bench.plot_encode bench/results/encode.csv docs/encode.png

bench-gpu: $(READY) ## measure the join and the encoders on a GPU, and its ceilings; goes on where it stopped
	$(BIN)/python -m bench.join_gpu --out bench/results/join_gpu.csv
	$(BIN)/python -m bench.encode --device cuda --batch-size 256 --out bench/results/encode_gpu.csv
	$(BIN)/python -m bench.plot bench/results/join_gpu.csv docs/join_gpu.png
	$(BIN)/python -m bench.plot_encode bench/results/encode_gpu.csv docs/encode_gpu.png

clean: ## remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info build
