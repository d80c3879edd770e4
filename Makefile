# `make` alone prints the targets, each with the sentence that stands above it.

SHELL := /bin/sh
PYTHON := .venv/bin/python
# Runs a module that is not the project's own in the surroundings that the project's make for themselves.
RUN := $(PYTHON) -m smallcnn.surroundings -m
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
PORT ?= 8000
override PORT := $(value PORT)
override MINUTES := $(value MINUTES)
override SAMPLE := $(value SAMPLE)
override KEYS := $(value KEYS)
# Files are UTF-8 whatever the locale is; a folder's name may have any letters.
PYTHONUTF8 := 1
# Python obeys its own variables before any program can forget them.
unexport $(filter-out PYTHON PYTHON_BOOTSTRAP PYTHONUTF8,$(filter PYTHON%,$(.VARIABLES))) __PYVENV_LAUNCHER__
export CHAPTER PARAMS GRID PORT MODULE MINUTES SAMPLE KEYS PYTHONUTF8

ifneq ($(filter-out 1,$(FRESH)),)
$(error FRESH is "$(FRESH)"; expected FRESH=1, to train everything anew, or nothing)
endif

# Any other word NAME=value would do nothing, so it is a slip; one in the environment is not meant for this project.
KNOWN := CHAPTER PARAMS GRID FRESH PORT MODULE MINUTES SAMPLE KEYS PYTHON_BOOTSTRAP \
    DASK_SCHEDULER_ADDRESS HL_NUM_THREADS SMALLCNN_MNIST SMALLCNN_RUNS SMALLCNN_BUILD SMALLCNN_CELL_SECONDS
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
UNKNOWN := $(firstword $(filter-out $(KNOWN),$(GIVEN)))
ifneq ($(UNKNOWN),)
CLOSEST := import difflib, sys; print(*difflib.get_close_matches(sys.argv[1].upper(), sys.argv[2:], 1, 0.5))
NEAREST := $(shell $(or $(wildcard $(PYTHON)),python3) -Ic '$(CLOSEST)' '$(subst ','\'',$(UNKNOWN))' $(KNOWN))
$(error $(UNKNOWN) is not known here; $(if $(NEAREST),did you mean $(NEAREST)=…?,a hyperparameter is given in PARAMS, such as PARAMS="epochs=10".) Known are $(KNOWN))
endif

.PHONY: help setup book preview rerun sweep runs record reproduce parameters bench test test-fast mutants lint format hooks serve lock clean
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

## Trains published runs of Halide again and compares them byte for byte: all, SAMPLE=3, MINUTES=10 or KEYS="…".
reproduce: $(READY)
	@$(PYTHON) -m smallcnn reproduce $(if $(SAMPLE),--sample="$$SAMPLE") $(if $(MINUTES),--minutes="$$MINUTES") -- "$$KEYS"

## Writes the published values of smallcnn/study.py into the parameters cells of the chapters.
parameters: $(READY)
	@$(PYTHON) -m smallcnn parameters

## Measures the engines beside PyTorch, if requirements-bench.txt is installed, in ten minutes or MINUTES=.
bench: $(READY)
	@$(RUN) benchmarks.speed $(if $(MINUTES),--minutes="$$MINUTES")

## Runs the tests.
test: $(READY)
	@$(RUN) pytest $(PARALLEL)

## Runs the tests that need no training, no built book and no browser, for use while you work.
test-fast: $(READY)
	@$(RUN) pytest $(PARALLEL) -m "not slow"

## Puts faults into a module and lists those that its tests miss: make mutants MODULE=smallcnn/pruning.py MINUTES=10
mutants: $(READY)
	@$(PYTHON) -m smallcnn.surroundings scripts/mutants.py "$$MODULE" "$${MINUTES:-10}"

## Checks the format and the style of the code, notebooks included, and the library's types.
lint: $(READY)
	@$(RUN) ruff format --check $(CODE)
	@$(RUN) ruff check $(CODE)
	@$(PYTHON) scripts/strip_notebooks.py --check $(NOTEBOOKS)
	@$(RUN) mypy

## Formats the code, mends what can be mended without a decision, and strips notebooks of results.
format: $(READY)
	@$(PYTHON) scripts/strip_notebooks.py $(NOTEBOOKS)
	@$(RUN) ruff check --fix-only $(CODE)
	@$(RUN) ruff format $(CODE)

## Lets git format, check and strip what you commit; .venv/bin/pre-commit uninstall ends it.
hooks: $(READY)
	@$(PYTHON) -m pre_commit install

## Serves the book on this machine, at port 8000 or at PORT=.
serve: $(READY)
	@$(PYTHON) -m smallcnn serve -- "$$PORT"

## Resolves requirements.in into requirements.txt, keeping pinned versions that still fit.
lock:
	@sh scripts/setup.sh --lock build/uv requirements.txt build/uv.log
	@rm -rf build/uv

## Removes build/, that is everything generated; .venv, data and recorded runs stay.
clean:
	@rm -rf build

# Set-up is due again if the Python was removed since, to which .venv/bin/python is a link, or if the folder was renamed or
# copied: .venv/.installed names it.
IN_PLACE := $(shell { read -r lock; IFS= read -r folder; [ "$$folder" = "$$(pwd -P)" ] && echo yes; } 2>/dev/null <$(READY))
$(READY): requirements.txt $(if $(and $(realpath $(PYTHON)),$(IN_PLACE)),,.set-up-is-due)
	@sh scripts/setup.sh .venv requirements.txt build/setup.log

.PHONY: .set-up-is-due
.set-up-is-due:
