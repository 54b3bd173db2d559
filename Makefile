# From a fresh clone, with Python (3.10 to 3.13), make and git:
#   make demo      the whole chain on a real Airflow, against a local sandbox of the API
#   make test      the unit tests
# `make` alone lists the rest. PYTHON=... picks another Python than python3.

PYTHON ?= python3
AIRFLOW3 := 3.3.2
AIRFLOW2 := 2.11.2

# Both make every Airflow process compile or write more than it has to; some machines export them.
unexport PYTHONDONTWRITEBYTECODE PYTHONUNBUFFERED
# Airflow must not find, or leave, anything outside this folder. Another shell's virtual environment neither.
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH
export AIRFLOW__CORE__LOAD_EXAMPLES := False

VENV3 := .venv
VENV2 := .venv-airflow2
PY3 := AIRFLOW_HOME="$(CURDIR)/.airflow/test-3" $(VENV3)/bin/python
PY2 := AIRFLOW_HOME="$(CURDIR)/.airflow/test-2" $(VENV2)/bin/python
UNIT := -m pytest --ignore=tests/integration -n 2
INTEGRATION := -m pytest tests/integration

.PHONY: help demo test test-airflow2 test-integration test-integration-airflow2 sandbox airflow lint bench constraints

help:
	@echo "make demo                       export, wait, finance DAG: on a real Airflow, ends with a table"
	@echo "make test                       unit tests on Airflow $(AIRFLOW3)"
	@echo "make test-airflow2              unit tests on Airflow $(AIRFLOW2) (needs Python 3.10 to 3.12)"
	@echo "make test-integration           real Airflow, real object stores (-airflow2: on Airflow $(AIRFLOW2))"
	@echo "make sandbox [ARGS=...]         a local Unpod API to try DAGs against (ARGS=--help)"
	@echo "make airflow                    Airflow with the example DAGs and the sandbox; prints the address"
	@echo "make lint                       ruff, mypy"
	@echo "make bench                      against the alternatives; prints ratios"
	@echo "make constraints                resolves constraints/ anew"

demo: $(VENV3)/.ready
	$(PY3) -m tools.demo

airflow: $(VENV3)/.ready
	$(PY3) -m tools.airflow

sandbox: $(VENV3)/.ready
	$(PY3) -m airflow_provider_unpod.sandbox $(ARGS)

test: $(VENV3)/.ready
	$(PY3) $(UNIT) $(ARGS)

test-airflow2: $(VENV2)/.ready
	$(PY2) $(UNIT) $(ARGS)

test-integration: $(VENV3)/.ready-stores
	$(PY3) $(INTEGRATION) $(ARGS)

test-integration-airflow2: $(VENV2)/.ready-stores
	$(PY2) $(INTEGRATION) $(ARGS)

lint: $(VENV3)/.ready
	$(VENV3)/bin/ruff check .
	$(VENV3)/bin/ruff format --check .
	$(VENV3)/bin/mypy

bench: $(VENV3)/.ready
	$(PY3) -m benchmarks $(ARGS)

# --- virtual environments -------------------------------------------------------------------------------------------

# The first Python from 3.10 to 3.$1 that runs; names alone prove nothing (pyenv has names of all it could run).
python-up-to = $(firstword $(foreach p,$(PYTHON) python3.13 python3.12 python3.11 python3.10,$(if \
  $(shell $p -c 'import sys; (3, 10) <= sys.version_info[:2] <= (3, $1) and print(1)' 2>/dev/null),$p)))

# $(call install,venv,newest minor Python,constraints,what to install)
define install
	@test -x $1/bin/python || test -n "$(call python-up-to,$2)" || { \
	  echo "$1 needs a Python from 3.10 to 3.$2: install one, or name it with PYTHON=..." >&2; exit 1; }
	@echo "Installing into $1 ..."
	@test -x $1/bin/python || $(call python-up-to,$2) -m venv $1
	@test -x $1/bin/uv || $1/bin/python -m pip install --quiet --disable-pip-version-check -c $3 uv
	@VIRTUAL_ENV=$1 $1/bin/uv pip install --quiet -c $3 $4
	@touch $@
endef

EVERYDAY := --group dev -e '.[sandbox,parquet,zstd]'
STORES := --group postgres -e '.[s3,gcs,azure,openlineage]'

$(VENV3)/.ready: pyproject.toml constraints/airflow-$(AIRFLOW3).txt
	$(call install,$(VENV3),13,constraints/airflow-$(AIRFLOW3).txt,$(EVERYDAY))

$(VENV2)/.ready: pyproject.toml constraints/airflow-$(AIRFLOW2).txt
	$(call install,$(VENV2),12,constraints/airflow-$(AIRFLOW2).txt,$(EVERYDAY))

$(VENV3)/.ready-stores: $(VENV3)/.ready
	$(call install,$(VENV3),13,constraints/airflow-$(AIRFLOW3).txt,$(STORES))

$(VENV2)/.ready-stores: $(VENV2)/.ready
	$(call install,$(VENV2),12,constraints/airflow-$(AIRFLOW2).txt,$(STORES))

# One file per Airflow serves every Python that it runs on. Versions only: no index, no address, no path.
constraints: $(VENV3)/.ready
	for version in $(AIRFLOW3) $(AIRFLOW2); do \
	  echo "apache-airflow==$$version" | UV_PYTHON_DOWNLOADS=never $(VENV3)/bin/uv pip compile --quiet --upgrade \
	    --universal --python-version 3.10 --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
	    --all-extras --group dev --constraints - pyproject.toml --output-file constraints/airflow-$$version.txt \
	  || exit 1; \
	done
	! grep -nE '://|/|@' constraints/*.txt
