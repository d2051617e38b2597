# Two commands on a clean checkout, alone or in either order: `make train` and `make test`.
# Everything is installed into $(VENV); stamp files there make a second call start at once.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

MINUTES ?= 10
PRESET ?= nano
FLAGS ?=
RUN ?= runs/$(PRESET)
# Each piece of a GPU run is a process of its own, this old at most; one that falls over costs what was not saved.
PIECE_SECONDS ?= 540
SERIES ?= docs/examples/airline.csv
HORIZON ?= 36

# One place names the version: the constraints file.
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)
# A run that left a checkpoint goes on from it; a complete one has nothing left to do.
RESUME = $(if $(wildcard $(RUN)/checkpoints/step-*),--resume)
# As `tiny` was last trained on a GPU (docs/models.md).
RECIPE_GPU := --cuda-graphs --lr 4e-3 --decay-fraction .5 --ema .998 --short-share .35 --multivariate-share .1
MINUTES_GPU ?= 9.5
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
FORECAST = $(RUN)/$(basename $(notdir $(SERIES)))_forecast

.DEFAULT_GOAL := help
.PHONY: help train train-gpu test lint bench bench-cpu bench-gpu bench-peers gate clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/\1|\2/p' Makefile | awk -F'|' '{ printf "make %-11s %s\n", $$1, $$2 }'
	@echo
	@echo "make train MINUTES=60                     a longer run (default $(MINUTES))"
	@echo "make train PRESET=mini                    a larger model (default $(PRESET); nano, mini, tiny)"
	@echo "make train-gpu MINUTES=25 PRESET=tiny     the 23M model on one GPU, released into runs/tiny/release"
	@echo "make train FLAGS='--device cuda --seed 1' any flag of python -m tinytsm.train --help"
	@echo "make train SERIES=my.csv HORIZON=24       forecast another series at the end"
	@echo "make PYTHON=python3.12 test               another Python, at least 3.11, for a new $(VENV)"

# Threads that wait for one another sleep: spinning, they would take the time of whatever else runs, and of Numba's threads.
train: export OMP_WAIT_POLICY ?= PASSIVE
train: $(VENV)/.train  ## train on synthetic series, forecast a real one, draw it
	$(BIN)/python -m tinytsm.train --preset $(PRESET) --compile \
	  --max-seconds "$$($(BIN)/python -c 'print(60 * $(MINUTES))')" --out $(RUN) $(RESUME) $(FLAGS)
	$(BIN)/tinytsm forecast $(SERIES) --model $(RUN) --horizon $(HORIZON) \
	  --output $(FORECAST).csv --plot $(FORECAST).png
	@echo "Forecast: $(FORECAST).csv, fan chart: $(FORECAST).png, loss curve and log: $(RUN)/"

train-gpu: $(VENV)/.train  ## train in pieces that survive a lost machine, then export: MINUTES=25 PRESET=tiny
	@fallen=0; while :; do \
	  resume=; if ls $(RUN)/checkpoints/step-* >/dev/null 2>&1; then resume=--resume; fi; \
	  $(BIN)/python -m tinytsm.train --preset $(PRESET) --compile --device cuda --batch-tokens 65536 \
	    --max-seconds "$$($(BIN)/python -c 'print(60 * $(MINUTES))')" --piece-seconds $(PIECE_SECONDS) \
	    --save-seconds 60 --eval-seconds 60 $(RECIPE_GPU) --out $(RUN) $$resume $(FLAGS); \
	  s=$$?; case $$s in 75) continue;; 0|1|2|130|143) break;; esac; \
	  fallen=$$(( fallen + 1 )); [ $$fallen -lt 5 ] || break; \
	  echo "the trainer fell over with exit code $$s, $$fallen of 5: going on from its last checkpoint"; \
	done; [ $$s -eq 0 ] || exit $$s
	$(BIN)/tinytsm export $(RUN) $(RUN)/release --dtype bfloat16

test: lint  ## style, types and the whole test suite, as continuous integration runs it
	$(BIN)/python -m pytest
	TINYTSM_BENCH_TINY=1 $(BIN)/python -m pytest bench --benchmark-disable

lint: $(VENV)/.dev  ## style and types only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev  ## the benchmarks, at full size
	$(BIN)/python -m pytest bench --benchmark-only

