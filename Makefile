# The front door: everything here needs python3 and make alone, and makes the rest.

PYTHON ?= python3
DEMO_ARGS ?=
# By file, since tests of a file share fixtures and compiled programs; in the order of their names:
# xdist would begin with the most tests and end with the one test of the demo, of a minute.
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder
BENCH_ARGS ?= --publish
ACCELERATOR_ARGS ?= --publish
POSTER_ARGS ?=
# another one where nothing can be installed: what it needs says benchmarks/accelerator/__main__.py
ACCELERATOR_PYTHON ?= $(BIN)/python

# the threads of LAPACK wait busily and starve those of jax
export OPENBLAS_NUM_THREADS ?= 1

VENV := .venv
BIN := $(VENV)/bin
METADATA := setup.cfg pyproject.toml
PEERS := build/peers
OLDEST := build/oldest
# a wheel is tried on the newest Python there is, which gets the newest jax
NEWEST ?= $(shell tests/newest_python.sh)
CORE := tests/test_jax_fault.py tests/test_architecture.py tests/models/flax_adapter/test_from_flax.py \
  tests/theory/test_flow_exact.py tests/theory/test_manifold.py tests/theory/test_curvature.py \
  tests/simulator/test_simulate.py tests/simulator/test_grid.py tests/simulator/test_run_folder.py
PIP_OPTIONS := --quiet --disable-pip-version-check
INSTALL := $(BIN)/python -m pip install $(PIP_OPTIONS)

.PHONY: help demo test coverage soak lint types bench bench-vgg accelerator poster poster-mlp poster-mlp-predicted poster-vgg published rehearsal docs pages \
  release oldest clean
.DELETE_ON_ERROR:

help:
	@echo "make demo   install into $(VENV) and run the demo (DEMO_ARGS=...)"
	@echo "make test   run the tests (PYTEST_ARGS=...)"
	@echo "make coverage  run them slower, and tell which lines of the four rooms they leave out"
	@echo "make soak   kill runs many times over, at random and at every write; takes an hour"
	@echo "make lint   check style and formatting"
	@echo "make types  check the type annotations"
	@echo "make bench  run the benchmarks beside PyTorch's packages, installed into $(PEERS) (BENCH_ARGS=...)"
	@echo "make bench-vgg  a convolutional network alone, beside PyTorch"
	@echo "make accelerator  measure everything on a GPU in 8 minutes (ACCELERATOR_ARGS=..., ACCELERATOR_PYTHON=...)"
	@echo "make published make the runs of docs/published.md and renew its numbers (POSTER_ARGS as above)"
	@echo "make poster    make the runs of docs/poster.md and renew its numbers (POSTER_ARGS='--set problem_options.root=...')"
	@echo "make poster-vgg  the same with its convolutional network"
	@echo "make rehearsal    run all of that at toy size on a CPU, in a minute"
	@echo "make docs   build the documentation into site/"
	@echo "make pages  run the code of its pages and draw their pictures, after a change of either"
	@echo "make release  build wheel and sdist into dist/, install them elsewhere and try them there"
	@echo "make oldest   run a part of the tests on the oldest packages that setup.cfg allows"
	@echo "make clean  remove the environment and all caches"

demo: $(VENV)/installed
	$(BIN)/sharpflow demo $(DEMO_ARGS)

test: $(VENV)/installed-test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

coverage: export PYTEST_ADDOPTS = --cov
coverage: test

soak: $(VENV)/installed-test
	SHARPFLOW_SOAK=1 $(BIN)/python -m pytest -q tests/faults

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

bench: $(VENV)/installed-bench $(PEERS)/installed
	$(BIN)/python -m benchmarks --peers $(PEERS)/bin/python $(BENCH_ARGS)

bench-vgg: $(VENV)/installed-bench $(PEERS)/installed
	$(BIN)/python -m benchmarks.vgg --peers $(PEERS)/bin/python --publish

ifeq ($(ACCELERATOR_PYTHON),$(BIN)/python)
accelerator: $(VENV)/installed-cuda
endif
accelerator:
	$(ACCELERATOR_PYTHON) -m benchmarks.accelerator $(ACCELERATOR_ARGS)

# It takes the runs where they stopped, so that a later call only draws.
poster: poster-mlp poster-mlp-predicted

poster-mlp poster-vgg: $(VENV)/installed
	$(BIN)/sharpflow run $@-search --out runs/$@-search --resume $(POSTER_ARGS)
	$(BIN)/sharpflow run $@-search --out runs/$@-plain --resume $(POSTER_ARGS) \
	  --set 'axes.normalization=["none"]' --set 'weight_decay=[0.0]'
	$(BIN)/sharpflow run $@ --out runs/$@ --resume $(POSTER_ARGS)
	$(BIN)/python -m benchmarks.poster $@ runs/$@ runs/$@-search runs/$@-plain

poster-mlp-predicted: $(VENV)/installed
	$(BIN)/sharpflow run $@ --out runs/$@ --resume $(POSTER_ARGS)
	$(BIN)/python -m benchmarks.poster_predicted runs/$@

# Those that two cores bear; central-flow-cifar10 takes longest, some ten minutes.
PUBLISHED = matrix-factorization matrix-factorization-two-factors diagonal-network three-regimes \
  three-regimes-mlp chebyshev-regression central-flow-sorting-small
PUBLISHED_IMAGES = tanh-cifar10-small central-flow-cifar10-small central-flow-cifar10

published: $(VENV)/installed
	for name in $(PUBLISHED); do \
	  $(BIN)/sharpflow run $$name --out runs/published/$$name --resume || exit 1; done
	for name in $(PUBLISHED_IMAGES); do \
	  $(BIN)/sharpflow run $$name --out runs/published/$$name --resume $(POSTER_ARGS) || exit 1; done
	$(BIN)/python -m benchmarks.published runs/published

rehearsal: $(VENV)/installed
	$(BIN)/python -m benchmarks.accelerator --size toy

docs: $(VENV)/installed-docs
	$(BIN)/mkdocs build --strict

pages: $(VENV)/installed-docs
	$(BIN)/python -m docs.pages

release: $(VENV)/installed-dev
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	tests/release.sh $(NEWEST) dist

oldest: $(OLDEST)/installed
	$(OLDEST)/bin/python -m pytest $(PYTEST_ARGS) $(CORE)

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(METADATA) | $(BIN)/python
	$(INSTALL) --editable .
	@touch $@

$(VENV)/installed-%: $(METADATA) | $(BIN)/python
	$(INSTALL) --editable ".[$*]"
	@touch $@ $(VENV)/installed

$(OLDEST)/installed: $(METADATA)
	$(PYTHON) -m venv $(OLDEST)
	sed -n '/^install_requires/,/^\[/ s/^ *\([a-z0-9-]*\)>=\([0-9.]*\).*/\1==\2/p' setup.cfg > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install $(PIP_OPTIONS) --editable ".[test]" --constraint $(OLDEST)/constraints.txt
	@touch $@

# --no-deps: PyHessian may replace torch by another release
$(PEERS)/installed: benchmarks/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install $(PIP_OPTIONS) --requirement $<
	$(PEERS)/bin/python -m pip install $(PIP_OPTIONS) --no-deps pyhessian==0.1
	@touch $@
