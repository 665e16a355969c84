# The only way anything here is run. Needs Python 3.11+, git and make; everything else is set up in .venv.

PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2
# An ordinary installation compiles once; an editable one, where bytecode is not written, would compile at every start.
COMPILE := @$(BIN)/python -m compileall -q coordinator recovery crewkeep

.PHONY: demo test test-agents lint bench bench-context bench-readme prove docs test-needs clean
.DEFAULT_GOAL := demo

demo: .make/run          ## four sessions, two kill -9, nothing lost
	$(BIN)/crewkeep demo

test: .make/dev .make/strace .make/bench   ## everything but real agent programs, in under 10 minutes on 2 cores
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --ignore tests/agents $(ARGS)

# These programs take seconds of processor to start and time out by themselves: what failed beside others is run once more, alone,
# and must pass then. Both runs are shown.
test-agents: .make/dev .make/agents   ## real agent programs against a model on loopback
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS) tests/agents \
	  || $(BIN)/python -m pytest --last-failed --last-failed-no-failures none $(ARGS) tests/agents

lint: .make/dev          ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .make/bench       ## print all measurements and write them as JSON below benchmarks/results
	$(BIN)/python -m benchmarks $(ARGS)

bench-context: .make/bench   ## the shared context against its peers: ARGS='--help' shows how to measure less
	$(BIN)/python -m benchmarks.context $(ARGS)

bench-readme: .make/run  ## publish the last bench-context: keep its figures in the repository and write them into README.md
	$(BIN)/python -m benchmarks.readme benchmarks/results/context.json

prove: .make/dev test-needs   ## every crash state, system call, bit and history there is, and 200 random rounds: nothing is lost
	PROVE=1 $(BIN)/python -m pytest -q tests/proof $(ARGS)
	ROUNDS=$${ROUNDS:-200} $(BIN)/python -m pytest -q tests/processes/test_random_rounds.py $(ARGS)

docs: .make/dev          ## check that every command is documented and that the examples run
	$(BIN)/python -m pytest -q tests/test_house.py

# What tests need beyond Python. Where the machine does not allow it, those tests are skipped with the reason.
test-needs: .make/agents .make/strace .make/bench

.make/strace:
	@mkdir -p .make
	@if [ "$$CI" = true ] && ! command -v strace >/dev/null 2>&1 && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends strace >/dev/null; fi
	@if command -v strace >/dev/null 2>&1; then touch $@; \
	else echo "strace is not installed; the proof by its recordings will be skipped" >&2; fi

.make/agents: tests/agents/package-lock.json
	@mkdir -p .make
	@if [ "$$CI" = true ] && ! command -v npm >/dev/null 2>&1 && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends nodejs npm >/dev/null; fi
	@if command -v npm >/dev/null 2>&1; then \
	  (cd tests/agents && npm install --no-save --no-audit --no-fund --loglevel=error) && touch $@ \
	    || echo "npm could not install the agents; their tests will be skipped" >&2; \
	else echo "npm is not installed; the tests of real agents will be skipped" >&2; fi

.make/run: .make/venv pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	$(COMPILE)
	@touch $@

.make/dev: .make/venv pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(COMPILE)
	@touch $@ .make/run

# What the shared context is measured against. A peer that cannot be installed is named as left out by the benchmark.
# Debian starts a service with redis-server, so it is installed only where that is meant (CI) or cannot be (containers).
.make/bench: .make/run
	@$(BIN)/python -m pip install --quiet --editable '.[bench]' || for peer in lmdb diskcache 'redis[hiredis]'; do \
	  $(BIN)/python -m pip install --quiet "$$peer" || echo "$$peer could not be installed; it will be left out" >&2; done
	@if ! command -v redis-server >/dev/null 2>&1 && { [ "$$CI" = true ] || [ ! -d /run/systemd/system ]; } \
	  && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends redis-server >/dev/null || true; fi
	@command -v redis-server >/dev/null 2>&1 || echo "redis-server is not installed; redis will be left out" >&2
	@touch $@

.make/venv:
	@mkdir -p .make
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "$(PYTHON) is not installed; crewkeep needs Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$$($(PYTHON) --version 2>&1) is too old; crewkeep needs 3.11 or newer: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "$(PYTHON) cannot make a virtual environment; install its venv module" >&2; exit 1; }
	@touch $@

clean:                   ## remove what make has set up
	rm -rf .venv .make build dist
