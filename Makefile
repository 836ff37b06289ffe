# Everything a person or a CI needs, in one place: `make` lists it.
# Needs Python 3.11 or newer; uses uv if it is installed, else venv and pip.

.DEFAULT_GOAL := help
.PHONY: help setup demo test check oracle simulate guards mutants sanitize bench bench-check bench-baseline quality kill-sweep recovery soak cluster-faults docs clean
BIN := .venv/bin
# What an installation is made of; the Python itself is read where it is.
INSTALLED := pyproject.toml uv.lock scripts/setup.sh hatch_build.py $(wildcard segstream/core/c/*)

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

setup: .venv/.ready ## Create .venv with all that the demo needs

demo: .venv/.ready ## Run the demo: real Kafka and Valkey, no Docker (ARGS=--json: one JSON object)
	@$(BIN)/segstream demo $(ARGS)

test: .venv/.ready-dev ## Run the tests: on servers, beside the others (ARGS=... for pytest)
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

check: .venv/.ready-dev ## Lint, format, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

oracle: .venv/.ready-dev ## Hold a whole year of real orders against the oracle (minutes)
	@$(BIN)/python -m tests.retail_year

simulate: .venv/.ready-dev ## Run worker and trainer through random faults (SCHEDULES=100000)
	@$(BIN)/python -m tests.simulation --schedules $(or $(SCHEDULES),2000) $(ARGS)

guards: .venv/.ready-dev ## Take each guard of the delivery protocol away and see what breaks
	@$(BIN)/python -m tests.simulation guards

mutants: .venv/.ready-dev ## Plant bugs, one at a time, that the quick tests must see (minutes)
	@$(BIN)/python -m tests.mutants $(ARGS)

sanitize: .venv/.ready-dev ## Run the tests of the compiled code with sanitizers (needs gcc; minutes)
	@sh scripts/sanitize.sh $(ARGS)

bench: .venv/.ready-dev ## Measure how fast it is, write docs/performance.md: 30 minutes (ARGS=--quick: 2)
	@$(BIN)/python -m benchmarks $(ARGS)

bench-check: .venv/.ready-dev ## Count the core's instructions per event: none may be lost (needs valgrind)
	@$(BIN)/python -m benchmarks check

bench-baseline: .venv/.ready-dev ## Record what bench-check compares with
	@$(BIN)/python -m benchmarks check --record

quality: .venv/.ready-dev ## Hold the segments against a nightly batch (DATA=, MAPPING=, TRUTH=, CONFIG=, K=)
	@$(BIN)/python -m benchmarks.quality $(if $(DATA),--data $(DATA)) $(if $(MAPPING),--mapping $(MAPPING)) \
		$(if $(TRUTH),--truth $(TRUTH)) $(if $(CONFIG),--config $(CONFIG)) $(if $(K),--k $(K)) $(ARGS)

kill-sweep: .venv/.ready-dev ## Kill and freeze real processes at every failpoint (minutes)
	@$(BIN)/python -m tests.faults.sweep $(ARGS)

recovery: .venv/.ready-dev ## Measure how long partitions stand still when a worker dies (minutes)
	@$(BIN)/python -m tests.faults.recovery $(ARGS)

soak: .venv/.ready-dev ## Mixed random faults for MINUTES=30, then the verdict (SEED=...)
	@$(BIN)/python -m tests.faults.soak --minutes $(or $(MINUTES),30) $(if $(SEED),--seed $(SEED))

cluster-faults: .venv/.ready-dev ## Three Kafka nodes: rolling restarts, leaders and coordinators killed
	@$(BIN)/python -m tests.faults.cluster $(ARGS)

docs: .venv/.ready-dev ## Write what is generated: schemas and reference pages
	@$(BIN)/python scripts/make_schemas.py
	@$(BIN)/python -m scripts.reference

clean: ## Remove .venv and caches
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist

# A stamp is renewed when what it depends on changes. The script writes to stderr only, so that
# the output of `make demo ARGS=--json` is the JSON and nothing else.
.venv/.ready: $(INSTALLED)
	@sh scripts/setup.sh local >&2
	@touch $@

.venv/.ready-dev: $(INSTALLED)
	@sh scripts/setup.sh local dev >&2
	@touch .venv/.ready $@
