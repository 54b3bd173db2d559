"""The reconcile operator, with another export, a query and a ledger file."""

from __future__ import annotations

import csv
import json
import logging
import sqlite3
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, Asset

from airflow_provider_unpod.billing.errors import UnpodConfigError
from airflow_provider_unpod.operators.reconcile import UnpodReconcileOperator
from tests.export.support import row
from tests.loading.support import changes, full, sqlite_connection

if TYPE_CHECKING:
    from pathlib import Path

try:
    from airflow.sdk.execution_time.context import OutletEventAccessors
except ImportError:  # Airflow 2.11
    from airflow.utils.context import OutletEventAccessors

INVOICES = [
    row(1, amount="1234.50", currency="EUR", status="paid", invoice_date="2026-02-01T23:30:00Z"),
    row(2, amount="-7.00", currency="EUR", status="paid", invoice_date="2026-02-03T00:00:00Z"),
]
BANK = {
    "delimiter": ";",
    "encoding": "cp1252",
    "decimal": ",",
    "thousands": ".",
    "date_format": "%d.%m.%Y",
    "columns": {"id": "Beleg Nr.", "amount": "Betrag €", "date": "Datum"},
    "currency": "EUR",
}


@pytest.fixture
def export(tmp_path: Path) -> Path:
    full(INVOICES, tmp_path / "export")
    return tmp_path / "export"


@pytest.fixture
def task_log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(UnpodReconcileOperator, "log", logging.getLogger("task"))
    return caplog


def compare(folder: Path, **arguments: Any) -> dict[str, Any]:
    result: dict[str, Any] = UnpodReconcileOperator(task_id="compare", export_path=str(folder), **arguments).execute({})
    return result


def bank_file(tmp_path: Path, *lines: str) -> str:
    (tmp_path / "bank.csv").write_bytes("\r\n".join(["Beleg Nr.;Betrag €;Datum", *lines, ";;"]).encode("cp1252"))
    return str(tmp_path / "bank.csv")


def test_a_banks_file_is_read_as_the_bank_writes_it(export: Path, tmp_path: Path) -> None:
    ledger = bank_file(tmp_path, "1;1.234,50;02.02.2026", "2;-7,00;03.02.2026")

    result = compare(export, ledger_path=ledger, csv=BANK, business_timezone="Europe/Berlin")

    assert result["agrees"]
    assert result["counts"]["matched"] == 2


