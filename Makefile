# Needs python3 (3.11 or later) with venv, and make. `make quickstart` is the place to start.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BENCH ?= *

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INPUTS := pyproject.toml constraints.txt
TORCH := $(shell sed -n 's/^\(torch==[^ ;]*\).*/\1/p' constraints.txt)

.PHONY: help quickstart test check bench venv clean

help:
	@echo 'make quickstart  the whole pipeline on this machine, with a report at the end'
	@echo 'make test        run the tests            (ARGS="-m models" picks others)'
	@echo 'make check       lint, format, types and the order of imports'
	@echo 'make bench       run the benchmarks       (BENCH=sandbox runs one, ARGS="--quick")'
	@echo 'make venv        an environment for development in $(VENV)'
	@echo 'make clean       remove $(VENV) and everything built'

quickstart: $(VENV)/.installed
	$(BIN)/agentdistill quickstart $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed-dev
	@for file in benchmarks/$(BENCH).py; do $(BIN)/python "$$file" $(ARGS) || exit 1; done

venv: $(VENV)/.installed-dev

# The stamps say what is installed: nothing is installed again until pyproject.toml or constraints.txt change.
# torch comes first and by its exact version, because any other way of asking may bring a CUDA build.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	echo 'agentdistill needs Python 3.11 or later as $(PYTHON); try: make PYTHON=python3.12 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	echo '$(PYTHON) cannot make environments; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.made $(INPUTS)
	$(PIP) install -c constraints.txt $(TORCH)
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find agentdistill sandbox retrievers tests benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
