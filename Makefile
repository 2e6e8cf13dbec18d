# `make quickstart` and `make test` need Python >= 3.11 (with pip and venv) and make, nothing else.
# Another Python: `make distclean`, then `make test PYTHON=python3.13`.
# Some tests only: `make test PYTEST_ARGS="-k optimizers -n 0"`.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
SECTIONS ?=
MPLBACKEND ?= Agg

RUN := $(VENV)/bin/python

export MPLBACKEND
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help quickstart test test-slow test-floor lint format types docs benchmarks clean distclean
# Kept although nothing but a pattern names them: the record of what is installed.
.PRECIOUS: $(VENV)/.installed-%

help:
	@echo "make quickstart  install into $(VENV) and run the two examples"
	@echo "make test        install into $(VENV) and run the tests"
	@echo "make test-slow   the tests that take long"
	@echo "make test-floor  the tests with the oldest supported dependencies, in $(VENV)-floor"
	@echo "make lint        ruff: rules and format"
	@echo "make format      let ruff rewrite the files"
	@echo "make types       pyright on the package, and whether all that is public has a type"
	@echo "make docs        HTML pages in docs/_build"
	@echo "make benchmarks  rerun docs/benchmarks.md (long); some of it: SECTIONS=\"mixture nodes\""
	@echo "make clean       remove what the targets above wrote"
	@echo "make distclean   the same, and the virtual environments"

# --- the virtual environment -------------------------------------------------------------------

# One empty file records that the environment exists, one per extra that the extra is installed:
# a second `make` installs nothing unless pyproject.toml changed.

NO_PYTHON = numpyro_vi_ext needs Python >= 3.11 with venv and pip, and "$(PYTHON)" is not that. \
	Install one (Debian and Ubuntu keep venv in the package python3-venv), \
	or name another: make PYTHON=python3.12 $(MAKECMDGOALS)

$(VENV)/.created:
	@$(PYTHON) -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo '$(NO_PYTHON)' >&2; exit 1; }
	@echo "Making the virtual environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed-%: pyproject.toml | $(VENV)/.created
	@echo "Installing numpyro_vi_ext[$*] into $(VENV) (some minutes the first time)"
	@$(RUN) -m pip install --quiet --editable '.[$*]'
	@touch $@

# --- running -----------------------------------------------------------------------------------

quickstart: $(VENV)/.installed-examples
	@$(RUN) examples/quickstart.py
	@$(RUN) examples/real_data.py

# Two workers share the cores: each XLA and each BLAS keeps to one thread.
test test-slow: export XLA_FLAGS := --xla_cpu_multi_thread_eigen=false $(XLA_FLAGS)
test test-slow: export OMP_NUM_THREADS := 1
test test-slow: export OPENBLAS_NUM_THREADS := 1

test: $(VENV)/.installed-test
	@$(RUN) -m pytest $(PYTEST_ARGS)

# In two runs, each compiled as suits it (tests/conftest.py). 5 is "no tests": of PYTEST_ARGS.
test-slow: $(VENV)/.installed-test
	@$(RUN) -m pytest -m "slow and compiles" $(PYTEST_ARGS) || [ $$? -eq 5 ]
	@$(RUN) -m pytest -m "slow and not compiles" $(PYTEST_ARGS) || [ $$? -eq 5 ]

FLOORS = import tomllib; \
	project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	print(*(line.replace(">=", "==") for line in project["dependencies"]))

test-floor:
	@$(MAKE) --no-print-directory VENV=$(VENV)-floor $(VENV)-floor/.installed-test
	@$(VENV)-floor/bin/python -m pip install --quiet \
		$$($(VENV)-floor/bin/python -c '$(FLOORS)')
	@$(MAKE) --no-print-directory VENV=$(VENV)-floor test

lint: $(VENV)/.installed-dev
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .

format: $(VENV)/.installed-dev
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

# pyright looks for packages beside the first `python` of PATH; --verifytypes heeds nothing else.
types: export PATH := $(abspath $(VENV))/bin:$(PATH)
types: $(VENV)/.installed-dev
	@$(RUN) -m pyright
	@found=$$($(RUN) -m pyright --verifytypes numpyro_vi_ext --ignoreexternal) \
		|| { echo "$$found" >&2; exit 1; }; echo "$$found" | grep 'Type completeness'

docs: $(VENV)/.installed-docs
	@$(RUN) -m sphinx -W --keep-going -q -b html docs docs/_build
	@echo "The pages are in docs/_build/index.html"

# The peers get an environment of their own, .venv-peers, which the scripts make.
# `make benchmarks SECTIONS="mixture sample"` for some, `make benchmarks SECTIONS=--quick` without
# the longest, `make benchmarks SECTIONS=--list` for their names.
benchmarks: $(VENV)/.installed-test
	@$(RUN) benchmarks/run.py $(SECTIONS)

# --- tidying -----------------------------------------------------------------------------------

clean:
	rm -rf build dist docs/_build docs/jupyter_execute quickstart_output .pytest_cache .ruff_cache
	find . -name '.venv*' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv .venv-floor .venv-peers .venv-3.12 .venv-3.13
