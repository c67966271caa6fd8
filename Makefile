# Needs make, git and Python >= 3.11 (`make PYTHON=python3.12 …` picks another one).
#
# torch: PyPI's wheel is the CUDA build, gigabytes large. Where a CPU is all there is, point pip at a
# CPU build before the first `make`: PIP_EXTRA_INDEX_URL=<an index of CPU builds> or
# PIP_FIND_LINKS=<a folder with the wheel>. pip then prefers it, because 2.13.0+cpu counts as newer.

PYTHON ?= $(shell command -v python3 || command -v python)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEER := build/recbole
HELM := build/tools/helm
AXE := build/tools/axe.min.js
BENCH ?= demo
URL ?= http://127.0.0.1:8000

.DEFAULT_GOAL := help
.PHONY: help setup demo playground test fuzz crash redis lint types docs api sbom audit e2e chaos soak loop bench bench-start bench-arms bench-engine bench-experiments bench-filter-mix bench-filters bench-gpu bench-hidden bench-histories gpu-check bench-quality bench-scale bench-store bench-swaps bench-threads bench-train bench-train-scale load clean
.DELETE_ON_ERROR:

help: ## show this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-25s %s\n", $$1, $$2}'

setup: $(STAMP) ## create .venv and install the project with its tools (a second call does nothing)

$(STAMP): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'Python >= 3.11 is needed: make PYTHON=/path/to/it …' >&2; exit 1; }
	@test -x $(BIN)/pip || "$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	@echo 'installing into $(VENV), a minute or two …'
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[cpu,dev]'
	@touch $@

demo: setup ## train on MovieLens 100K and serve on port 8000 (ARGS=--no-serve, ARGS="--port N")
	$(BIN)/recgpt demo --dir demo $(ARGS)

playground: setup ## the demo with simulated users, experiments, Prometheus and Grafana, in containers
	@bash deploy/playground/start.sh $(ARGS)

test: setup redis $(HELM) $(AXE) ## run the tests (ARGS="tests/deploy -x"; ARGS=--cov reports the coverage)
	$(BIN)/python -m pytest $(ARGS)

fuzz: setup redis ## requests from the OpenAPI document, damaged bundles and logs: more than 5,000 and twice 10,000 (half an hour)
	$(BIN)/python -m loadtest.reliability.counts --out docs/results requests bundles logs $(ARGS)

crash: setup ## kill -9 at random moments: training, export, service, versions, refresh, export of events (ARGS="--times 50 --parts swap")
	$(BIN)/python -m loadtest.reliability.crash $(ARGS)

# The tests start a redis-server of their own. RUNLEVEL=1 keeps Debian from starting another one.
redis:
	@command -v redis-server >/dev/null || { \
	  if test "$$(id -u)" = 0 && command -v apt-get >/dev/null; then \
	    echo 'installing redis-server, which the tests use'; \
	    apt-get update -qq >/dev/null && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
	      apt-get install -y -qq --no-install-recommends redis-server >/dev/null; \
	  else \
	    echo 'The tests need redis-server on PATH: install Redis (Debian, Ubuntu: redis-server;' \
	         'Fedora, macOS with Homebrew: redis), then make test again.' >&2; \
	    exit 1; \
	  fi; }

# The tests render the Helm chart.
$(HELM): .ci/fetch_tool.py | $(STAMP)
	@echo 'fetching helm, which the tests of the chart use'
	@$(BIN)/python .ci/fetch_tool.py helm $@

# The tests check the explorer's accessibility.
$(AXE): .ci/fetch_tool.py | $(STAMP)
	@echo 'fetching axe-core, which the tests of the explorer use'
	@$(BIN)/python .ci/fetch_tool.py axe $@

lint: setup ## check style, format, spelling and prose
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell
	$(BIN)/python .ci/check_prose.py