BENCH_CPU := TINYTSM_BENCH_DEVICE=cpu $(BIN)/python -m pytest --benchmark-only --compare --save bench/results
# What training does apart, in the environment that training has: huge pages and threads that sleep.
BENCH_TRAINING := bench/bench_train.py bench/bench_kernels.py bench/bench_attention.py
bench-cpu: $(VENV)/.dev  ## the same in 18 minutes, kept under bench/results, and the pages' tables made from it
	$(BENCH_CPU) bench $(BENCH_TRAINING:%=--ignore %) --minutes 2.8; s=$$?; \
	  THP_MEM_ALLOC_ENABLE=1 OMP_WAIT_POLICY=PASSIVE $(BENCH_CPU) $(BENCH_TRAINING) --minutes 4 || s=$$?; \
	  $(BIN)/python -m bench.report && exit $$s

# Nothing is installed here: machines with a GPU come with a torch of their own, and often without a network.
bench-gpu:  ## every figure that a GPU can give, in ten minutes: SECTION='kernels', MINUTES_GPU=5
	$(GPU_PYTHON) -m bench.gpu --minutes $(MINUTES_GPU) $(if $(SECTION),--section $(SECTION))

bench-peers: $(VENV)-peers/.done  ## other models on this machine, in an environment of their own
	$(VENV)-peers/bin/python -m bench.peers
	$(VENV)-peers/bin/python -m bench.report --no-plots

# Under the installed Triton and those of torch 2.13 and 2.11 on CUDA.
gate: $(VENV)/.dev $(VENV)/triton-3.7 $(VENV)/triton-3.6  ## every kernel compiled for three GPUs and interpreted, under three Tritons, no GPU needed
	@mkdir -p build; s=0; for v in newest 3.7 3.6; do \
	  export PYTHONPATH=$(VENV)/triton-$$v; \
	  if $(BIN)/python -m tinytsm.gate --full --arch 80 90 100 > build/gate-$$v.txt; \
	  then cat build/gate-$$v.txt; mv build/gate-$$v.txt docs; else s=1; cat build/gate-$$v.txt; fi; \
	  $(BIN)/python -m pytest tests/test_interpreter.py || s=1; \
	done; exit $$s

clean:  ## remove caches and build outputs; keep .venv and runs
	rm -rf build dist tinytsm.egg-info .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find tinytsm kernels synth bench tests -name __pycache__ -prune -exec rm -rf {} +

# Torch comes first and by itself: later installs then find their range of it met and pull no other build.
$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
	  "tinytsm needs Python 3.11 or newer, got %d.%d: make PYTHON=python3.12 ..." % v[:2])'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@start=$$(date +%s); set -x; \
	  $(BIN)/pip install $(TORCH) || exit 1; \
	  { set +x; } 2>/dev/null; echo "Torch: installed in $$(( $$(date +%s) - start )) s"
	@touch $@

$(VENV)/.train: $(VENV)/.torch pyproject.toml
	@start=$$(date +%s); set -x; \
	  $(BIN)/pip install --constraint constraints.txt --editable '.[parquet,plot]' || exit 1; \
	  { set +x; } 2>/dev/null; echo "tinytsm: installed in $$(( $$(date +%s) - start )) s"
	@touch $@

# The development extra holds the other two, so that it serves training as well.
$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	@start=$$(date +%s); set -x; \
	  $(BIN)/pip install --constraint constraints.txt --editable '.[dev]' || exit 1; \
	  { set +x; } 2>/dev/null; echo "tinytsm and its tools: installed in $$(( $$(date +%s) - start )) s"
	@touch $(VENV)/.train $@

# As bench/peers/requirements.txt says, and why.
$(VENV)-peers/.done: bench/peers/requirements.txt constraints.txt
	$(PYTHON) -m venv $(VENV)-peers
	$(VENV)-peers/bin/pip install $(TORCH)
	$(VENV)-peers/bin/pip install -r $<
	$(VENV)-peers/bin/pip install --no-deps granite-tsfm==0.3.11
	@touch $@

# Older Tritons, beside the installed one; they need a NumPy of their time.
$(VENV)/triton-%: $(VENV)/.dev
	$(BIN)/pip install --target $@ --no-deps 'triton==$*.*' 'numpy<2.4'
	@touch $@
