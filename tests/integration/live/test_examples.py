"""Every example DAG parses, runs and does what its documentation says, on a real Airflow."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException

from airflow_provider_unpod.billing.http.settings import DAILY_REQUESTS
from airflow_provider_unpod.export import ExportError, read_export
from airflow_provider_unpod.export.address import normalized
from airflow_provider_unpod.operators.billing import UnpodBillingOperator
from airflow_provider_unpod.sandbox import Sandbox
from tests.integration.conftest import AIRFLOW_3, REPOSITORY, AirflowCommand, LiveAirflow
from tools.local_airflow import books_database
from tools.local_postgres import LocalPostgres

EXAMPLES = {
    "unpod_all_organizations",
    "unpod_book_payment",
    "unpod_invoices_to_xcom",
    "unpod_month_close",
    "unpod_month_revenue",
    "unpod_monthly_export",
    "unpod_nightly_books",
    "unpod_overdue",
    "unpod_wait_for_payment",
}
#: Started on a real Airflow in test_events.py.
OF_ASSET_WATCHERS = {"unpod_on_failed", "unpod_on_paid", "unpod_on_refunded"}


#: Tests name months of 2026, so their invoices must end here on any day.
TODAY = date(2026, 7, 1)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(today=TODAY) as sandbox:
        yield sandbox


def example_dags() -> Any:
    """The example DAGs as a scheduler loads them."""
    if AIRFLOW_3:
        from airflow.dag_processing.dagbag import DagBag

        return DagBag(REPOSITORY / "example_dags")
    from airflow.models import dagbag

    bag: Any = dagbag.DagBag  # as it was in Airflow 2.11
    return bag(REPOSITORY / "example_dags", include_examples=False)


def money_by_currency(records: list[Any]) -> dict[str, Decimal]:
    sums: dict[str, Decimal] = {}
    for record in records:
        sums[record.currency] = sums.get(record.currency, Decimal(0)) + Decimal(record.amount)
    return sums


# --- on both Airflows


def test_the_watchers_of_the_example_stay_within_a_third_of_the_free_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNPOD_POLL_INTERVAL", raising=False)
    example = runpy.run_path(str(REPOSITORY / "example_dags" / "unpod_invoice_events.py"))

    assert 86_400 / example["POLL_INTERVAL"] <= DAILY_REQUESTS


def test_every_example_parses() -> None:
    bag = example_dags()

    assert bag.import_errors == {}
    assert set(bag.dags) == (EXAMPLES | OF_ASSET_WATCHERS if AIRFLOW_3 else EXAMPLES)


def test_every_example_shows_its_documentation_in_the_ui() -> None:
    assert [dag_id for dag_id, dag in example_dags().dags.items() if not dag.doc_md] == []


def test_every_parameter_of_an_example_has_a_title_and_a_description() -> None:
    params = [
        (dag_id, name, dag.params.get_param(name)) for dag_id, dag in example_dags().dags.items() for name in dag.params
    ]

    assert params
    assert [
        (dag_id, name) for dag_id, name, param in params if not (param.schema.get("title") and param.description)
    ] == []


def test_invoices_are_summed_by_currency_to_the_last_digit(sandbox: Sandbox, airflow_command: AirflowCommand) -> None:
    run = airflow_command(
        "dags", "test", "unpod_invoices_to_xcom", AIRFLOW_CONN_UNPOD_DEFAULT=sandbox.connection_json()
    )

    assert run == 0, airflow_command.printed
    (sums,) = airflow_command.results("unpod_invoices_to_xcom", "sum_by_currency")
    wanted = [invoice for invoice in sandbox.ledger.invoices() if invoice.status in ("paid", "pending")]
    assert {currency: Decimal(amount) for currency, amount in sums.items()} == money_by_currency(wanted)


def test_the_monthly_export_has_the_invoices_of_the_month_before(
    sandbox: Sandbox, airflow_command: AirflowCommand
) -> None:
    run = airflow_command(
        "dags",
        "test",
        "unpod_monthly_export",
        "2026-04-01T00:00:00+00:00",
        AIRFLOW_CONN_UNPOD_DEFAULT=sandbox.connection_json(),
    )

    assert run == 0, airflow_command.printed
    export = read_export(str(airflow_command.exports / "monthly" / "2026-03"))
    march = [each.id for each in sandbox.ledger.invoices() if each.invoice_date.strftime("%Y-%m") == "2026-03"]
    assert [record["id"] for record in export] == march


def test_every_organization_of_a_token_is_exported(sandbox: Sandbox, airflow_command: AirflowCommand) -> None:
    run = airflow_command(
        "dags", "test", "unpod_all_organizations", AIRFLOW_CONN_UNPOD_DEFAULT=sandbox.connection_json()
    )

    assert run == 0, airflow_command.printed
    for handle, ledger in sandbox.ledgers.items():
        export = read_export(str(airflow_command.exports / "organizations" / handle))
        assert [record["id"] for record in export] == ledger.ids()
        assert export.manifest["organization"] == handle


def test_no_handle_of_the_api_leads_out_of_the_folder_of_the_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    handles = ("acme", "..", "../../etc", "a/../../b", "x\\..\\y", "None", "#?{<")
    organizations = example_dags().dags["unpod_all_organizations"].get_task("organizations").python_callable
    with Sandbox(invoices=1, orgs=handles) as sandbox:
        monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", sandbox.connection_json())
        mapped = organizations()

    assert [each["org_handle"] for each in mapped] == list(handles)
    folders = [normalized(each["output_path"]).rpartition("/organizations/")[2] for each in mapped]
    assert len(set(folders)) == len(handles)
    assert not [folder for folder in folders if "/" in folder]


def test_a_payment_ends_the_wait_and_the_next_dag_gets_the_invoice(
    sandbox: Sandbox, airflow_command: AirflowCommand
) -> None:
    invoice = sandbox.create("1234.50", "EUR")

    def pay_once_it_waits(line: str) -> None:
        if "running trigger in line" in line:
            sandbox.pay(invoice.id)

    run = airflow_command(
        "dags",
        "test",
        "unpod_wait_for_payment",
        "--conf",
        json.dumps({"invoice_id": invoice.id}),
        on_line=pay_once_it_waits,
        AIRFLOW_CONN_UNPOD_DEFAULT=sandbox.connection_json(),
    )

    assert run == 0, airflow_command.printed
    assert sandbox.ledger.get(invoice.id).status == "paid"  # and so it did wait
    (record,) = airflow_command.results("unpod_wait_for_payment", "paid")
    assert (record["id"], record["amount"], record["status"]) == (invoice.id, "1234.50", "paid")


def test_every_overdue_invoice_is_reported(sandbox: Sandbox, airflow_command: AirflowCommand) -> None:
    run = airflow_command("dags", "test", "unpod_overdue", AIRFLOW_CONN_UNPOD_DEFAULT=sandbox.connection_json())

    assert run == 0, airflow_command.printed
    (lines,) = airflow_command.results("unpod_overdue", "dun")
    a_week_ago = datetime.now(timezone.utc) - timedelta(days=7)
    overdue = [
        invoice.id
        for invoice in sandbox.ledger.invoices()
        if invoice.status == "pending" and invoice.invoice_date < a_week_ago
    ]
    assert [int(text.split(": ")[1]) for text in lines] == overdue


def test_the_dag_of_the_readme_waits_and_exports(
    sandbox: Sandbox, airflow_command: AirflowCommand, tmp_path: Path
) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    file = airflow_command.home / "dags" / "readme.py"
    file.write_text(source.replace("/tmp/invoices", str(tmp_path / "invoices")))
    sandbox.pay(101)

    run = airflow_command("dags", "test", "billing", AIRFLOW_CONN_UNPOD_DEFAULT=sandbox.connection_json())

    assert run == 0, airflow_command.printed
    assert [record["id"] for record in read_export(str(tmp_path / "invoices"))] == sandbox.ledger.ids()


@pytest.fixture(scope="module")
def postgres() -> Iterator[LocalPostgres]:
    with LocalPostgres() as running:
        yield running


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_changes_are_loaded_every_night_and_differences_to_the_ledger_are_reported(
    sandbox: Sandbox, airflow_command: AirflowCommand, postgres: LocalPostgres, tmp_path: Path, kind: str
) -> None:
    books = books_database(tmp_path / "books.db", sandbox)
    if kind == "postgres":
        books = postgres.url(driver="postgres")
        copy_ledger(tmp_path / "books.db", postgres)
    shutil.rmtree(airflow_command.exports / "nightly", ignore_errors=True)
    connections: dict[str, Any] = {
        "AIRFLOW_CONN_UNPOD_DEFAULT": sandbox.connection_json(),
        "AIRFLOW_CONN_UNPOD_BOOKS_DB": books,
    }

    run = airflow_command("dags", "test", "unpod_nightly_books", **connections)

    assert run == 0, airflow_command.printed
    loaded = airflow_command.results("unpod_nightly_books", "load")[-1]
    assert (loaded["state"], loaded["rows"]) == ("loaded", len(sandbox.ledger))
    newest = max(sandbox.ledger.ids())
    assert airflow_command.results("unpod_nightly_books", "alert")[-1] == [f"{newest}: amount"]
    run = airflow_command("dags", "test", "unpod_month_revenue", "2026-07-01T00:00:00+00:00", **connections)
    assert run == 0, airflow_command.printed
    revenue = airflow_command.results("unpod_month_revenue", "revenue")[-1]
    june = [
        each
        for each in sandbox.ledger.invoices()
        if each.status == "paid" and each.invoice_date.strftime("%Y-%m") == "2026-06"
    ]
    assert {currency: Decimal(amount) for currency, amount in revenue.items()} == money_by_currency(june)


def test_revenue_without_the_table_says_which_dag_creates_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    empty = json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "empty.db")})
    monkeypatch.setenv("AIRFLOW_CONN_UNPOD_BOOKS_DB", empty)
    revenue = example_dags().dags["unpod_month_revenue"].get_task("revenue").python_callable

    with pytest.raises(AirflowFailException, match=r"^Start unpod_nightly_books first"):
        revenue()


def test_a_booking_that_is_started_by_hand_is_skipped() -> None:
    book = example_dags().dags["unpod_book_payment"].get_task("book").python_callable

    with pytest.raises(AirflowSkipException, match=r"^Start unpod_wait_for_payment instead"):
        book(dag_run=SimpleNamespace(conf={}))


def copy_ledger(source: Path, server: LocalPostgres) -> None:
    with closing(sqlite3.connect(source)) as database:
        booked = database.execute("SELECT * FROM ledger").fetchall()
    with psycopg2.connect(server.url()) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE ledger (id BIGINT, amount NUMERIC, currency TEXT)")
        cursor.executemany("INSERT INTO ledger VALUES (%s, %s, %s)", booked)


class MonthClose:
    """The functions of the month-close DAG, called as its tasks do."""

    def __init__(self, books: Path) -> None:
        dag = example_dags().dags["unpod_month_close"]
        self.exports = dag.get_task("exports").python_callable
        self.close = dag.get_task("close").python_callable
        self.books = books


@pytest.fixture
def month_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MonthClose:
    monkeypatch.setenv("UNPOD_BOOKS", f"file://{tmp_path}/books")
    return MonthClose(tmp_path / "books")


def export_month(folder: Path, month: str, until: str) -> dict[str, Any]:
    """The summary of a monthly export, which is also its asset event's extra."""
    operator = UnpodBillingOperator(
        task_id="export", output_path=str(folder / month), invoice_date_from=f"{month}-01", invoice_date_to=until
    )
    summary = operator.execute({})
    assert isinstance(summary, dict)
    return summary


