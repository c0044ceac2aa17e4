# Each target is all the set-up there is: but for the wheel, which needs pip alone, it makes .venv, installs the
# package and, on a Debian or Ubuntu without them, the display libraries.

PYTHON ?= python3
export PYTHON
python := .venv/bin/python

.PHONY: demo test lint wheel environment

demo: environment  ## open napari on a sample image with its cells counted (no screen: demo/screenshot.png)
	.ci/on-screen $(python) -m cellwright.widgets.plugin.demo

test: environment  ## the whole test suite with its coverage
	.ci/on-screen --hidden env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(python) -m pytest -n 2 --cov --cov-fail-under=95

lint: environment  ## style and types
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy

wheel:  ## dist/napari_cellwright-*.whl, which pip installs on every system
	$(or $(wildcard $(python)),$(PYTHON)) -m pip wheel --quiet --no-deps --wheel-dir dist .

environment:
	@.ci/environment
