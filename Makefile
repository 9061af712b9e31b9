.DEFAULT_GOAL := help
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
FLOOR := .venv-floor
COMMA := ,
# Two processes of one thread each: the models of the tests are too small to use two threads well.
PYTEST := -m pytest -q --numprocesses 2 --dist loadfile --no-loadscope-reorder
# Modules are compiled when they are first imported, and kept; compiling all of them takes two minutes.
INSTALL := -m pip install --quiet --no-compile
unexport PYTHONDONTWRITEBYTECODE

help:  ## Show these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(VENV)/.installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(INSTALL) --upgrade pip -c constraints.txt
	$(BIN)/python $(INSTALL) --editable '.[train,tasks,dev]' -c constraints.txt
	$(BIN)/python $(INSTALL) --no-deps tinysoundfont mirdata -c constraints.txt
	touch $@

demo: $(VENV)/.installed  ## Pretrain, fine-tune, score, annotate and draw, on synthetic songs; AUDIO=file annotates your own
	$(BIN)/python recipes/demo.py $(if $(AUDIO),--audio '$(AUDIO)')

space: $(VENV)/.installed  ## Annotate songs on a web page; MODELS=a,b replaces the small model
	$(BIN)/python $(INSTALL) --editable '.[space]' -c constraints.txt
	$(BIN)/musicfm space --local $(subst $(COMMA), ,$(MODELS))

test: $(VENV)/.installed  ## Run the tests
	$(BIN)/python tests/helpers/transformers_suite.py
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST)

test-slow: $(VENV)/.installed  ## Run the tests that take minutes or need full-size models
	$(BIN)/python tests/helpers/transformers_suite.py
	$(BIN)/python -m pytest -q -m slow

test-space: $(VENV)/.installed  ## Run the tests of the web page, in Chromium
	$(BIN)/python $(INSTALL) --editable '.[space]' selenium -c constraints.txt
	$(BIN)/python -m pytest -q -m 'slow or not slow' tests/hub/test_space.py

test-integrations: $(VENV)/.installed  ## Run the tests with sentence-transformers and mteb, which it installs
	$(BIN)/python $(INSTALL) --editable '.[mteb,sentence-transformers]' -c constraints.txt
	$(BIN)/python -m pytest -q tests/integrations

test-floor:  ## Run the tests with the oldest supported version of Transformers
	$(PYTHON) -m venv $(FLOOR)
	grep -vE '^(transformers|huggingface_hub)==' constraints.txt > $(FLOOR)/constraints.txt
	$(FLOOR)/bin/python $(INSTALL) --editable '.[train,tasks,dev]' 'transformers==5.19.0' -c $(FLOOR)/constraints.txt
	$(FLOOR)/bin/python $(INSTALL) --no-deps tinysoundfont mirdata -c $(FLOOR)/constraints.txt
	$(FLOOR)/bin/python tests/helpers/transformers_suite.py
	OMP_NUM_THREADS=1 $(FLOOR)/bin/python $(PYTEST)

check: $(VENV)/.installed  ## Check lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

style: $(VENV)/.installed  ## Fix lint and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed  ## Build the guides and the API reference into site/
	$(BIN)/python $(INSTALL) --editable '.[docs]' -c constraints.txt
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

numbers: $(VENV)/.installed  ## Write measured tables and numbers into README.md and docs/
	$(BIN)/python benchmarks/fill_numbers.py

.PHONY: help demo docs numbers space test test-slow test-space test-integrations test-floor check style
