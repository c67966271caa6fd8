# Needs make, git and Python >= 3.11 (`make PYTHON=python3.12 …` picks another one).
#
# torch: PyPI's wheel is the CUDA build, gigabytes large. Where a CPU is all there is, point pip at a
# CPU build before the first `make`: PIP_EXTRA_INDEX_URL=<an index of CPU builds> or
# PIP_FIND_LINKS=<a folder with the wheel>. pip then prefers it, because 2.13.0+cpu counts as newer.

PYTHON ?= $(shell command -v python3 || command -v python)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
URL ?= http://127.0.0.1:8000

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types e2e load clean
.DELETE_ON_ERROR:

help: ## show this list
	@sed -n 's/^\([a-z0-9]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'

setup: $(STAMP) ## make .venv and install the project with its tools (a second call does nothing)

$(STAMP): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'Python >= 3.11 is needed: make PYTHON=/path/to/it …' >&2; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[cpu,dev]'
	@touch $@

demo: setup ## train on MovieLens 100K and serve on port 8000 (ARGS=--no-serve, ARGS="--port N")
	$(BIN)/recgpt demo --dir demo $(ARGS)

test: setup ## run the tests (ARGS="tests/test_deploy.py -x")
	$(BIN)/python -m pytest $(ARGS)

lint: setup ## check style and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: setup ## check types
	$(BIN)/mypy
	$(BIN)/mypy loadtest/locustfile.py .ci/e2e.py

e2e: setup ## bring docker-compose.yml up and check it from outside (needs a Docker engine)
	$(BIN)/python .ci/e2e.py

load: setup ## 60 s of recalls and events against URL=http://127.0.0.1:8000 (ARGS="-u 50 -t 5m")
	$(BIN)/locust -f loadtest/locustfile.py --host $(URL) --data demo/data --headless -u 20 -r 20 -t 60s $(ARGS)

clean: ## remove what make made: .venv, demo, caches
	rm -rf $(VENV) demo build *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