@pytest.mark.unpod_sandbox(today=TODAY)
def test_the_month_close_books_every_export_that_triggered_it_and_booking_again_changes_nothing(
    unpod_sandbox: Sandbox, tmp_path: Path, month_close: MonthClose
) -> None:
    february = export_month(tmp_path, "2026-02", "2026-03-01")
    march = export_month(tmp_path, "2026-03", "2026-04-01")
    overtaken = {**march, "export_id": "another", "manifest_sha256": "0" * 64}
    extras = (february, overtaken, march, march)
    events = [SimpleNamespace(extra=extra, timestamp=second) for second, extra in enumerate(extras)]

    certified = month_close.exports(triggering_asset_events={"unpod_monthly_invoices": events})
    booked = [month_close.close(export) for export in certified]

    assert [each["month"] for each in booked] == ["2026-02", "2026-03"]
    for each in booked:
        paid = [
            invoice
            for invoice in unpod_sandbox.ledger.invoices()
            if invoice.status == "paid" and invoice.invoice_date.strftime("%Y-%m") == each["month"]
        ]
        assert {currency: Decimal(amount) for currency, amount in each["revenue"].items()} == money_by_currency(paid)
    first = {file.name: file.read_text() for file in month_close.books.iterdir()}
    assert [month_close.close(export) for export in certified] == booked
    assert {file.name: file.read_text() for file in month_close.books.iterdir()} == first


