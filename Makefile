# One command each; `make help` lists them. Everything runs in .venv, made from requirements.lock on first use.

PRESET ?= demo
CORES ?= 2
RUNS ?= runs
BENCH ?=
LAB ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
HALF := $(VENV)/half-installed

.DEFAULT_GOAL := help
.PHONY: help reproduce test lab lint types bench lock clean

help: ## list these commands
	@echo 'Usage: make COMMAND'
	@awk -F ':[^#]*## ' '/^[a-z]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' Makefile
	@echo 'PYTHON=/path/to/python (>= 3.11) picks the interpreter that makes .venv.'

reproduce: $(STAMP) ## run the whole comparison, end with the report (PRESET=demo|tiny|photographs|.., CORES=2, RUNS=runs)
	$(BIN)/python -m interproto_lib.cli reproduce --preset $(PRESET) --cores $(CORES) --runs-dir $(RUNS)

test: $(STAMP) ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lab: $(STAMP) ## open JupyterLab on the notebooks (LAB="--no-browser --port 9999" for its options)
	$(BIN)/python -m jupyterlab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks $(LAB)

lint: $(STAMP) ## check style and format of code and notebooks
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check

types: $(STAMP) ## check types
	$(BIN)/python -m mypy

bench: $(STAMP) ## run the benchmarks and print their tables (BENCH=losses for one)
	$(BIN)/python -m benchmarks $(BENCH)

lock: ## write requirements.lock anew from pyproject.toml (needs uv)
	@{ echo '# Exact versions and hashes of the dependencies and the dev extra in pyproject.toml, for every platform and'; \
	echo '# Python >= 3.11. Written by `make lock`, installed by the other commands. Not edited by hand.'; \
	uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --extra dev \
		--no-header --no-emit-index-url pyproject.toml; } > requirements.lock.new
	mv requirements.lock.new requirements.lock

clean: ## remove caches and build leftovers (.venv and runs/ stay)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache requirements.lock.new
	find interproto_lib tests benchmarks notebooks -name __pycache__ -type d -prune -exec rm -rf {} +
	find notebooks -name .ipynb_checkpoints -type d -prune -exec rm -rf {} +

# The stamp is written last. An installation that was cut short leaves the other mark, and is begun anew.
$(STAMP): requirements.lock pyproject.toml
	@set -eu; \
	python=''; \
	for candidate in $(if $(PYTHON),'$(PYTHON)',python3.13 python3.12 python3.11 python3 python); do \
		if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python="$$candidate"; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo 'No Python 3.11 or newer found$(if $(PYTHON), at PYTHON=$(PYTHON)). Install one, or say where it is: make $(MAKECMDGOALS) PYTHON=/path/to/python3' >&2; \
		exit 1; \
	fi; \
	if [ -e $(HALF) ]; then echo 'The last installation was cut short: making $(VENV) anew.'; rm -rf $(VENV); fi; \
	if [ -e $(VENV) ] && ! $(BIN)/python -c '' 2>/dev/null; then echo 'The interpreter of $(VENV) is gone: making it anew.'; rm -rf $(VENV); fi; \
	if [ ! -e $(VENV) ]; then \
		echo "Making $(VENV) with $$("$$python" --version)."; \
		"$$python" -m venv $(VENV) || { rm -rf $(VENV); \
			echo "$$python cannot make virtual environments (on Debian and Ubuntu: install the package python3-venv)." >&2; exit 1; }; \
	fi; \
	rm -f $(STAMP); touch $(HALF); \
	echo 'Installing from requirements.lock; the first time takes a few minutes and about 7 GB.'; \
	if command -v uv >/dev/null 2>&1; then install='uv pip install --python $(BIN)/python'; \
	else install='$(BIN)/python -m pip install --disable-pip-version-check'; fi; \
	$$install --require-hashes -r requirements.lock; \
	rm -f $(HALF); \
	$$install --no-deps --no-build-isolation -e .; \
	$(BIN)/python -m interproto_lib.cli doctor; \
	touch $(STAMP)
