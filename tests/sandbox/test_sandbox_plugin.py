"""The pytest fixture for users' tests of their own DAGs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from airflow_provider_unpod.sandbox.ledger import FIRST_ID

ROOT = Path(__file__).parents[2]


def run_pytest(folder, test, prelude=""):
    """pytest in a process of its own, with the plugin loaded as its entry point loads it."""
    (folder / "conftest.py").write_text(prelude)
    (folder / "test_dag.py").write_text(test)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_CONN_")}
    plugin = [] if _installed() else ["-p", "airflow_provider_unpod.sandbox.pytest_plugin"]
    command = [sys.executable, "-m", "pytest", "-q", "--strict-markers", "-p", "no:cacheprovider", *plugin, str(folder)]
    return subprocess.run(
        command, cwd=folder, env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60
    )


def _installed():
    from importlib.metadata import entry_points

    return any(entry.name == "unpod_sandbox" for entry in entry_points(group="pytest11"))


def test_the_fixture_is_a_running_sandbox_with_the_default_connection(unpod_sandbox):
    assert json.loads(os.environ["AIRFLOW_CONN_UNPOD_DEFAULT"]) == json.loads(unpod_sandbox.connection_json())
    assert len(unpod_sandbox.ledger) == 250


@pytest.mark.parametrize("nth", [1, 2])
def test_each_test_gets_a_new_sandbox(unpod_sandbox, nth):
    assert unpod_sandbox.ledger.get(FIRST_ID).status == "pending"
    unpod_sandbox.pay(FIRST_ID)


@pytest.mark.unpod_sandbox(invoices=3, dialect="data")
def test_the_marker_changes_the_settings(unpod_sandbox):
    assert "invoice_number" in unpod_sandbox.ledger.page(1, 3)[2]


def test_a_sandbox_starts_within_a_tenth_of_a_second():
    from airflow_provider_unpod.sandbox import Sandbox

    spent = []
    for _ in range(5):
        start = time.perf_counter()
        with Sandbox():
            spent.append(time.perf_counter() - start)
    assert min(spent) < 0.1


@pytest.mark.slow
def test_the_connection_is_removed_after_the_test_and_the_marker_is_registered(tmp_path):
    run = run_pytest(
        tmp_path,
        "import os, pytest\n"
        "@pytest.mark.unpod_sandbox(invoices=1)\n"
        "def test_with(unpod_sandbox):\n"
        "    assert str(unpod_sandbox.port) in os.environ['AIRFLOW_CONN_UNPOD_DEFAULT']\n"
        "def test_without():\n"
        "    assert 'AIRFLOW_CONN_UNPOD_DEFAULT' not in os.environ\n",
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.slow
def test_the_plugin_imports_nothing_heavy_until_the_fixture_is_used(tmp_path):
    run = run_pytest(
        tmp_path,
        "import sys\n"
        "def test_nothing():\n"
        "    assert 'airflow_provider_unpod.sandbox.pytest_plugin' in sys.modules\n"
        "    heavy = {'aiohttp', 'airflow', 'requests', 'pendulum'} & set(sys.modules)\n"
        "    ours = {name for name in sys.modules if name.startswith('airflow_provider_unpod.')}\n"
        "    assert not heavy\n"
        "    assert ours == {'airflow_provider_unpod.sandbox', 'airflow_provider_unpod.sandbox.pytest_plugin'}\n",
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.slow
def test_an_unknown_setting_is_refused_with_the_names_of_all_settings(tmp_path):
    run = run_pytest(
        tmp_path, "import pytest\n@pytest.mark.unpod_sandbox(invoice=5)\ndef test_dag(unpod_sandbox): pass\n"
    )
    assert run.returncode == 1
    assert "no setting invoice. Settings are port, invoices, orgs," in run.stdout


@pytest.mark.slow
def test_without_aiohttp_the_fixture_says_what_to_install(tmp_path):
    run = run_pytest(
        tmp_path, "def test_dag(unpod_sandbox): pass\n", prelude="import sys\nsys.modules['aiohttp'] = None\n"
    )
    assert run.returncode == 1
    assert "pip install 'airflow-provider-unpod[sandbox]'" in run.stdout
