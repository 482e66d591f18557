# Everything a fresh machine needs is Python 3.11 or newer, make and a package index.
#
#   make run     serve the quickstart example
#   make test    start the test servers and run every test
#   make fuzz    play random histories of pools for SECONDS=600 in JOBS=2 processes, then cancel borrowers of
#                every real server at random, CANCELLATIONS=10000 times each
#
# Another interpreter: make test PYTHON=python3.13. Each version has an environment of its own,
# so that going back and forth builds nothing twice.

PYTHON ?= python3
PYTEST_ARGS ?=
JOBS ?= 2
WORKERS ?= 2
FUZZ_SECONDS ?= 60
SECONDS ?= 600
SEED ?= 0
CANCELLATIONS ?= 10000
ROUNDS ?= 21
SERVER_ROUNDS ?= 9
PAGE ?=

python_version := $(shell $(PYTHON) -c 'import sys; print("%d.%d%s" % (*sys.version_info[:2], sys.abiflags))' 2>/dev/null)

# The default interpreter lives in .venv, one that was asked for in .venv-<its version>.
ifeq ($(PYTHON),python3)
VENV := .venv
BENCH := .venv-bench
else
VENV := .venv-$(python_version)
BENCH := .venv-bench-$(python_version)
endif

# The version is in the stamp's name: when `python3` becomes another version, .venv is built anew.
stamp := $(VENV)/.ready-$(python_version)
bench_stamp := $(BENCH)/.ready-$(python_version)
bench_page := $(if $(PAGE),--page $(PAGE))

.DEFAULT_GOAL := help
.PHONY: bench bench-all bench-compiled help env run test fuzz mutants mutmut lint clean servers python

help: ## Say what can be made
	@echo 'make <target> [PYTHON=python3.13]'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST)

env: $(stamp) ## Create or refresh the environment in .venv

run: $(stamp) ## Serve the quickstart example on 127.0.0.1:8000
	@mkdir -p var
	@exec $(VENV)/bin/millpond serve --connections examples/quickstart/connections.json --webhooks examples/quickstart/webhooks.json --host 127.0.0.1 --port 8000

test: $(stamp) servers ## Run every test, in WORKERS=2 processes, against real servers of its own
ifeq ($(strip $(PYTEST_ARGS)),)
	@failed=0; \
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile -m 'not alone' || failed=1; \
	echo 'those that measure the machine, alone'; \
	$(VENV)/bin/python -m pytest -m alone || failed=1; \
	exit $$failed
else
	$(VENV)/bin/python -m pytest $(PYTEST_ARGS)
endif

mutants: $(stamp) ## Plant faults in a copy of the kernel: who notices? (docs/how-we-know.md; JOBS=, FUZZ_SECONDS=)
	$(VENV)/bin/python -m tests.mutation --jobs $(JOBS) --fuzz-seconds $(FUZZ_SECONDS) --page docs/how-we-know.md

mutmut: $(stamp) ## Run mutmut on the pure parts of the kernel (docs/how-we-know.md; JOBS=)
	$(VENV)/bin/python -m tests.mutation.pure --jobs $(JOBS) --page docs/how-we-know.md

fuzz: $(stamp) servers ## Random histories for SECONDS=600 in JOBS= processes, CANCELLATIONS=10000 on each server; from SEED=0 on
	$(VENV)/bin/python -m millpond.testing.histories --seconds $(SECONDS) --seed $(SEED) --jobs $(JOBS)
	MILLPOND_CANCELLATIONS=$(CANCELLATIONS) MILLPOND_SEED=$(SEED) $(VENV)/bin/python -m pytest --timeout 900 tests/faults/test_storms.py tests/drivers/test_rabbitmq_storm.py

bench: $(bench_stamp) ## The table of targets: Millpond against other pools, under ten minutes (docs/benchmarks.md; ROUNDS=, PAGE=)
	@$(BENCH)/bin/python -m tests.servers >/dev/null
	@exec env PYTHONPATH=src $(BENCH)/bin/python -m benchmarks --rounds $(ROUNDS) --server-rounds $(SERVER_ROUNDS) $(bench_page)

bench-all: $(bench_stamp) ## Everything that is measured, under asyncio and uvloop; once for each PYTHON=
	@$(BENCH)/bin/python -m tests.servers >/dev/null
	@exec env PYTHONPATH=src $(BENCH)/bin/python -m benchmarks --all --rounds $(ROUNDS) --server-rounds $(SERVER_ROUNDS) $(bench_page)

bench-compiled: $(bench_stamp) ## What a compiled kernel would bring: prototypes, built in a temporary directory, and measured
	@exec env PYTHONPATH=src $(BENCH)/bin/python -m benchmarks.prototypes --rounds $(ROUNDS) $(bench_page)

$(bench_stamp): benchmarks/requirements.txt | python
	@[ -e $@ ] || $(PYTHON) -m venv --clear $(BENCH)
	@echo 'environment: $(BENCH), Python $(python_version)'
	@$(BENCH)/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r benchmarks/requirements.txt
	@rm -f $(BENCH)/.ready-*
	@touch $@

lint: $(stamp) ## Check style, format and types
	@failed=0; for check in 'ruff check' 'ruff format --check' 'mypy'; do \
		echo "$$check"; $(VENV)/bin/$$check || failed=1; done; exit $$failed

clean: ## Remove environments, caches and everything that running leaves behind
	rm -rf .venv .venv-* var build dist .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests examples benchmarks -type d -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

servers: $(stamp)
	@$(VENV)/bin/python -m tests.servers

$(stamp): requirements-dev.txt pyproject.toml | python
	@[ -e $@ ] || $(PYTHON) -m venv --clear $(VENV)
	@echo 'environment: $(VENV), Python $(python_version)'
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(VENV)/bin/python -m compileall -q src  # pip does so for what it installs, unless that is editable
	@rm -f $(VENV)/.ready-*
	@touch $@

python:
	@command -v $(PYTHON) >/dev/null 2>&1 \
		|| { echo 'millpond needs Python 3.11 or newer, and there is no $(PYTHON). Name one: make env PYTHON=python3.13' >&2; exit 1; }
	@[ -n '$(python_version)' ] \
		|| { echo '$(PYTHON) does not run here. Name another: make env PYTHON=python3.13' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'millpond needs Python 3.11 or newer; $(PYTHON) is $(python_version). Name another: make env PYTHON=python3.13' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo '$(PYTHON) cannot create environments: its venv module is missing. On Debian: apt-get install python$(python_version)-venv' >&2; exit 1; }
