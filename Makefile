# make quickstart   sets everything up and runs the main job: collect, prepare, train, evaluate, report
# make test         lint, types and the quick tests; make test-all: every test
# make help         lists the rest

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two at a time: most tests wait for processes to start. The tests of one file share a Ray, which takes two CPUs.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help quickstart test test-all gpu lint format clean

help:
	@echo "make quickstart   set up .venv, run configs/quickstart.yaml, end with a table and runs/quickstart/report.html"
	@echo "make test         set up .venv, then lint, types and the tests that take seconds"
	@echo "make test-all     lint, types and every test"
	@echo "make gpu          on a machine with a GPU: the tests that need one, and the benchmarks, in 8 minutes"
	@echo "make lint         ruff and mypy alone"
	@echo "make format       ruff's formatter"
	@echo "make clean        remove .venv and caches; runs/ stays"

quickstart: $(VENV)/.installed
	$(BIN)/python jobs/run.py --config configs/quickstart.yaml

test: lint
	$(PYTEST) -m "not slow and not cluster"

test-all: lint
	$(PYTEST)

gpu: $(VENV)/.installed-test
	PYTHON=$(BIN)/python .ci/gpu

lint: $(VENV)/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.installed-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info

# The marks are touched last, so an interrupted installation is made again.
$(VENV)/.installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than 3.11; name another: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "Installing into $(VENV) (once, some minutes) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed tests/requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@
