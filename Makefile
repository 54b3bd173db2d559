# From a fresh clone, with Python (3.10 to 3.13), make and git:
#   make demo      runs the examples on a real Airflow, against a local sandbox of the API
#   make test      runs the unit tests
# `make` alone lists the rest. PYTHON=... picks another Python than python3.

PYTHON ?= python3
# As in constraints/releases.txt.
AIRFLOW3 := 3.3.2
AIRFLOW3.2 := 3.2.2
AIRFLOW3.1 := 3.1.8
AIRFLOW2 := 2.11.2

# Some machines export these variables, which make every Airflow process slower.
unexport PYTHONDONTWRITEBYTECODE PYTHONUNBUFFERED
# Airflow must not use or write files outside of this folder, nor use the virtual environment of another shell.
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH
export AIRFLOW__CORE__LOAD_EXAMPLES := False

VENV3 := .venv
VENV3.2 := .venv-airflow3.2
VENV3.1 := .venv-airflow3.1
VENV2 := .venv-airflow2
LOWEST := .venv-lowest
DOCS := .venv-docs
PY3 := AIRFLOW_HOME="$(CURDIR)/.airflow/test-3" $(VENV3)/bin/python
PY3.2 := AIRFLOW_HOME="$(CURDIR)/.airflow/test-3.2" $(VENV3.2)/bin/python
PY3.1 := AIRFLOW_HOME="$(CURDIR)/.airflow/test-3.1" $(VENV3.1)/bin/python
PY2 := AIRFLOW_HOME="$(CURDIR)/.airflow/test-2" $(VENV2)/bin/python
PYLOWEST := AIRFLOW_HOME="$(CURDIR)/.airflow/test-lowest" $(LOWEST)/bin/python
UNIT := -m pytest --ignore=tests/integration --ignore=tests/browser -n 2
# For the desk. CI and the other environments run all unit tests, and the properties with all examples.
QUICK := -m "not slow" --hypothesis-profile=quick
# Without the next two, each of which takes as long as all others together.
INTEGRATION := -m pytest tests/integration -n 2 \
  --ignore=tests/integration/installed --ignore=tests/integration/distributed
DISTRIBUTED := -m pytest tests/integration/distributed
SMOKE := -m pytest tests/integration/installed -n 2

.PHONY: help demo test test-all coverage test-airflow2 test-airflow3.1 test-airflow3.2 test-lowest test-integration \
  test-integration-airflow2 test-smoke test-distributed test-browser sandbox airflow distributed \
  release lint docs reference bench bench-workers bench-loading bench-waiting bench-exports faults soak constraints

help:
	@echo "make demo                       export, wait, finance DAG: on a real Airflow, ends with a table"
	@echo "make test                       unit tests on Airflow $(AIRFLOW3), without the slow ones"
	@echo "make test-all                   all unit tests"
	@echo "make coverage                   all unit tests, and the lines that they do not reach"
	@echo "make test-airflow2              all unit tests on Airflow $(AIRFLOW2) (needs Python 3.10 to 3.12)"
	@echo "make test-airflow3.1            all unit tests on Airflow $(AIRFLOW3.1) (-airflow3.2: on $(AIRFLOW3.2))"
	@echo "make test-lowest                all unit tests with the lowest versions that pyproject.toml allows"
	@echo "make test-integration           real Airflow, real object stores (-airflow2: on Airflow $(AIRFLOW2))"
	@echo "make test-smoke                 the built wheel beside each Airflow of constraints/, in new environments"
	@echo "make test-browser               a browser drives Airflow's UI; screenshots are in build/screenshots"
	@echo "make sandbox [ARGS=...]         a local Unpod API to try DAGs against (ARGS=--help)"
	@echo "make airflow                    Airflow with the example DAGs and the sandbox; prints the address"
	@echo "make distributed                Airflow as in production: Celery, PostgreSQL, Redis, S3; prints the address"
	@echo "make test-distributed           the same, while its parts are killed"
	@echo "make lint                       ruff, mypy"
	@echo "make docs                       the documentation as a site; prints where it is"
	@echo "make reference                  writes docs/reference.md from signatures and docstrings"
	@echo "make bench                      benchmarks against the alternatives; prints ratios, fails if a target is missed"
	@echo "make bench-workers              many workers, one token (-loading: exports into PostgreSQL); the same"
	@echo "make bench-waiting              requests, CPU and times of waits; the same (-exports: memory of exports)"
	@echo "make faults                     effects of faults on each component; writes docs/reliability.md"
	@echo "make soak                       half an hour of exports and waits; detects leaks (ARGS=--help)"
	@echo "make release TAG=v1.2.3         builds dist/ and checks it: docs/releasing.md"
	@echo "make constraints                resolves constraints/ again"

