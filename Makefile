# `make` alone prints the targets, each with the sentence that stands above it.

SHELL := /bin/sh
PYTHON := .venv/bin/python
READY := .venv/.installed
CODE := smallcnn benchmarks scripts tests book
NOTEBOOKS := book/*.ipynb
# Several processes, one for each core, but not so many that memory ends.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadgroup

# What a user gives reaches the command line through the environment, to the letter: neither make nor a shell expands it.
override CHAPTER := $(value CHAPTER)
override PARAMS := $(value PARAMS)
override GRID := $(value GRID)
override FRESH := $(value FRESH)
override MODULE := $(value MODULE)
MINUTES ?= 10
override MINUTES := $(value MINUTES)
PORT ?= 8000
override PORT := $(value PORT)
TF_CPP_MIN_LOG_LEVEL ?= 3
# Files are UTF-8 whatever the locale is; a folder's name may have any letters.
PYTHONUTF8 := 1
export CHAPTER PARAMS GRID PORT MODULE MINUTES TF_CPP_MIN_LOG_LEVEL PYTHONUTF8

ifneq ($(filter-out 1,$(FRESH)),)
$(error FRESH is "$(FRESH)"; expected FRESH=1, to train everything anew, or nothing)
endif

.PHONY: help setup book preview rerun sweep runs record parameters bench test test-fast mutants lint format hooks serve lock clean
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

## Prints this list.
help:
	@awk '/^## / { text = substr($$0, 4); next } \
	      /^[a-z-]+:/ && text != "" { printf "make %-10s %s\n", substr($$0, 1, index($$0, ":") - 1), text } \
	      { text = "" }' Makefile

## Makes .venv and installs the locked packages in it, which every target below does first where it needs them.
setup: $(READY)

## Builds the book from the recorded runs and trains what is missing; with FRESH=1 it trains everything anew.
book: $(READY)
	@$(PYTHON) -m smallcnn book $(if $(FRESH),--fresh)

## Builds the whole book in minutes, from few images and epochs, apart from the real one.
preview: $(READY)
	@$(PYTHON) -m smallcnn book --preview

## Reruns one chapter with other values: make rerun CHAPTER=approach_2 PARAMS="epochs=10 learning_rate=0.003"
rerun: $(READY)
	@$(PYTHON) -m smallcnn rerun -- "$$CHAPTER" "$$PARAMS"

## Trains a grid of values and seeds: make sweep CHAPTER=approach_2 GRID="learning_rate=0.003,0.01,0.03 seeds=0..4"
sweep: $(READY)
	@$(PYTHON) -m smallcnn sweep --with="$$PARAMS" -- "$$CHAPTER" "$$GRID"

## Lists your own runs; python -m smallcnn runs --help tells how to remove some, or publish them.
runs: $(READY)
	@$(PYTHON) -m smallcnn runs

## Moves the runs that the book uses as published from data/runs to runs/.
record: $(READY)
	@$(PYTHON) -m smallcnn runs --publish

## Writes the published values of smallcnn/study.py into the parameters cells of the chapters.
parameters: $(READY)
	@$(PYTHON) -m smallcnn parameters

## Measures the engines beside PyTorch, if requirements-bench.txt is installed, and the article's way; takes 8 to 20 minutes.
bench: $(READY)
	@$(PYTHON) -m benchmarks.speed

## Runs the tests.
test: $(READY)
	@$(PYTHON) -m pytest $(PARALLEL)

## Runs the tests that need no training, no built book and no browser, for use while you work.
test-fast: $(READY)
	@$(PYTHON) -m pytest $(PARALLEL) -m "not slow"

## Puts faults into a module and lists those that its tests miss: make mutants MODULE=smallcnn/pruning.py MINUTES=10
mutants: $(READY)
	@$(PYTHON) scripts/mutants.py "$$MODULE" "$$MINUTES"

## Checks the format and the style of the code, notebooks included, and the library's types.
lint: $(READY)
	@$(PYTHON) -m ruff format --check $(CODE)
	@$(PYTHON) -m ruff check $(CODE)
	@$(PYTHON) scripts/strip_notebooks.py --check $(NOTEBOOKS)
	@$(PYTHON) -m mypy

## Formats the code, mends what can be mended without a decision, and strips notebooks of results.
format: $(READY)
	@$(PYTHON) scripts/strip_notebooks.py $(NOTEBOOKS)
	@$(PYTHON) -m ruff check --fix-only $(CODE)
	@$(PYTHON) -m ruff format $(CODE)

## Lets git format, check and strip what you commit; .venv/bin/pre-commit uninstall ends it.
hooks: $(READY)
	@$(PYTHON) -m pre_commit install

## Serves the book on this machine, at port 8000 or at PORT=.
serve: $(READY)
	@$(PYTHON) -m smallcnn serve -- "$$PORT"

## Resolves requirements.in into requirements.txt, keeping pinned versions that still fit.
lock:
	@uv=$$(sh scripts/setup.sh --uv build/uv build/uv.log) && \
	"$$uv" pip compile --universal --generate-hashes --python-version 3.11 \
	  --custom-compile-command "make lock" -q requirements.in -o requirements.txt
	@rm -rf build/uv

## Removes build/, that is everything generated; .venv, data and recorded runs stay.
clean:
	@rm -rf build

# The second prerequisite is for a Python that was removed since: .venv/bin/python is a link to it.
$(READY): requirements.txt $(if $(realpath $(PYTHON)),,.python-is-missing)
	@sh scripts/setup.sh .venv requirements.txt build/setup.log

.PHONY: .python-is-missing
.python-is-missing:
