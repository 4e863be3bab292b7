# Every target sets up what it needs: a virtual environment in .venv with the package installed from this
# folder, its core compiled. PYTHON chooses the interpreter it is made with.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# what is compiled: every .py with a .pxd beside it
PXD    := $(shell find src -name '*.pxd')
CORE   := $(PXD) $(wildcard $(PXD:.pxd=.py))

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test lint bench soak guest wheel clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo    the main job on real data, with live progress'
	@echo 'make test    the tests, without the suites that take minutes and hours'
	@echo 'make lint    ruff and mypy'
	@echo 'make bench   the measurements'
	@echo 'make soak    hours of racing accesses and all slow tests; the first wrong byte ends it'
	@echo 'make guest   the tests and the soak on the kernel of Debian 12 (6.1), in QEMU: hours'
	@echo 'make wheel   a portable wheel in dist/, tried on every Python found'
	@echo 'make clean   remove what was built and $(VENV)'

demo: $(VENV)/built
	$(BIN)/frontswap demo

test: $(VENV)/built $(VENV)/tools
	$(BIN)/pytest

lint: $(VENV)/tools
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(VENV)/built $(VENV)/tools
	$(BIN)/python -m bench
	$(BIN)/python -m bench.pool
	$(BIN)/python -m bench.hooks
	$(BIN)/python -m bench.locks
	$(BIN)/python -m bench.policies
	$(BIN)/python -m bench.nbd

soak: $(VENV)/built $(VENV)/tools
	$(BIN)/python -m frontswap.testing.soak --all
	$(BIN)/python -m frontswap.testing.hooks_soak
	.ci/slow --all
	.ci/forbidden --all

guest: $(VENV)/built $(VENV)/tools
	.ci/guest --all
	.ci/swaps --all

wheel: $(VENV)/tools
	.ci/wheel

clean:
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src -name '*.so' -delete
	find src tests bench .ci -name __pycache__ -type d -prune -exec rm -rf {} +

# --- what the targets stand on ------------------------------------------------------------------------------

$(VENV)/bin/python:
	.ci/need $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'

# Without build isolation: what the build needs stays here, so that a changed source costs its compilation only.
# The stamp has the time of the start: what is edited meanwhile is compiled again.
$(VENV)/installed: pyproject.toml setup.py src/frontswap_run.pth | $(VENV)/bin/python
	@touch $@.started
	@echo '== $(VENV): requirements of the build, then the package (compiles the core: about a minute)'
	$(BIN)/python .ci/build_requires.py | $(BIN)/pip install --quiet --requirement /dev/stdin
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[demo]'
	@mv $@.started $@

$(VENV)/built: $(CORE) $(VENV)/installed
	@if [ -n "$$(find $(CORE) -newer $(VENV)/installed)" ]; then \
		echo '== the core: compiling what has changed'; \
		$(BIN)/python setup.py --quiet build_ext --inplace; \
	fi
	@touch $@

$(VENV)/tools: pyproject.toml | $(VENV)/installed
	@echo '== $(VENV): tools for tests and checks'
	$(BIN)/pip install --quiet --group dev
	@touch $@
