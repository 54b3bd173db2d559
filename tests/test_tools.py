"""The tools of a clone print everything that a newcomer needs."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from airflow_provider_unpod.get_provider_info import FIELD_BEHAVIOUR
from airflow_provider_unpod.sandbox import Sandbox
from tools.airflow import connection_form, greeting
from tools.local_airflow import POOL_SLOTS, REPOSITORY, example_airflow


def test_make_airflow_prints_every_value_that_the_connection_form_asks_for(unpod_sandbox: Sandbox) -> None:
    lines = connection_form(unpod_sandbox).splitlines()
    form = {label: value.strip() for label, value in (line.strip().split("  ", 1) for line in lines)}
    labels = FIELD_BEHAVIOUR["relabeling"]

    assert form["Connection Type"] == "Unpod"
    assert f"{form['Host']}:{form[labels['port']]}" == unpod_sandbox.url
    assert form[labels["login"]].startswith(unpod_sandbox.org_handle)
    assert form[labels["password"]] == unpod_sandbox.token
    assert form[labels["port"]] == str(unpod_sandbox.port)
    assert connection_form(unpod_sandbox) in greeting("http://127.0.0.1:8080", unpod_sandbox)


def test_make_airflow_says_which_dag_exports_and_where_its_report_is(unpod_sandbox: Sandbox) -> None:
    shown = greeting("http://127.0.0.1:8080", unpod_sandbox)

    for named in ("unpod_monthly_export", "unpod_all_organizations", "Browse > Unpod Billing"):
        assert named in shown


def test_the_example_for_all_organizations_uses_a_pool_that_make_airflow_creates(
    unpod_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    airflow = example_airflow(tmp_path / "home", unpod_sandbox, tmp_path / "output")
    monkeypatch.setenv("UNPOD_POOL", airflow.environment["UNPOD_POOL"])

    example = runpy.run_path(str(REPOSITORY / "example_dags" / "unpod_all_organizations.py"))
    task = example["unpod_all_organizations"]().get_task("export")

    assert task.pool == "unpod"
    assert task.max_active_tis_per_dagrun < POOL_SLOTS