def test_a_month_close_that_is_started_by_hand_books_nothing(month_close: MonthClose) -> None:
    assert month_close.exports() == []


@pytest.mark.unpod_sandbox(today=TODAY)
def test_the_month_close_refuses_an_export_that_was_changed(
    unpod_sandbox: Sandbox, tmp_path: Path, month_close: MonthClose
) -> None:
    summary = export_month(tmp_path, "2026-02", "2026-03-01")
    (file,) = (tmp_path / "2026-02").glob("*.jsonl")
    file.write_text(file.read_text().replace('"paid"', '"PAID"', 1))

    with pytest.raises(ExportError):
        month_close.close(summary)

    assert not month_close.books.exists()


@pytest.mark.unpod_sandbox(today=TODAY)
def test_the_month_close_books_the_export_of_its_event_and_no_later_one(
    unpod_sandbox: Sandbox, tmp_path: Path, month_close: MonthClose
) -> None:
    summary = export_month(tmp_path, "2026-02", "2026-03-01")
    export_month(tmp_path, "2026-02", "2026-03-01")

    with pytest.raises(ExportError, match="has been replaced"):
        month_close.close(summary)

    assert not month_close.books.exists()


def test_the_month_close_refuses_an_export_that_was_not_proved_complete(
    unpod_sandbox: Sandbox, tmp_path: Path, month_close: MonthClose
) -> None:
    operator = UnpodBillingOperator(task_id="export", output_path=str(tmp_path / "x"), consistency="single-pass")
    summary = operator.execute({})
    assert isinstance(summary, dict)

    with pytest.raises(ValueError, match="has no proof"):
        month_close.close(summary)