demo: $(VENV3)/.ready
	$(PY3) -m tools.demo

airflow: $(VENV3)/.ready
	$(PY3) -m tools.airflow

distributed: $(VENV3)/.ready-stores
	$(PY3) -m tools.distributed $(ARGS)

sandbox: $(VENV3)/.ready
	$(PY3) -m airflow_provider_unpod.sandbox $(ARGS)

test: $(VENV3)/.ready
	$(PY3) $(UNIT) $(QUICK) $(ARGS)

test-all: $(VENV3)/.ready
	$(PY3) $(UNIT) $(ARGS)

coverage: $(VENV3)/.ready
	$(PY3) $(UNIT) --cov --cov-report=term -q $(ARGS)

test-airflow2: $(VENV2)/.ready
	$(PY2) $(UNIT) $(ARGS)

test-airflow3.1: $(VENV3.1)/.ready
	$(PY3.1) $(UNIT) $(ARGS)

test-airflow3.2: $(VENV3.2)/.ready
	$(PY3.2) $(UNIT) $(ARGS)

test-lowest: $(LOWEST)/.ready
	$(PYLOWEST) $(UNIT) $(ARGS)

test-integration: $(VENV3)/.ready-stores
	$(PY3) $(INTEGRATION) $(ARGS)

test-integration-airflow2: $(VENV2)/.ready-stores
	$(PY2) $(INTEGRATION) $(ARGS)

test-browser: $(VENV3)/.ready-browser
	$(PY3) -m pytest tests/browser $(ARGS)

test-distributed: $(VENV3)/.ready-stores
	$(PY3) $(DISTRIBUTED) $(ARGS)

test-smoke: $(VENV3)/.ready
	$(PY3) $(SMOKE) $(ARGS)

lint: $(VENV3)/.ready
	$(VENV3)/bin/ruff check .
	$(VENV3)/bin/ruff format --check .
	$(VENV3)/bin/mypy

docs: $(DOCS)/.ready
	$(DOCS)/bin/sphinx-build --fresh-env --quiet --fail-on-warning --keep-going --nitpicky -c docs . build/docs
	@echo "build/docs/index.html"

reference: $(VENV3)/.ready
	$(PY3) -m tools.reference

bench: $(VENV3)/.ready
	$(PY3) -m benchmarks $(ARGS)

bench-workers: $(VENV3)/.ready
	$(PY3) -m benchmarks.many_workers $(ARGS)

bench-loading: $(VENV3)/.ready-stores
	$(PY3) -m benchmarks.loading $(ARGS)

bench-waiting: $(VENV3)/.ready
	$(PY3) -m benchmarks.waiting
	$(PY3) -m benchmarks.deferred

bench-exports: $(VENV3)/.ready
	$(PY3) -m benchmarks.export_memory --rows 800000

faults: $(VENV3)/.ready-stores
	$(PY3) -m benchmarks.faults $(ARGS)

soak: $(VENV3)/.ready
	$(PY3) -m benchmarks.soak $(ARGS)

release: $(VENV3)/.ready
	$(PY3) -m tools.release "$(TAG)"

