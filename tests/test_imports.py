"""Importing the package is cheap, because Airflow imports it again each time that it parses a DAG file."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

#: The modules that DAG files import, and the names of Airflow that they need, which are not counted.
DAG_MODULES = {
    "airflow_provider_unpod.hooks.unpod": (
        "from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook"
    ),
    "airflow_provider_unpod.operators.billing": (
        "from airflow.providers.common.compat.sdk import BaseOperator, BaseOperatorLink"
    ),
    "airflow_provider_unpod.sensors.invoice": (
        "from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, AirflowSensorTimeout\n"
        "from airflow.providers.common.compat.sdk import AirflowSkipException, BaseSensorOperator, PokeReturnValue\n"
        "from airflow.providers.common.compat.sdk import conf"
    ),
    # Every process of Airflow loads it.
    "airflow_provider_unpod.web.plugin": (
        "from airflow.providers.common.compat.sdk import BaseOperatorLink\n"
        "from airflow.plugins_manager import AirflowPlugin"
    ),
    "airflow_provider_unpod.triggers.invoice": (
        "from airflow.providers.common.compat.connection import get_async_connection\n"
        "from airflow.triggers.base import BaseTrigger, TriggerEvent"
    ),
}
#: Modules cost about half a millisecond of CPU each. Time itself depends on the machine and its load.
MOST_MODULES = 25
#: Heavy, or not needed before a task runs.
NOT_YET = (
    "aiohttp",
    "duckdb",
    "fastapi",
    "jinja2",
    "openlineage",
    "pandas",
    "pyarrow",
    "requests",
    "tenacity",
    "zstandard",
    "airflow_provider_unpod.export.formats",
    "airflow_provider_unpod.export.writer",
    "airflow_provider_unpod.sandbox",
    "airflow_provider_unpod.web.app",
    "airflow_provider_unpod.web.report",
)


def imported_in_new_processes() -> dict[str, list[str]]:
    """Return for each module the modules that it imports after Airflow's."""
    code = f"""
import json, os, sys
import airflow.providers.common.compat.sdk
from airflow.providers.common.compat.sdk import BaseOperator  # most of Airflow, once for all
for module, before in {DAG_MODULES!r}.items():
    if os.fork():
        os.wait()
        continue
    exec(before)
    known = set(sys.modules)
    __import__(module)
    print(json.dumps([module, sorted(set(sys.modules) - known)]), flush=True)
    os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith('["airflow_provider_unpod'))


@pytest.mark.slow
def test_importing_a_module_for_dags_imports_few_modules_and_nothing_heavy() -> None:
    forbidden = tuple(f"{each}." for each in NOT_YET)
    for module, imported in imported_in_new_processes().items():
        assert [name for name in imported if f"{name}.".startswith(forbidden)] == [], module
        assert len(imported) <= MOST_MODULES, (module, imported)


def test_the_billing_package_does_not_import_airflow() -> None:
    code = """
import importlib, pkgutil, sys
import airflow_provider_unpod.billing as billing
names = [name for _, name, _ in pkgutil.walk_packages(billing.__path__, "airflow_provider_unpod.billing.")]
for name in names:
    importlib.import_module(name)
assert len(names) > 5, names
print([name for name in sys.modules if name.partition(".")[0] == "airflow"])
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