# --- on one real Airflow 3, with its scheduler and triggerer


def test_an_export_starts_the_month_close_with_its_asset_event(live_airflow: LiveAirflow) -> None:
    sandbox = live_airflow.sandbox
    # The schedule has started one run, too. Airflow starts one DAG run for events that come together, with the first
    # of them; the next one then waits for another event.
    live_airflow.wait_for(lambda: live_airflow.runs("unpod_month_close"), "the month close of the scheduled export")
    run = live_airflow.trigger("unpod_monthly_export", logical_date="2026-05-01T00:00:00Z")
    live_airflow.finished("unpod_monthly_export", run)

    def closed() -> dict[str, str] | None:
        for started in live_airflow.runs("unpod_month_close"):
            if started["state"] == "success":
                results = live_airflow.result("unpod_month_close", started["dag_run_id"], "close", map_index=0)
                if results["month"] == "2026-04":
                    assert started["run_type"] == "asset_triggered"
                    revenue: dict[str, str] = results["revenue"]
                    return revenue
        return None

    revenue = live_airflow.wait_for(closed, "the month close of April")
    april = [
        invoice
        for invoice in sandbox.ledger.invoices()
        if invoice.status == "paid" and invoice.invoice_date.strftime("%Y-%m") == "2026-04"
    ]
    assert {currency: Decimal(amount) for currency, amount in revenue.items()} == money_by_currency(april)


def test_paying_an_invoice_ends_the_deferred_wait_and_starts_the_finance_dag(live_airflow: LiveAirflow) -> None:
    sandbox = live_airflow.sandbox
    invoice = sandbox.create("0.10", "KWD")
    dag_id = "unpod_wait_for_payment"
    run = live_airflow.trigger(dag_id, conf={"invoice_id": invoice.id})

    def waits() -> bool:
        return any(task["state"] == "deferred" for task in live_airflow.tasks(dag_id, run))

    live_airflow.wait_for(waits, "the sensor to be deferred")
    sandbox.pay(invoice.id)
    live_airflow.finished(dag_id, run)

    booked = f"Booked 0.10 KWD of invoice {invoice.id}."

    def was_booked() -> bool:
        return any(
            live_airflow.result("unpod_book_payment", started["dag_run_id"], "book") == booked
            for started in live_airflow.runs("unpod_book_payment")
            if started["state"] == "success"
        )

    live_airflow.wait_for(was_booked, "the payment to be booked")