# --- virtual environments -------------------------------------------------------------------------------------------

# PYTHON=... on the command line goes before what a rule prefers.
prefer = $(if $(findstring command,$(origin PYTHON)),$(PYTHON),$1 $(PYTHON))

# The first Python from 3.10 to 3.$2 of $1 that runs; names alone prove nothing (pyenv has names of all it could run).
first-python = $(firstword $(foreach p,$1 python3.13 python3.12 python3.11 python3.10,$(if \
  $(shell $p -c 'import sys; (3, 10) <= sys.version_info[:2] <= (3, $2) and print(1)' 2>/dev/null),$p)))

# $(call install,venv,preferred Pythons,newest minor Python,constraints,what to install)
define install
	@test -x $1/bin/python || test -n "$(call first-python,$2,$3)" || { \
	  echo "$1 needs a Python from 3.10 to 3.$3: install one, or name it with PYTHON=..." >&2; exit 1; }
	@test -x $1/bin/python || $(call first-python,$2,$3) -m venv $1
	@test -x $1/bin/uv || $1/bin/python -m pip install --quiet --disable-pip-version-check -c $4 uv
	@echo "Installing into $1, $$($1/bin/python --version) ..."
	@VIRTUAL_ENV=$1 $1/bin/uv pip install --quiet -c $4 $5
	@touch $@
endef

# This package; in build/from-wheel the wheel of it (.ci/from-wheel).
PACKAGE := $(if $(wildcard airflow_provider_unpod),-e .,$(wildcard dist/*.whl))
EVERYDAY := --group dev $(PACKAGE)[sandbox,parquet,zstd,sql]
STORES := --group services $(PACKAGE)[s3,gcs,azure,openlineage]

$(VENV3)/.ready: pyproject.toml constraints/airflow-$(AIRFLOW3).txt
	$(call install,$(VENV3),$(PYTHON),13,constraints/airflow-$(AIRFLOW3).txt,$(EVERYDAY))

$(VENV2)/.ready: pyproject.toml constraints/airflow-$(AIRFLOW2).txt
	$(call install,$(VENV2),$(PYTHON),12,constraints/airflow-$(AIRFLOW2).txt,$(EVERYDAY))

# Those that only run the unit tests take Pythons that the others do not, where there are several.
$(VENV3.1)/.ready: pyproject.toml constraints/airflow-$(AIRFLOW3.1).txt
	$(call install,$(VENV3.1),$(call prefer,python3.12),13,constraints/airflow-$(AIRFLOW3.1).txt,$(EVERYDAY))

$(VENV3.2)/.ready: pyproject.toml constraints/airflow-$(AIRFLOW3.2).txt
	$(call install,$(VENV3.2),$(call prefer,python3.13),13,constraints/airflow-$(AIRFLOW3.2).txt,$(EVERYDAY))

$(LOWEST)/.ready: pyproject.toml constraints/lowest.txt
	$(call install,$(LOWEST),$(call prefer,python3.10),12,constraints/lowest.txt,$(EVERYDAY))

$(DOCS)/.ready: pyproject.toml constraints/docs.txt
	$(call install,$(DOCS),$(PYTHON),13,constraints/docs.txt,--group docs)

$(VENV3)/.ready-stores: $(VENV3)/.ready
	$(call install,$(VENV3),$(PYTHON),13,constraints/airflow-$(AIRFLOW3).txt,$(STORES))

$(VENV3)/.ready-browser: $(VENV3)/.ready
	$(call install,$(VENV3),$(PYTHON),13,constraints/airflow-$(AIRFLOW3).txt,--group browser)

$(VENV2)/.ready-stores: $(VENV2)/.ready
	$(call install,$(VENV2),$(PYTHON),12,constraints/airflow-$(AIRFLOW2).txt,$(STORES))

constraints: $(VENV3)/.ready
	$(PY3) -m tools.constraints
