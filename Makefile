# What a person and .ci/run both call. `make quickstart` and `make test` work in a fresh clone with Python >= 3.11.

PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,$(shell $(name) -c \
	'import sys; print("$(name)" if sys.version_info >= (3, 11) else "")' 2>/dev/null)))
PIP_ARGS ?=  # e.g. --extra-index-url https://download.pytorch.org/whl/cpu for a torch without CUDA
BIN := .venv/bin
READY := .venv/.ready
DEVICE := build/device
BUNDLE ?= work/bundle
RESULT ?= work/latency.json  # where the measurement goes; what is published lies in benchmarks/results
AGAINST ?=  # ONNX encoder measured beside the bundle, e.g. the FP32 teacher's

.PHONY: quickstart test check format device bench tables clean

quickstart: $(READY)
	$(BIN)/mtrec-edge quickstart --out work/quickstart

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python benchmarks/make_tables.py --check
	$(BIN)/python benchmarks/make_pictures.py --check
	$(BIN)/python docs/make_tree.py --check

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A fresh environment that holds the device wheel, then pytest beside it.
device:
	$(call need_python)
	rm -rf $(DEVICE)
	$(PYTHON) -m venv $(DEVICE)/venv
	$(DEVICE)/venv/bin/pip wheel -q --no-deps -w $(DEVICE) ./runtime
	$(DEVICE)/venv/bin/pip install -q $(DEVICE)/mtrec_edge_runtime-*.whl
	$(DEVICE)/venv/bin/python runtime/check_install.py
	$(DEVICE)/venv/bin/pip install -q pytest
	$(DEVICE)/venv/bin/pytest tests/device --confcutdir=tests/device

bench: $(READY)
	$(BIN)/mtrec-edge bench $(BUNDLE) $(addprefix --against ,$(AGAINST)) --json $(RESULT)

tables: $(READY)
	$(BIN)/python benchmarks/make_tables.py
	$(BIN)/python benchmarks/make_pictures.py
	$(BIN)/python docs/make_tree.py

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(READY): pyproject.toml
	$(call need_python)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q $(PIP_ARGS) -e '.[dev]'
	touch $(READY)

define need_python
@test -n "$(PYTHON)" || { echo "no Python >= 3.11 found: install one, or name it: make PYTHON=/path/to/python3"; exit 1; }
endef
