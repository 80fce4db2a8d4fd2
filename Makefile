# Two commands: `make run` does the main job, `make test` passes the tests. Both set up .venv.
PYTHON ?= python3
# Snakemake starts jobs by the unquoted path of Python. Where this folder's has a space, or another
# sign that a shell may take for its own, the environment lies in the user's cache.
VENV := $(shell case "$$(pwd)" in \
	(*[!A-Za-z0-9_@%+=:,./-]*) \
		echo "$${XDG_CACHE_HOME:-$$HOME/.cache}/tensorpress/venv-$$(pwd | cksum | cut -d' ' -f1)" ;; \
	(*) echo .venv ;; \
	esac)
ifneq ($(words $(VENV)),1)
$(error $(VENV): a path with a space is not allowed; allowed: any other, as make VENV=/path/of/venv)
endif
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run test lint docs lock clean

run: $(READY)
	. $(BIN)/activate && snakemake

test: $(READY)
	. $(BIN)/activate && pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	. $(BIN)/activate && snakemake --lint
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# torch first: without it, dependencies pull the CUDA build onto machines that have no GPU
$(READY): pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	command -v nvidia-smi >/dev/null || $(BIN)/pip install --quiet --constraint requirements.lock torch
	$(BIN)/pip install --quiet --constraint requirements.lock --editable '.[docs,test]'
	touch $@

# Exact versions within pyproject.toml's ranges; what stands in the lock stays as it is unless
# UPGRADE=--upgrade or UPGRADE='--upgrade-package NAME' is given.
lock:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra test --extra docs --no-annotate \
		--custom-compile-command 'make lock' $(UPGRADE) --output-file requirements.lock pyproject.toml

clean:
	rm -rf '$(VENV)' .snakemake results/*
