"""The tools of a clone print everything that a newcomer needs."""

from __future__ import annotations

from airflow_provider_unpod.get_provider_info import FIELD_BEHAVIOUR
from airflow_provider_unpod.sandbox import Sandbox
from tools.airflow import connection_form, greeting


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
