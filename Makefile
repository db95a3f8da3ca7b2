# `make test` and `make demo` need only Python (3.11 or newer) with pip: they create the
# virtual environment, and reuse it until pyproject.toml changes.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PACKAGE := $(VENV)/.installed
STAMP := $(VENV)/.tools
PIP := $(PYTHON) -m pip --python $(BIN)/python install --quiet
# Two workers suit two cores; WORKERS=0 runs the tests in one process (for a debugger). Each begins
# with one half of the files, so that tests of a file share what they compile.
WORKERS ?= 2
ARGS ?=

.PHONY: help install demo test lint format types wheel check clean

help:  ## List the targets.
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

# --without-pip and `pip --python`: works where Python came without ensurepip (Debian).
$(PACKAGE): pyproject.toml
	@echo "Installing jrecon and what it needs into $(VENV): a minute or two."
	$(PYTHON) -m venv --without-pip $(VENV)
	$(PIP) --upgrade pip -e .
	@touch $@

$(STAMP): $(PACKAGE)
	@echo "Installing its tests and tools, too: another minute."
	$(PIP) -e '.[dev]'
	@touch $@

install: $(STAMP)  ## Create the virtual environment with the package and its tools.

demo: $(PACKAGE)  ## Reconstruct a sample capture: rigged GLB, preview and report in demo/.
	$(BIN)/jrecon demo --out demo --overwrite

test: $(STAMP)  ## Run the tests (ARGS="-k camera" selects).
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

lint: $(STAMP)  ## Check style and formatting.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)  ## Repair style and formatting.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP)  ## Check the type annotations.
	$(BIN)/basedpyright --pythonpath $(BIN)/python

wheel: $(STAMP)  ## Build the wheel and use it from outside the sources.
	rm -rf build
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/dist .
	$(BIN)/python -m pip install --quiet --no-deps --target build/installed build/dist/*.whl
	cd build && PYTHONPATH=installed $(abspath $(BIN))/python -m jrecon doctor

check: lint types test  ## Everything that has to pass before a change lands.

clean:  ## Remove what was built; the sources and .cache stay.
	rm -rf $(VENV) build demo .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
