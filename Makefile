# Two commands on a machine with git, make and Python 3.11 or newer: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# Two test processes of one thread each suit two cores better than one process of two.
TEST_ENV := OMP_NUM_THREADS=1

.PHONY: demo test test-slow docs bench regression lint types contract clean

demo: $(READY)
	$(BIN)/unfreeze demo

test: $(READY)
	$(TEST_ENV) $(BIN)/python -m pytest -n 2

# Simulations of statistical promises, and whole runs that take many seconds.
test-slow: $(READY)
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 -m slow

docs: $(READY)
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet -b html docs docs/_build

# Real photos: UNFREEZE_TEST_DATA names the folder that benchmarks/README.md describes.
regression: $(READY)
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 -m regression

# unfreeze against its peers on the photos in BENCH_DATA; hours, unless BENCH_ARGS asks for less (benchmarks/README.md).
BENCH_CSV ?= bench.csv
bench: $(READY) .venv-peers/.ready .venv-autogluon/.ready
	$(BIN)/python -m benchmarks.peers.bench $(BENCH_DATA) --csv $(BENCH_CSV) \
		--python-peers .venv-peers/bin/python --python-autogluon .venv-autogluon/bin/python $(BENCH_ARGS)

.venv-%/.ready: benchmarks/peers/requirements-%.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --requirement $<
	touch $@

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(READY)
	$(BIN)/mypy

contract: $(READY)
	$(BIN)/lint-imports

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "unfreeze needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev --editable .
	touch $(READY)

clean:
	rm -rf .venv .venv-peers .venv-autogluon dist demo docs/_build
