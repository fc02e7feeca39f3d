# make train, make test and make lint create .venv themselves, once, and again when the dependencies change.

ENV ?= HalfCheetah
AGENT ?= flow-sac
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help train test test-slow benchmark lint type format clean install

help:
	@echo "make train      train an agent: ENV=$(ENV) AGENT=$(AGENT) ARGS='--steps 100000 --seed 0'"
	@echo "make test       run the tests (a few minutes)"
	@echo "make test-slow  run the tests that train for minutes"
	@echo "make benchmark  measure speed beside other libraries: ARGS='sac ppo --threads 2' (half an hour without ARGS)"
	@echo "make lint       ruff and mypy"
	@echo "make format     let ruff rewrite what it can"
	@echo "make clean      remove .venv, caches and build outputs (never runs/)"

train: $(INSTALLED)
	$(BIN)/python experiments/run.py --env $(ENV) --agent $(AGENT) $(ARGS)

# One thread for each of the two workers: torch's own threads would fight over the cores.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow" $(ARGS)

test-slow: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow $(ARGS)

# On a quiet machine: whatever else runs is measured too.
benchmark: $(VENV)/.benchmark
	$(BIN)/python experiments/benchmark.py $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy flowrl agents experiments

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(INSTALLED)

# PYTHON=... chooses the interpreter; by default the first on the path that is new enough.
$(INSTALLED): pyproject.toml constraints.txt
	@if [ ! -x $(BIN)/python ]; then \
		for python in $(PYTHON) python3.11 python3.12 python3.13 python3 python; do \
			if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
				echo "creating $(VENV) with $$($$python --version)"; \
				exec $$python -m venv $(VENV); \
			fi; \
		done; \
		echo "error: flowrl needs Python 3.11 or newer, and none is on the path;" \
			"install one, or name it: make PYTHON=/path/to/python3.11 ..." >&2; \
		exit 1; \
	fi
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[mujoco,dev]'
	@touch $@

$(VENV)/.benchmark: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[mujoco,benchmark]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
