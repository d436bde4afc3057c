# Everything from a bare machine: each target sets up what it needs, in .venv, and does so once.

VENV := .venv
PYTHON := $(VENV)/bin/python
READY := $(VENV)/ready
READY_TO_TEST := $(VENV)/ready-to-test
READY_TO_LINT := $(VENV)/ready-to-lint
READY_TO_BENCH := $(VENV)/ready-to-bench
READY_TO_PACKAGE := $(VENV)/ready-to-package
READY_FOR_DOCS := $(VENV)/ready-for-docs
VENV_OLDEST := .venv-oldest
READY_OLDEST := $(VENV_OLDEST)/ready-to-test
# Other Pythons than the one of .venv, where they are found: on the PATH or in pyenv.
VERSIONS := 3.12 3.13
# Most tests wait more than they work, so on two processors six run at once: all but what measures time or processor.
# Those are at rest nearly all the time, and two of them do not disturb each other: they are looked for in APART.
BESIDE := -n 6 --dist worksteal
AT_REST := -n 2 --dist worksteal
APART := $(shell grep -l 'mark\.alone' tests/test_*.py)
IN_SHORT := -m 'not alone and not slow' $(BESIDE)

# Modules are compiled once, also where the environment says otherwise: most tests start processes that import them.
# Those processes themselves write none (tests/conftest.py).
unexport PYTHONDONTWRITEBYTECODE
COMPILE := -m compileall -q skunkqueue

.PHONY: help demo test test-long test-oldest test-versions lint docs package bench clean

help:
	@echo 'make demo    kill a worker in the middle of its work, and count what is lost'
	@echo 'make test    pass the tests'
	@echo 'make test-long      pass those that take long: random walks, random deaths, many runs'
	@echo 'make test-oldest    pass most of them with the oldest version allowed of all that SkunkQueue needs'
	@echo 'make test-versions  pass most of them on other versions of Python, where there are any'
	@echo 'make lint    check style and types'
	@echo 'make docs    build the manual, into build/docs'
	@echo 'make package build what would be published, and run it from a fresh environment'
	@echo 'make bench   measure the speed beside other queues'
	@echo 'make clean   forget all that was set up'

demo: $(READY)
	$(PYTHON) demo/nothing_lost.py

# Most tests, then, apart from them, those that measure time or processor. With ARGS: what they name.
test: $(READY_TO_TEST)
	@$(PYTHON) $(COMPILE)
ifdef ARGS
	$(PYTHON) -m pytest $(ARGS)
else
	@failed=0; set -x; \
	$(PYTHON) -m pytest $(IN_SHORT) || failed=1; \
	$(PYTHON) -m pytest -m 'alone and not slow' $(AT_REST) $(APART) || failed=1; \
	exit $$failed
endif

test-long: $(READY_TO_TEST)
	@$(PYTHON) $(COMPILE)
	@failed=0; set -x; \
	$(PYTHON) -m pytest -m 'slow and not alone' $(BESIDE) || failed=1; \
	$(PYTHON) -m pytest -m 'slow and alone' $(AT_REST) $(APART) || failed=1; \
	exit $$failed

test-oldest: $(READY_OLDEST)
	@$(VENV_OLDEST)/bin/python $(COMPILE)
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
	.venv-3.$*/bin/python -m pip install --quiet --editable '.[test,uvloop]'; \
	.venv-3.$*/bin/python $(COMPILE); \
	.venv-3.$*/bin/python -m pytest $(or $(ARGS),$(IN_SHORT))

lint: $(READY_TO_TEST) $(READY_TO_LINT)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) tests/typed/check.py

docs: $(READY_FOR_DOCS)
	$(PYTHON) docs/build.py build/docs

package: $(READY_TO_PACKAGE)
	.ci/package $(PYTHON)

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

$(READY_TO_LINT): pyproject.toml | $(PYTHON)
	$(PYTHON) -m pip install --quiet --editable '.[types]'
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

$(READY_TO_PACKAGE): pyproject.toml setup.py | $(PYTHON)
	$(PYTHON) -m pip install --quiet --editable '.[package]'
	touch $@

$(READY_FOR_DOCS): pyproject.toml setup.py | $(PYTHON)
	$(PYTHON) -m pip install --quiet --editable '.[docs]'
	touch $@
