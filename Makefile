# make train, make test and make lint create .venv themselves, once, and again when the dependencies change.

ENV ?= HalfCheetah
AGENT ?= flow-sac
ARGS ?=

SHELL := bash
VENV := .venv
BIN := $(VENV)/bin
comma := ,
# What training needs, and what tests and style checks need beside it.
TRAIN := $(VENV)/.train
DEV := $(VENV)/.dev

# pip, of which only the large downloads are shown: it names some hundred packages otherwise.
define install
	@set -o pipefail; $(BIN)/python -m pip install -c constraints.txt -e '.[$(1)]' | \
		awk '/Downloading .*[MG]B\)/ { print; fflush() } /^Installing/ { print "  installing"; fflush() }'
	@touch $@
endef

.PHONY: help train test test-slow test-matrix benchmark reliability conformance lint type format clean install

help:
	@echo "make train      train an agent: ENV=$(ENV) AGENT=$(AGENT) ARGS='--steps 100000 --seed 0'"
	@echo "make test       run the tests (a few minutes)"
	@echo "make test-slow  run the tests that train for minutes"
	@echo "make test-matrix  run them at the oldest and newest supported versions: ARGS='oldest' (an hour without ARGS)"
	@echo "make benchmark  measure speed beside other libraries: ARGS='sac ppo --threads 2' (half an hour without ARGS)"
	@echo "make reliability  kill, stop and damage runs, give them hostile inputs, and see what is lost (three hours)"
	@echo "make conformance  count what of SB3's behaviour each learner has (some minutes)"
	@echo "make lint       ruff and mypy"
	@echo "make format     let ruff rewrite what it can"
	@echo "make clean      remove .venv, caches and build outputs (never runs/)"

train: $(TRAIN)
	$(BIN)/python experiments/run.py --env $(ENV) --agent $(AGENT) $(ARGS)

# One thread for each of the two workers: torch's own threads would fight over the cores.
test: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow" $(ARGS)

test-slow: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow $(ARGS)

# It makes its own environments, one after the other.
test-matrix:
	OMP_NUM_THREADS=1 $(or $(PYTHON),python3) tests/matrix.py $(ARGS)

# On a quiet machine: whatever else runs is measured too.
benchmark: $(VENV)/.benchmark
	$(BIN)/python experiments/benchmark.py $(ARGS)

# 114 runs that are killed, stopped, damaged or short of disk, and resumed: an hour; then hostile inputs: two hours.
reliability: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/python experiments/studies/reliability.py $(ARGS)
	OMP_NUM_THREADS=1 $(BIN)/python experiments/studies/hostile.py

conformance: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/python experiments/studies/conformance.py $(ARGS)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy flowrl agents experiments

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(DEV)

# PYTHON=... chooses the interpreter; by default the first on the path that is new enough.
$(TRAIN): pyproject.toml constraints.txt
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
	@echo "installing torch, Stable-Baselines3, MuJoCo and what they need into $(VENV), once: about 1.5 GB on disk," \
		"some 5 GB where torch brings CUDA's libraries"
	$(call install,mujoco$(comma)box2d$(comma)demos$(comma)video)

$(DEV): $(TRAIN)
	@echo "installing what the tests compare with (jax, scikit-learn, zuko, ...) into $(VENV), once: about 1 GB more"
	$(call install,mujoco$(comma)dev)

$(VENV)/.benchmark: $(DEV)
	@echo "installing what the benchmark compares with (SBX) into $(VENV), once"
	$(call install,mujoco$(comma)benchmark)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