def test_a_difference_fails_the_task_after_all_differences_are_written(export: Path, tmp_path: Path) -> None:
    ledger = bank_file(tmp_path, "1;1.234,51;02.02.2026", "=2;7,00;")

    with pytest.raises(
        AirflowFailException, match=r"differ: 1 only here, 1 only there, 1 amount.*reconciliation\.json"
    ):
        compare(export, ledger_path=ledger, csv=BANK, date_window=1, output_path=str(tmp_path / "out"))

    content = json.loads((tmp_path / "out" / "reconciliation.json").read_text())
    assert content["summary"]["bridges"]["EUR"]["amount"] == "0.01"
    assert [one["id"] for one in content["differences"]] == ["1", "2", "=2"]
    with (tmp_path / "out" / "reconciliation.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [line["amount_here"] for line in found] == ["1234.50", "-7.00", ""]
    assert found[2]["id"] == "'=2"  # a spreadsheet would run it


def test_a_warning_names_the_invoices_and_the_task_succeeds(
    export: Path, tmp_path: Path, task_log: pytest.LogCaptureFixture
) -> None:
    ledger = bank_file(tmp_path, "1;1.234,51;", "2;-7,00;")

    result = compare(export, ledger_path=ledger, csv=BANK, on_difference="warn")

    assert [one["id"] for one in result["first_differences"]] == ["1"]
    assert "Invoice 1: amount; here 1234.50 EUR paid 2026-02-01, there 1234.51 EUR" in task_log.text


def test_a_query_is_the_other_side(export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_BOOKS", sqlite_connection(tmp_path))
    with sqlite3.connect(tmp_path / "books.db") as database:
        database.execute("CREATE TABLE ledger (invoice INTEGER, amount TEXT, currency TEXT)")
        database.execute("INSERT INTO ledger VALUES (1, '1234.50', 'eur'), (2, '-7', 'EUR')")

    sql = "SELECT invoice AS id, amount, currency FROM ledger"
    assert compare(export, sql=sql, sql_conn_id="books")["agrees"]


def test_a_float_in_a_query_is_refused_because_it_is_rounded(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_BOOKS", sqlite_connection(tmp_path))

    with pytest.raises(AirflowFailException, match=r"row 1: its amount must not be a float.* cast it"):
        compare(export, sql="SELECT 1 AS id, 0.1 AS amount, 'EUR' AS currency", sql_conn_id="books")


def test_the_event_of_an_outlet_has_the_summary_and_no_invoices(export: Path, tmp_path: Path) -> None:
    compared, events = Asset("compared"), OutletEventAccessors()
    arguments: dict[str, Any] = {"ledger_path": bank_file(tmp_path, "1;1.234,51;", "2;-7,00;"), "csv": BANK}
    operator = UnpodReconcileOperator(
        task_id="compare", export_path=str(export), outlets=[compared], on_difference="warn", **arguments
    )

    result = operator.execute({"outlet_events": events})

    del result["first_differences"]
    assert events[compared].extra == result
    assert result["bridges"]["EUR"]["amount"] == "0.01"


def test_the_result_fits_into_airflows_database_whatever_the_ledger_contains(export: Path, tmp_path: Path) -> None:
    many = "".join(f"{number + 10},1.00,C{number:04d}\n" for number in range(3000))
    (tmp_path / "ledger.csv").write_text("id,amount,currency\n" + many)

    result = compare(
        export, ledger_path=str(tmp_path / "ledger.csv"), on_difference="warn", output_path=str(tmp_path / "result")
    )

    assert len(json.dumps(result)) < 64 * 1024
    assert result["bridges"] is None
    content = json.loads((tmp_path / "result" / "reconciliation.json").read_text())
    assert len(content["summary"]["bridges"]) == 3001
    assert len(content["differences"]) == sum(
        number for outcome, number in result["counts"].items() if outcome != "matched"
    )


def test_mapped_reconciliations_with_one_path_do_not_replace_each_others_files(export: Path, tmp_path: Path) -> None:
    ledger = bank_file(tmp_path, "1;1.234,51;")
    result = tmp_path / "result"

    def mapped(map_index: int, run_id: str = "r", task_id: str = "compare") -> Any:
        ti: Any = SimpleNamespace(dag_id="d", task_id=task_id, run_id=run_id, map_index=map_index, try_number=1)
        operator = UnpodReconcileOperator(
            task_id=task_id,
            export_path=str(export),
            ledger_path=ledger,
            csv=BANK,
            on_difference="warn",
            output_path=str(result),
        )
        return operator.execute({"ti": ti})

    mapped(0)
    written = (result / "reconciliation.json").read_bytes()
    with pytest.raises(AirflowFailException, match=r"^Put .*map_index.* into `output_path`"):
        mapped(1)
    with pytest.raises(AirflowFailException, match="Use a separate path for each task"):
        mapped(-1, task_id="other")
    assert (result / "reconciliation.json").read_bytes() == written

    mapped(0)  # a retry
    mapped(1, run_id="next")
    assert json.loads((result / "reconciliation.json").read_text())["run"]["run_id"] == "next"
    assert sorted(path.name for path in result.iterdir()) == ["reconciliation.csv", "reconciliation.json"]


def test_a_tolerance_applies_only_to_its_currency_and_unknown_currencies_are_separate(tmp_path: Path) -> None:
    full([row(1, amount="5.00", currency="EUR"), row(2, amount="5.00", currency="usd")], tmp_path / "export")
    ledger = tmp_path / "ledger.csv"
    ledger.write_text("id,amount,currency\n1,5.01,EUR\n2,5.01,USD\n3,1,points\n")

    result = compare(tmp_path / "export", ledger_path=str(ledger), tolerance={"EUR": "0.01"}, on_difference="warn")

    assert [(one["id"], one["outcomes"]) for one in result["first_differences"]] == [
        ("2", ["amount"]),
        ("3", ["only_there"]),
    ]
    assert result["bridges"]["EUR"]["within_tolerance"] == result["bridges"]["USD"]["amount"] == "0.01"
    assert result["bridges"]["POINTS"]["there"] == "1"


def test_an_id_that_a_ledger_has_twice_is_reported_but_not_added_up(export: Path, tmp_path: Path) -> None:
    ledger = bank_file(tmp_path, "1;1.234,50;", " 01;9,00;", "2;-7,00;", "2;-7,00;")

    result = compare(export, ledger_path=ledger, csv=BANK, on_difference="warn")

    assert (result["counts"]["duplicate"], result["counts"]["only_there"]) == (1, 1)  # "01" is another id than 1
    assert result["bridges"]["EUR"]["here"] == "1234.50"


def test_two_exports_are_compared(export: Path, tmp_path: Path) -> None:
    full([INVOICES[0]], tmp_path / "other")

    result = compare(export, against_path=str(tmp_path / "other"), on_difference="warn")

    assert result["counts"]["only_here"] == 1


def test_only_the_invoices_of_an_export_of_changes_are_compared(export: Path, tmp_path: Path) -> None:
    changes([INVOICES[0], {**INVOICES[1], "amount": "-8.00"}], export)
    ledger = bank_file(tmp_path, "1;1.234,50;", "2;-8,00;", "3;1,00;")

    result = compare(export, ledger_path=ledger, csv=BANK)

    assert result["agrees"]
    assert (result["counts"]["matched"], result["counts"]["not_compared"]) == (1, 2)


def test_all_rows_that_cannot_be_read_are_named_at_once(export: Path, tmp_path: Path) -> None:
    ledger = bank_file(tmp_path, "1;1.2.3,4x;", "2;-7,00;2026-02-01", ";5,00;")

    with pytest.raises(AirflowFailException, match=r"row 2: its amount .* row 3: its date .* row 4: its id"):
        compare(export, ledger_path=ledger, csv=BANK)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no column 'id'. Its columns are \\[\\]"),
        (b"id,amount\n1,2\n", "no column 'currency'"),
        (b"id,amount,currency\n1\n", "row 2: it must have 3 cells, got 1"),
        (b'id,amount,currency\n"1,2,EUR\n', "is not a CSV file"),
        (b"id,amount,currency\n\xff,2,EUR\n", "is not a CSV file in utf-8-sig"),
    ],
)
def test_a_file_that_is_not_a_ledger_says_what_is_wrong(
    export: Path, tmp_path: Path, content: bytes, says: str
) -> None:
    (tmp_path / "ledger.csv").write_bytes(content)

    with pytest.raises(AirflowFailException, match=says):
        compare(export, ledger_path=str(tmp_path / "ledger.csv"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "Pass exactly one of `against_path`, `sql`, `ledger_path`"),
        ({"against_path": "/a", "ledger_path": "/b"}, "Pass exactly one"),
        ({"sql": "SELECT 1"}, "`sql_conn_id`"),
        ({"against_path": "/a", "csv": {}}, "`csv` has no effect"),
        ({"ledger_path": "/a", "csv": {"sep": ";"}}, "no option 'sep'"),
        ({"ledger_path": "/a", "csv": {"columns": {"id": "A"}}}, "must name the column for `amount`"),
        ({"ledger_path": "/a", "csv": {"delimiter": ";;"}}, "`delimiter` must be one character"),
        ({"against_path": "/a", "match_by": "number"}, "`match_by`"),
        ({"against_path": "/a", "on_difference": "ignore"}, "`on_difference`"),
        ({"against_path": "/a", "date_window": -1}, "`date_window`"),
        ({"against_path": "/a", "tolerance": {"USD": 0.01}}, "`tolerance`"),
        ({"against_path": "/a", "tolerance": {"USD": "-1"}}, "`tolerance`"),
    ],
)
def test_invalid_arguments_of_the_reconcile_operator_are_refused_when_the_dag_is_parsed(
    arguments: dict[str, Any], named: str
) -> None:
    with pytest.raises(UnpodConfigError, match=named):
        UnpodReconcileOperator(task_id="compare", export_path="/data/x", **arguments)
