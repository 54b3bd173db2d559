"""Each argument has the same meaning and the same check in every task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_unpod.billing.errors import UnpodConfigError
from airflow_provider_unpod.operators.billing import UnpodBillingOperator
from airflow_provider_unpod.operators.reconcile import UnpodReconcileOperator
from airflow_provider_unpod.sensors.invoice import UnpodInvoiceSensor
from airflow_provider_unpod.transfers.unpod_to_sql import UnpodToSqlOperator

EXPORT = partial(UnpodBillingOperator, task_id="t", output_path="/data/x")
COMPARE = partial(UnpodReconcileOperator, task_id="t", export_path="/data/x", against_path="/data/y")
QUERY = partial(UnpodReconcileOperator, task_id="t", export_path="/data/x", sql="SELECT 1", sql_conn_id="books")
LEDGER = partial(UnpodReconcileOperator, task_id="t", export_path="/data/x", ledger_path="/data/y.csv")
LOAD = partial(UnpodToSqlOperator, task_id="t", export_path="/data/x", sql_conn_id="books", table="invoices")
WAIT = partial(UnpodInvoiceSensor, task_id="t", invoice_id=1)

#: Values that cannot work, and the tasks that have such an argument.
INVALID: dict[str, tuple[list[Any], list[Callable[..., Any]]]] = {
    "unpod_conn_id": (["", "None", 1.5], [EXPORT, WAIT]),
    "org_handle": (["", "[]", True], [EXPORT, WAIT]),
    "output_path": (["data/x", "/data/../x", "s3://b/None", "/data/<NA>", "/x/%2e%2e/y"], [EXPORT, COMPARE]),
    "storage_conn_id": (["", "null", ["a"]], [EXPORT, COMPARE, LOAD]),
    "export_path": (["", "data/x", "/data/x?token=1", "/data/x#y", "/data/..\\x", "/x/NaT"], [COMPARE, LOAD]),
    "against_path": (["", "data/x", "/data/None/x", "/data/{ds}", "/x/%2E."], [COMPARE]),
    "ledger_path": (["", "y.csv", "/data/../y.csv", "/data/%2e%2e/y.csv", "/x/<NA>.csv"], [LEDGER]),
    "export_id": (["", "None"], [COMPARE, LOAD]),
    "manifest_sha256": (["", "{}"], [COMPARE, LOAD]),
    "statuses": ([[], "", "[paid", 5], [EXPORT, COMPARE]),
    "invoice_date_from": (["2026", "12:30", 1], [EXPORT, COMPARE]),
    "invoice_date_to": (["yesterday", ""], [EXPORT, COMPARE]),
    "sql": (["", 5], [QUERY]),
    "sql_conn_id": (["", "None", 1.5], [QUERY, LOAD]),
    "table": (["", "None", "a.b", "x" * 60], [LOAD]),
    "schema": (["", "None"], [LOAD]),
}
#: The same, for arguments that are not templates.
INVALID_CONSTANTS: dict[str, tuple[list[Any], list[Callable[..., Any]]]] = {
    "business_timezone": (["CET+1", None], [EXPORT, COMPARE]),
    "page_size": ([0, "100"], [EXPORT]),
    "max_concurrency": ([0, 65], [EXPORT]),
    "consistency": (["repeated", None], [EXPORT]),
    "report": (["yes", None], [EXPORT]),
    "create_table": (["yes", None], [LOAD]),
    "on_older": (["ignore"], [LOAD]),
    "on_difference": (["skip"], [COMPARE]),
    "date_window": ([-1, "1"], [COMPARE]),
    "max_failures": ([0, "5"], [WAIT]),
}


def each(invalid: dict[str, tuple[list[Any], list[Callable[..., Any]]]]) -> Iterator[Any]:
    for name, (values, tasks) in invalid.items():
        for task in tasks:
            for value in values:
                yield pytest.param(task, name, value, id=f"{task.func.__name__}-{name}-{value!r}")  # type: ignore[attr-defined]


@pytest.mark.parametrize(("task", "name", "value"), [*each(INVALID), *each(INVALID_CONSTANTS)])
def test_an_invalid_argument_is_named_when_the_dag_is_parsed(task: Callable[..., Any], name: str, value: Any) -> None:
    with pytest.raises(UnpodConfigError, match=f"`{name}`"):
        task(**{name: value})


@pytest.mark.parametrize(("task", "name", "value"), each(INVALID))
def test_a_template_that_renders_to_it_fails_the_task_without_retries(
    task: Callable[..., Any], name: str, value: Any
) -> None:
    made = task(**{name: "{{ params.x }}"})
    setattr(made, name, value)
    with pytest.raises(AirflowFailException, match=f"`{name}`"):
        made.execute({})


@pytest.mark.parametrize("task", [EXPORT, QUERY, LEDGER, COMPARE, LOAD, WAIT])
def test_every_template_field_is_listed_above_or_is_what_a_wait_waits_for(task: Callable[..., Any]) -> None:
    assert set(task().template_fields) <= INVALID.keys() | {"invoice_id", "target_status", "failure_statuses"}


@pytest.mark.parametrize("name", ["unpod_conn_id", "export_path", "sql_conn_id", "table"])
def test_a_required_argument_must_not_be_none(name: str) -> None:
    task: Callable[..., Any] = EXPORT if name == "unpod_conn_id" else LOAD
    with pytest.raises(UnpodConfigError):
        task(**{name: None})
