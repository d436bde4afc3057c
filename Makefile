# Everything from a bare machine: each target sets up what it needs, in .venv, and does so once.

VENV := .venv
PYTHON := $(VENV)/bin/python
READY := $(VENV)/ready
READY_TO_TEST := $(VENV)/ready-to-test
READY_TO_BENCH := $(VENV)/ready-to-bench

.PHONY: help demo test lint bench clean

help:
	@echo 'make demo    count the words of the standard library with a pool of workers'
	@echo 'make test    pass the tests'
	@echo 'make lint    check style and types'
	@echo 'make bench   measure the speed beside other queues'
	@echo 'make clean   forget all that was set up'

demo: $(READY)
	$(PYTHON) demo/wordcount.py

# All tests: most of them on two processors, then, one by one, those that measure time or processor. With ARGS: what they name.
test: $(READY_TO_TEST)
ifdef ARGS
	$(PYTHON) -m pytest $(ARGS)
else
	@failed=0; set -x; \
	$(PYTHON) -m pytest -m 'not alone' -n 2 --dist worksteal || failed=1; \
	$(PYTHON) -m pytest -m alone || failed=1; \
	exit $$failed
endif

lint: $(READY_TO_TEST)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

bench: $(READY_TO_BENCH)
	$(PYTHON) -m bench $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

$(PYTHON):
	.ci/venv $(VENV)

$(READY): pyproject.toml setup.py | $(PYTHON)
	$(PYTHON) -m pip install --quiet --editable .
	touch $@

$(READY_TO_TEST): pyproject.toml setup.py .ci/servers | $(PYTHON)
	$(PYTHON) -m pip install --quiet --editable '.[test]'
	.ci/servers
	touch $@

$(READY_TO_BENCH): pyproject.toml setup.py .ci/servers | $(PYTHON)
	$(PYTHON) -m pip install --quiet --editable '.[redis,bench]'
	.ci/servers
	touch $@
