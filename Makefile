# `make demo` and `make test` need nothing but Python 3.11+ and a network or package cache: both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: demo test slow matrix lint screenshot clean

demo: $(READY)
	$(BIN)/fxkernels demo

test: lint
	$(BIN)/python -m pytest -n auto

# What `make test` leaves out: whole matrices of kernels, modes and sizes, and tests that start many processes.
slow: $(READY)
	$(BIN)/python -m pytest -n auto -m "slow and not gpu"

# The tests that depend on versions, with the oldest and the newest ones: all rows, or one as in `make matrix ROW=newest`. Environments are kept.
matrix: $(READY)
	$(BIN)/python benchmarks/matrix.py $(ROW)

# The picture and the text that the README shows. Needs Chromium, and the fonts Inter and JetBrains Mono.
screenshot: $(READY)
	$(BIN)/python benchmarks/screenshot.py

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf .venv .matrix

# torch is pinned for development: one version that everybody's figures and private-API canaries refer to. It comes first, so that the second
# step finds it installed and picks no other.
$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@
