# Everything runs in a virtual environment that make creates in this checkout, with the versions of constraints.txt.
#
#   make demo    compress a trained network on real images: a table, an artefact and an HTML report in out/demo
#   make test    the whole test suite
#   make lint    formatting, lint and types
#   make sanitize  damaged and forged plans in the engine, watched by the address and undefined behaviour sanitizers
#   make bench   every claim measured again, for many hours; needs DOVETAIL_DATA and the packages that the scripts name
#   make docs    the documentation, in site/
#   make clean   removes all that make made
#
# PYTHON=python3.12 chooses the interpreter, VENV=dir the environment, TORCH=2.13.0+cpu another build of PyTorch.

SHELL  := bash
PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= $(shell sed -n 's/^torch==//p' constraints.txt)
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PIP    := $(BIN)/python -m pip --disable-pip-version-check

# One thread a process: the tests run in two, and timings of more threads than cores mean nothing.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint sanitize bench docs clean browser

demo: $(READY)
	$(BIN)/dovetail compress resnet8_fashion --recipe deep_compression_quick --data fashion_mnist_sample --out out/demo --fresh

test: $(READY) browser
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	set -e; for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python $$script; done

sanitize: $(READY)
	cmake -S . -B build/sanitize -DDOVETAIL_PYTHON=OFF -DCMAKE_BUILD_TYPE=RelWithDebInfo \
		-DCMAKE_CXX_FLAGS="-fsanitize=address,undefined -fno-sanitize-recover=all"
	cmake --build build/sanitize --target fuzz_plan
	$(BIN)/python tests/runtime/planned_networks.py build/sanitize
	set -e; for level in $$($(BIN)/python -c "from dovetail._native import levels; print(*levels())"); do \
		echo "== $$level"; DOVETAIL_ISA=$$level build/sanitize/fuzz_plan 2000 build/sanitize/*.plan; done

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist out site .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} +

# PyTorch comes first and by itself, so that the one large download is cached however the rest changes.
$(READY): pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*) $(wildcard csrc/*/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet pip==26.3
	$(PIP) install --quiet --constraint constraints.txt torch==$(TORCH)
	$(PIP) install --quiet --constraint constraints.txt --build-constraint constraints.txt --editable '.[dev,docs]'
	touch $@

# One test looks at the report in a real browser.
browser:
	@command -v chromium chromium-browser google-chrome >/dev/null || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends chromium; \
	else \
		echo "The test of the report needs a browser: install chromium or google-chrome, then run this again." >&2; exit 1; \
	fi
