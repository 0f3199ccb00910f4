# make demo   environment, default model, ingest, compress, study, ask; prints the answers and what they cost
# make test   the whole test suite, in two processes
# make check  lint, types and floors

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0

.PHONY: demo test check bench clean

demo: $(VENV)/.installed
	$(BIN)/preread demo

test: $(VENV)/.dev
	$(BIN)/pytest --numprocesses 2 --dist worksteal

check: $(VENV)/.dev
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(VENV)/.installed
	$(BIN)/preread bench cpu --out results/figures.jsonl

# torch first and by itself: with it in place, nothing else asks for another build of it.
$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --progress-bar on $(TORCH)
	$(BIN)/python -m pip install --progress-bar on --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