types: setup ## check types
	$(BIN)/mypy
	$(BIN)/mypy .ci/*.py
	MYPYPATH=deploy/client/python $(BIN)/mypy -p recgpt_client

docs: setup ## build the documentation into build/site and check its links
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	$(BIN)/python .ci/check_site.py build/site

api: setup ## write docs/openapi.json, docs/api.md and the TypeScript types anew, after a change of the API
	$(BIN)/python .ci/api_documents.py

sbom: setup ## list the packages of the service, as CycloneDX, in build/sbom.json
	$(BIN)/python .ci/sbom.py build/sbom.json

# A clone of PyPA's advisories, unless ADVISORIES names another folder, which may lie on a machine
# without a network.
audit: setup ## compare the pinned versions with known vulnerabilities (ADVISORIES=a folder of OSV records)
	@if test -n "$(ADVISORIES)"; then exit 0; \
	elif test -d build/advisories; then git -C build/advisories pull --quiet; \
	else git clone --quiet --depth 1 https://github.com/pypa/advisory-database build/advisories; fi
	$(BIN)/python .ci/audit.py $(or $(ADVISORIES),build/advisories)

e2e: setup ## bring docker-compose.yml up and check it from outside (needs a Docker engine)
	$(BIN)/python .ci/e2e.py

bench: setup redis ## benchmark the service beside a naive one, in one run (ARGS="--rounds 1"; run make demo first)
	$(BIN)/python -m loadtest.serving.bench --artifacts $(BENCH)/artifacts --data $(BENCH)/data \
	  --out docs/results $(ARGS)

bench-start: setup ## benchmark the start of the service and its processes' memory (ARGS="--rounds 1"; run make demo first)
	$(BIN)/python -m loadtest.serving.bench_start --artifacts $(BENCH)/artifacts --out docs/results $(ARGS)

chaos: setup redis ## overload, faults of engine and Redis, replaced instances: 10 minutes (ARGS="--quick --parts redis")
	$(BIN)/python -m loadtest.reliability.chaos --out docs/results $(ARGS)

loop: setup redis ## serve, experiment, report, refresh, next version, on MovieLens 100K (ARGS="--epochs 5"; run make demo first)
	$(BIN)/python -m loadtest.experiments.loop --raw demo/raw --out build/loop $(ARGS)

bench-arms: setup redis ## numbers of interests, popular items and two versions, by simulated users, after `make loop`
	$(BIN)/python -m loadtest.experiments.bench_arms --loop build/loop --out docs/results $(ARGS)

bench-experiments: setup ## false alarms and power of 2,000 simulated experiments, and users that interleaving saves
	$(BIN)/python -m loadtest.experiments.bench_analysis --out docs/results $(ARGS)
	$(BIN)/python -m loadtest.experiments.bench_interleaving --out docs/results

soak: setup redis ## memory by minute and latencies of an hour at 70 % of the peak (ARGS="--minutes 2")
	$(BIN)/python -m loadtest.reliability.soak --out docs/results $(ARGS)

bench-engine: setup ## benchmark the engine without HTTP against the machine's arithmetic limit
	$(BIN)/python -m loadtest.serving.bench_engine --artifacts $(BENCH)/artifacts --data $(BENCH)/data $(ARGS)

bench-histories: setup ## benchmark the engine beside the floor, histories of 5 to 200 items (ARGS="--pretend avx2")
	$(BIN)/python -m loadtest.serving.bench_histories $(ARGS)

bench-gpu: setup ## benchmark the engine on 1 M synthetic items beside a naive loop, on a GPU (ARGS="--items 20000")
	$(BIN)/python -m loadtest.gpu.bench_gpu $(ARGS)

gpu-check: setup ## all that the GPU's code has to show, in 8 minutes (ARGS=--dry-run: in small, on the CPU)
	$(BIN)/python -m loadtest.gpu.check $(ARGS)

bench-hidden: setup ## hide items under load, and look for them in a million answers (run make demo first)
	$(BIN)/python -m loadtest.serving.bench_hidden --artifacts $(BENCH)/artifacts $(ARGS)

bench-quality: setup ## train one seed on a public data set and compare with the recorded figures (ARGS="--set Beauty")
	$(BIN)/python -m loadtest.quality.bench_quality $(ARGS)

bench-filter-mix: setup ## p99 at half load with 64 filters, memory with 10,000 (run make demo first)
	$(BIN)/python -m loadtest.serving.bench_filter_mix --artifacts $(BENCH)/artifacts --data $(BENCH)/data $(ARGS)

bench-filters: setup ## benchmark filtered recalls beside unfiltered ones, 12 k and 1 M items (ARGS=--short)
	$(BIN)/python -m loadtest.scale.bench_filters --out docs/results $(ARGS)

bench-scale: setup ## benchmark a synthetic catalogue of 1 M items: exact search beside the exported index
	$(BIN)/python -m loadtest.scale.bench_scale --out docs/results $(ARGS)

bench-store: setup ## benchmark the embedded store: 1,000 durable events/s at 1 M users (ARGS="--users 20000 --rate 200")
	$(BIN)/python -m loadtest.serving.bench_store $(ARGS)

bench-swaps: setup ## 100 changes of version under load at half of the peak: 10 minutes (ARGS="--swaps 5 --seconds 10")
	$(BIN)/python -m loadtest.reliability.swaps --out docs/results $(ARGS)

bench-train: setup $(PEER)/.installed ## benchmark training beside RecBole, same network, on Beauty: 15 minutes (ARGS="--peer-epochs 1")
	$(BIN)/python -m loadtest.training.bench_train --peer-python $(PEER)/bin/python --out docs/results $(ARGS)

# RecBole needs versions of its time (Python 3.11 or 3.12), so it gets an environment of its own.
$(PEER)/.installed:
	"$(PYTHON)" -m venv $(PEER)
	$(PEER)/bin/python -m pip install --disable-pip-version-check -q \
	  'numpy<2' 'pandas<2.2' 'scipy<1.13' torch==2.13.0 recbole==1.2.1
	@touch $@

bench-threads: setup ## training, evaluation and Faiss alone and beside a busy loop (needs make demo first)
	$(BIN)/python -m loadtest.training.bench_threads --data $(BENCH)/data --out docs/results $(ARGS)

bench-train-scale: setup ## benchmark training on a synthetic log of 1 M items and 10 M events: rate, memory, loss
	$(BIN)/python -m loadtest.training.bench_train_scale --out docs/results $(ARGS)

load: setup ## send recalls and events for 60 s to URL=http://127.0.0.1:8000 (ARGS="-u 50 -t 5m")
	$(BIN)/locust -f loadtest/locustfile.py --host $(URL) --data demo/data --headless \
	  -u 20 -r 20 -t 60s $(ARGS)

clean: ## remove what make created: .venv, demo, build, caches
	rm -rf $(VENV) demo build *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
