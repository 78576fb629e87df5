# make demo and make test set up everything they need: a virtual environment in .venv, the pinned
# packages, the compiled extensions. Needed beforehand: Python 3.11 or newer, a C++20 compiler,
# make. What is finished is not done again.
#
#   make test PYTHON=python3.12    another interpreter, for the first run
#   make build STARR_CUDA=0        no CUDA kernels even where nvcc is found; see setup.py

PYTHON ?= python3
BIN := .venv/bin
CMAKE_BUILD = build/$$($(BIN)/python -c 'import sys; print(sys.implementation.cache_tag)')
CXX_FILES = $$(find csrc -name '*.cpp' -o -name '*.hpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.DEFAULT_GOAL := help
.PHONY: help demo test build simulated lint format sanitize bench docs clean
.DELETE_ON_ERROR:

help:
	@echo "make demo      a batch job on a shipped model, and the table of what it measured"
	@echo "make test      C++ and Python tests, lint, types, formatting"
	@echo "make build     the environment and the extensions only"
	@echo "make simulated the CUDA kernels for a simulated GPU, which their tests need"
	@echo "make lint      ruff, mypy, clang-format; make format rewrites the files"
	@echo "make sanitize  C++ tests and CUDA kernels under address and undefined-behaviour sanitizers"
	@echo "make bench     every script in benchmarks/"
	@echo "make docs      the documentation as a site in build/site"
	@echo "make clean     remove what was built; the environment stays (rm -r .venv)"

demo: build
	@$(BIN)/python examples/demo.py

test: build simulated
	@echo "== C++ tests"
	@$(BIN)/ctest --test-dir $(CMAKE_BUILD) --no-tests=error --output-on-failure --progress
	@echo "== Python tests"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not gpu" -n auto --maxprocesses 8 --dist worksteal
	@$(MAKE) --no-print-directory lint

lint: build
	@echo "== ruff, mypy, clang-format"
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy
	@$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

format: .venv/.packages
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format .
	@$(BIN)/clang-format -i $(CXX_FILES)

# CMake itself decides what is out of date, so that a changed STARR_CUDA counts too.
build: .venv/.installed
	@$(BIN)/python setup.py --quiet build_ext --inplace

# For tests: the CUDA kernels, compiled for a simulated GPU.
simulated: build
	@$(BIN)/cmake --build $(CMAKE_BUILD) --target simulated

# Editable: the command starr-engine and the metadata; the code stays here.
.venv/.installed: .venv/.packages pyproject.toml
	@echo "== building the extensions (about half a minute the first time)"
	@$(BIN)/python setup.py --quiet build_ext --inplace
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

.venv/.packages: requirements/dev.txt | .venv/bin/python
	@echo "== installing the pinned packages of $< (minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "starr-engine needs Python 3.11 or newer; '$(PYTHON)' is" \
	       "$$($(PYTHON) --version 2>&1 || true); try: make PYTHON=python3.12 ..." >&2; exit 1; }
	@command -v "$${CXX:-c++}" >/dev/null || { \
	  echo "no C++ compiler: '$${CXX:-c++}' was not found; install g++ 11 or newer, or set CXX" >&2; \
	  exit 1; }
	@echo "== making the virtual environment .venv"
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu install python3-venv" >&2; exit 1; }

sanitize: .venv/.packages
	@PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S csrc -B build/sanitize -G Ninja --log-level=WARNING \
	  -DSTARR_SANITIZE=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo
	@$(BIN)/cmake --build build/sanitize --target all simulated
	@$(BIN)/ctest --test-dir build/sanitize --no-tests=error --output-on-failure

bench: build
	@set -e; for script in benchmarks/bench_*.py; do echo "== $$script"; \
	  $(BIN)/python -m "benchmarks.$$(basename "$$script" .py)"; done
	$(BIN)/python -m benchmarks.peers

# Says what is broken, and fails. NO_MKDOCS_2_WARNING: no announcements of other versions.
docs: .venv/.packages
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo "build/site is complete: $(BIN)/python -m http.server --directory build/site"

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f starr_engine/_core*.so starr_engine/_core.pyi starr_engine/_ops.so
	rm -f .venv/.installed
