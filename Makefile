# Everything from a bare machine: each target sets up what it needs, in .venv, and does so once.

VENV := .venv
PYTHON := $(VENV)/bin/python
READY := $(VENV)/ready
READY_TO_TEST := $(VENV)/ready-to-test
READY_TO_BENCH := $(VENV)/ready-to-bench
VENV_OLDEST := .venv-oldest
READY_OLDEST := $(VENV_OLDEST)/ready-to-test
# Other Pythons than the one of .venv, where they are found: on the PATH or in pyenv.
VERSIONS := 3.12 3.13
# Beside the whole suite of `make test`: neither what measures time or processor nor the long random walks.
IN_SHORT := -m 'not alone and not slow' -n 2 --dist worksteal

.PHONY: help demo test test-oldest test-versions lint bench clean

help:
	@echo 'make demo    count the words of the standard library with a pool of workers'
	@echo 'make test    pass the tests'
	@echo 'make test-oldest    pass most of them with the oldest version allowed of all that SkunkQueue needs'
	@echo 'make test-versions  pass most of them on other versions of Python, where there are any'
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

test-oldest: $(READY_OLDEST)
	$(VENV_OLDEST)/bin/python -m pytest $(or $(ARGS),$(IN_SHORT))

test-versions:
	@failed=0; \
	for version in $(VERSIONS); do \
	  $(MAKE) --no-print-directory test-$$version || failed=1; \
	done; \
	exit $$failed

test-3.%: .ci/servers
	@.ci/servers
	@python=$$(.ci/python 3.$*) || { echo "NOT TESTED: there is no Python 3.$* here" >&2; exit 0; }; set -ex; \
	test -x .venv-3.$*/bin/pip || .ci/venv .venv-3.$* "$$python"; \
	.venv-3.$*/bin/python -m pip install --quiet --editable '.[test]'; \
	.venv-3.$*/bin/python -m pytest $(or $(ARGS),$(IN_SHORT))

lint: $(READY_TO_TEST)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

bench: $(READY_TO_BENCH)
	$(PYTHON) -m bench $(ARGS)

clean:
	rm -rf $(VENV) $(VENV_OLDEST) .venv-3.* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
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

$(READY_OLDEST): pyproject.toml setup.py .ci/oldest .ci/servers | $(PYTHON)
	test -x $(VENV_OLDEST)/bin/pip || .ci/venv $(VENV_OLDEST)
	$(PYTHON) .ci/oldest > $(VENV_OLDEST)/oldest.txt
	$(VENV_OLDEST)/bin/python -m pip install --quiet --constraint $(VENV_OLDEST)/oldest.txt --editable '.[test]'
	.ci/servers
	touch $@

$(READY_TO_BENCH): pyproject.toml setup.py .ci/servers | $(PYTHON)
	$(PYTHON) -m pip install --quiet --editable '.[redis,bench]'
	.ci/servers
	touch $@
