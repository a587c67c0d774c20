# What one does with this project. `make demo` is the way in; everything sets up what it needs by itself.

.DEFAULT_GOAL := help
.PHONY: help demo demo-down ui test permissions faults fidelity lint bench fuzz fuzz-studies fuzz-portal clean use dev

# By the environment's own name: .venv is a link that may point to another one before a long test run has ended.
PYTHON := $$(readlink -f .venv)/bin/python
BENCH ?=
SECONDS ?= 600
STUDIES ?= 2000
SEED ?=
ONLY ?=
TESTS ?= tests/e2e tests/integration tests/fidelity tests/unit
# Test files that run at once. Each process has an embedded AWS of its own; more than two want more than 16 GiB and 2 cores.
PARALLEL ?= 2

help:
	@echo "make demo       from nothing to an inferred study with its lineage, on this machine"
	@echo "make demo-down  stop everything the demo started"
	@echo "make ui         start the Dagster UI on the demo's embedded AWS again (PORT=, MONAI_AWS_DEPLOYMENT=)"
	@echo "make test       unit, integration, fidelity and end-to-end tests (TESTS=path for some)"
	@echo "make permissions  what the tests called, held against the policies of infra/bootstrap.yaml (after make test and make faults)"
	@echo "make faults     what goes wrong on AWS made to go wrong, one line a case; and the long tests of machines that make test leaves out"
	@echo "make fidelity   that the embedded AWS refuses what AWS refuses, and that the system lives through it, into build/fidelity.json"
	@echo "make lint       style, types, declared packages, templates and policies, and whether Dagster can load the project"
	@echo "make bench      measurements into build/bench/*.json (BENCH=name for one)"
	@echo "make fuzz       damaged uploads against the intake (SECONDS=600)"
	@echo "make fuzz-studies  good studies changed in hundreds of ways, against the whole agent (STUDIES=2000 SEED= ONLY=)"
	@echo "make fuzz-portal  requests of every kind against the portal as a process (SECONDS=600 SEED=)"
	@echo "make clean      end the demo and remove everything that was made here"

use:
	@infra/setup/environment.sh use

dev:
	@infra/setup/environment.sh dev

demo: use
	@.venv/bin/monai-aws demo

demo-down:
	@infra/setup/environment.sh any
	@.venv/bin/monai-aws demo --down

ui: use
	@.venv/bin/monai-aws ui $(if $(PORT),--port $(PORT))

test: dev
	@$(PYTHON) -m pytest --numprocesses $(PARALLEL) --dist loadfile --no-loadscope-reorder $(TESTS)

permissions: dev
	@$(PYTHON) -m tests.permissions

faults: dev
	@MONAI_TESTS_TELL=1 $(PYTHON) -m pytest tests/faults -q --no-header
	@$(PYTHON) -m pytest tests/e2e -m long -q --no-header

fidelity: dev
	@MONAI_TESTS_FIDELITY=build/fidelity.json $(PYTHON) -m pytest tests/fidelity -q --no-header

lint: dev
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/deptry monai_aws_pipeline lambda_fn examples
	@.venv/bin/deptry tests --ignore DEP002,DEP004
	@.venv/bin/dg check defs
	@.venv/bin/cfn-lint infra/bootstrap.yaml infra/team/ecs.yaml infra/team/machine.yaml infra/team/portal.yaml
	@$(PYTHON) -m tests.permissions.lint

bench: dev
	@$(PYTHON) -m tests.bench $(BENCH)

fuzz: dev
	@$(PYTHON) -m tests.fuzz --seconds $(SECONDS)

fuzz-studies: dev
	@$(PYTHON) -m tests.fuzz.studies --count $(STUDIES) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY))

fuzz-portal: dev
	@$(PYTHON) -m tests.fuzz.portal --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

clean:
	@if [ -x .venv/bin/monai-aws ]; then \
	  .venv/bin/monai-aws demo --down && .venv/bin/monai-aws local reset || exit 1; \
	  for cloud in .cache/test-clouds/*/; do if [ -d "$$cloud" ]; then .venv/bin/monai-aws local reset --state-dir "$$cloud"; fi; done; \
	fi
	rm -rf --one-file-system .demo .local-cloud .venv .cache build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
