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

.PHONY: run test lint clean

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

# torch first: without it, dependencies pull the CUDA build onto machines that have no GPU
$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	command -v nvidia-smi >/dev/null || $(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf '$(VENV)' .snakemake results/*
