"""The loading operator, on a real database by an Airflow connection."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, Asset

from airflow_provider_unpod.billing.errors import UnpodConfigError
from airflow_provider_unpod.export import ExportError, read_export
from airflow_provider_unpod.transfers.unpod_to_sql import UnpodToSqlOperator
from tests.export.support import row
from tests.loading.support import full, sqlite_connection

if TYPE_CHECKING:
    from pathlib import Path


try:
    from airflow.sdk.execution_time.context import OutletEventAccessors
except ImportError:  # Airflow 2.11
    from airflow.utils.context import OutletEventAccessors


@pytest.fixture(autouse=True)
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of an SQLite database, which the connection ``books`` names."""
    monkeypatch.setenv("AIRFLOW_CONN_BOOKS", sqlite_connection(tmp_path))
    return tmp_path / "books.db"


@pytest.fixture
def task_log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(UnpodToSqlOperator, "log", logging.getLogger("task"))
    return caplog


def load(folder: Path, **arguments: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"sql_conn_id": "books", "table": "invoices", "create_table": True} | arguments
    result: dict[str, Any] = UnpodToSqlOperator(task_id="load", export_path=str(folder), **given).execute({})
    return result


def statuses(books: Path) -> list[str]:
    with closing(sqlite3.connect(books)) as connection:
        return [status for (status,) in connection.execute("SELECT status FROM invoices ORDER BY invoice_id")]


def test_an_export_is_loaded_once_and_found_the_second_time(
    tmp_path: Path, books: Path, task_log: pytest.LogCaptureFixture
) -> None:
    full([row(1), row(2)], tmp_path / "export")
    export_id = read_export(str(tmp_path / "export")).export_id

    assert load(tmp_path / "export") == {
        "table": "invoices",
        "state": "loaded",
        "export_id": export_id,
        "rows": 2,
        "vanished": 0,
        "altered": 0,
        "current": export_id,
    }
    assert load(tmp_path / "export")["state"] == "already loaded"

    assert statuses(books) == ["pending", "failed"]
    assert "has already been loaded into invoices. Nothing was changed." in task_log.text


def test_only_the_export_that_the_event_names_is_loaded(tmp_path: Path, books: Path) -> None:
    full([row(1)], tmp_path / "export")
    fingerprint = read_export(str(tmp_path / "export")).manifest_sha256
    full([row(1), row(2)], tmp_path / "export")

    with pytest.raises(ExportError):
        load(tmp_path / "export", manifest_sha256=fingerprint)


def test_an_older_export_is_named_with_the_one_that_is_current(
    tmp_path: Path, books: Path, task_log: pytest.LogCaptureFixture
) -> None:
    full([row(1, status="pending")], tmp_path / "older")
    full([row(1, status="paid")], tmp_path / "newer")
    current = load(tmp_path / "newer")["export_id"]

    assert load(tmp_path / "older")["state"] == "older"

    assert f"is older than the export that invoices is current with, {current}" in task_log.text
    with pytest.raises(AirflowFailException, match=f"later export {current}"):
        load(tmp_path / "older", on_older="fail")
    assert statuses(books) == ["paid"]


def test_another_database_is_refused_by_name_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_BOOKS", "mysql://nobody@127.0.0.1:1/books")

    with pytest.raises(AirflowFailException, match=r"`sql_conn_id` must be .* postgres or sqlite, got .* type 'mysql'"):
        load(tmp_path / "no export is here")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"on_older": "ignore"}, "`on_older`"),
        ({"table": ""}, "`table`"),
        ({"sql_conn_id": None}, "`sql_conn_id`"),
        ({"export_path": "tmp/relative"}, "`export_path` must"),
    ],
)
def test_invalid_arguments_of_the_reconcile_operator_are_refused_when_the_dag_is_parsed(
    arguments: dict[str, Any], named: str
) -> None:
    given = {"export_path": "/data/x", "sql_conn_id": "books", "table": "invoices"} | arguments

    with pytest.raises(UnpodConfigError, match=named):
        UnpodToSqlOperator(task_id="load", **given)


def test_a_load_reports_where_the_rows_came_from_and_where_they_went(
    tmp_path: Path, books: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[tuple[str, str]] = []
    monkeypatch.setattr(
        "airflow_provider_unpod.operators.lineage.report_load",
        lambda hook, source, target: reported.append((source, target)),
    )
    full([row(1)], tmp_path / "export")

    load(tmp_path / "export")

    assert reported == [(f"file://{tmp_path}/export", f"file://{books}/invoices")]


def test_a_table_that_does_not_fit_fails_the_task_without_retries(tmp_path: Path, books: Path) -> None:
    full([row(1)], tmp_path / "export")

    with pytest.raises(AirflowFailException, match=r"create_table=True"):
        load(tmp_path / "export", create_table=False)


def test_lineage_that_cannot_be_reported_does_not_fail_a_task_whose_load_is_committed(
    tmp_path: Path, books: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError("no collector")

    monkeypatch.setattr("airflow.providers.common.compat.lineage.hook.get_hook_lineage_collector", broken)
    full([row(1)], tmp_path / "export")

    assert load(tmp_path / "export")["state"] == "loaded"

    assert "The lineage of this task is not reported." in caplog.text


def test_the_event_of_an_outlet_has_the_summary(tmp_path: Path, books: Path) -> None:
    full([row(1)], tmp_path / "export")
    loaded, events = Asset("books"), OutletEventAccessors()
    operator = UnpodToSqlOperator(
        task_id="load",
        export_path=str(tmp_path / "export"),
        sql_conn_id="books",
        table="invoices",
        create_table=True,
        outlets=[loaded],
    )

    summary = operator.execute({"outlet_events": events})

    assert events[loaded].extra == summary
