"""A certified export is loaded exactly once and exactly, or the table is unchanged."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_unpod.billing.errors import UnpodConfigError
from airflow_provider_unpod.export import Export, read_export
from airflow_provider_unpod.export.errors import ExportError, LoadError, LoadRefused
from airflow_provider_unpod.loading.dialects import DIALECTS, Target
from airflow_provider_unpod.loading.load import Load
from airflow_provider_unpod.loading.rows import COLUMNS
from airflow_provider_unpod.task_boundary import cleaned
from tests.export.support import row, rows
from tests.loading.support import Database, changes, full, sqlite_in
from tests.properties import examples

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return sqlite_in(tmp_path)


def test_a_full_export_becomes_the_rows_of_the_table(database: Database, tmp_path: Path) -> None:
    full([row(1), row(2)], tmp_path / "export")

    outcome = database.load(tmp_path / "export")

    assert (outcome.state, outcome.rows) == ("loaded", 2)
    assert database.invoices() == [("1", Decimal("1.01"), "INR", "pending"), ("2", Decimal("2.02"), "EUR", "failed")]


def test_the_same_export_a_second_time_changes_nothing(database: Database, tmp_path: Path) -> None:
    full([row(1)], tmp_path / "export")
    database.load(tmp_path / "export")
    before = database.query("SELECT * FROM invoices")

    outcome = database.load(tmp_path / "export")

    assert outcome.state == "already loaded"
    assert database.query("SELECT * FROM invoices") == before


@pytest.mark.parametrize(
    "amount", ["12345678901234567.89", "500", "8.950", "-0.01", "0.123456789", "1E+3", "0.00", "1" * 38]
)
def test_amounts_are_the_same_in_the_table_to_the_last_digit(database: Database, tmp_path: Path, amount: str) -> None:
    full([row(1, amount=amount)], tmp_path / "export")

    database.load(tmp_path / "export")

    assert database.invoices("amount") == [(Decimal(amount),)]


def test_a_field_without_a_column_is_kept_as_json(database: Database, tmp_path: Path) -> None:
    odd = row(
        1, currency=" usd", status="Paid", invoice_date="soon", customer={"name": "O'Hara \\ \t\n Ω"}, invoice_number=7
    )
    full([odd], tmp_path / "export")

    database.load(tmp_path / "export")

    assert database.invoices("currency, status, invoice_date, invoice_number") == [("USD", "paid", None, None)]
    assert database.extra("1") == {
        "currency": " usd",
        "status": "Paid",
        "invoice_date": "soon",
        "customer": {"name": "O'Hara \\ \t\n Ω"},
        "invoice_number": 7,
    }


TEXTS = (
    "",
    ",",
    '"',
    '""',
    "\\N",
    "\\.",
    "\\",
    "a\tb",
    "a\nb",
    "a\r\nb",
    "\r",
    " ",
    "'",
    "NULL",
    "Ω 𝄞",
    "=1+1",
    "{}",
    "\x01\x7f",
)


@pytest.mark.parametrize("text", TEXTS)
def test_a_string_is_the_same_in_the_table_to_the_last_character(database: Database, tmp_path: Path, text: str) -> None:
    full([row(1, invoice_number=text, charge_type=f"{text}x", note=text)], tmp_path / "export")

    database.load(tmp_path / "export")

    ((number, charge_type),) = database.invoices("invoice_number, charge_type")
    extra = database.extra("1")
    assert (number, charge_type, extra["note"]) == (text or None, f"{text}x", text)
    # A column has no empty text: to some databases it would be NULL.
    assert extra.get("invoice_number") == ("" if text == "" else None)


@pytest.mark.slow
def test_a_text_of_ten_megabytes_is_loaded(database: Database, tmp_path: Path) -> None:
    full([row(number, note="'\"" * 5_000_000) for number in (1, 2)], tmp_path / "export")

    assert database.load(tmp_path / "export").rows == 2

    assert database.extra("2")["note"] == "'\"" * 5_000_000


def test_characters_that_no_database_stores_are_replaced_and_counted(database: Database, tmp_path: Path) -> None:
    full([row(1, note="a\x00b", tags=["\x00"]), row(2)], tmp_path / "export")

    outcome = database.load(tmp_path / "export")

    assert outcome.altered == 1
    assert database.extra("1") == {"note": "a\ufffdb", "tags": ["\ufffd"]}


def test_an_invoice_that_a_later_full_export_lacks_is_marked_and_kept(database: Database, tmp_path: Path) -> None:
    full([row(1), row(2)], tmp_path / "export")
    database.load(tmp_path / "export")
    full([row(1)], tmp_path / "export")

    assert database.load(tmp_path / "export").vanished == 1

    assert database.invoices("invoice_id", "WHERE vanished_at IS NOT NULL") == [("2",)]
    full([row(1), row(2)], tmp_path / "export")
    database.load(tmp_path / "export")
    assert database.invoices("invoice_id", "WHERE vanished_at IS NOT NULL") == []


def test_an_export_with_a_selection_marks_nothing_as_vanished(database: Database, tmp_path: Path) -> None:
    full([row(1), row(2)], tmp_path / "all")
    database.load(tmp_path / "all")
    full([row(1)], tmp_path / "paid", selection={"statuses": ["paid"]})

    assert database.load(tmp_path / "paid").vanished == 0


def test_an_older_export_is_not_loaded_over_a_newer_one(database: Database, tmp_path: Path) -> None:
    full([row(1, status="pending")], tmp_path / "older")
    full([row(1, status="paid")], tmp_path / "newer")
    database.load(tmp_path / "newer")

    outcome = database.load(tmp_path / "older")

    assert (outcome.state, outcome.current) == ("older", read_export(str(tmp_path / "newer")).export_id)
    assert database.invoices("status") == [("paid",)]


def test_an_older_export_with_another_selection_adds_missing_rows_and_overwrites_none(
    database: Database, tmp_path: Path
) -> None:
    full([row(1, status="pending"), row(2)], tmp_path / "january", selection={"invoice_date_from": "2026-01-01"})
    full([row(1, status="paid")], tmp_path / "all")
    database.load(tmp_path / "all")

    assert database.load(tmp_path / "january").state == "loaded"

    assert database.invoices("invoice_id, status") == [("1", "paid"), ("2", "failed")]


def test_an_older_export_with_another_selection_revives_no_invoice_that_has_vanished_since(
    database: Database, tmp_path: Path
) -> None:
    full([row(1), row(2)], tmp_path / "all")
    database.load(tmp_path / "all")
    full([row(2), row(3)], tmp_path / "january", selection={"invoice_date_from": "2026-01-01"})
    full([row(1)], tmp_path / "all")
    database.load(tmp_path / "all")
    vanished = database.query("SELECT vanished_at FROM invoices WHERE invoice_id = '2'")

    database.load(tmp_path / "january")

    assert database.query("SELECT vanished_at FROM invoices WHERE invoice_id IN ('2', '3')") == vanished * 2
    full([row(1), row(2)], tmp_path / "all")
    database.load(tmp_path / "all")
    assert database.invoices("invoice_id", "WHERE vanished_at IS NULL") == [("1",), ("2",)]


def test_exports_of_changes_follow_the_export_they_start_from(database: Database, tmp_path: Path) -> None:
    full([row(1, status="pending"), row(2)], tmp_path / "export")
    database.load(tmp_path / "export")
    changes([row(1, status="paid"), row(2), row(3)], tmp_path / "export")

    assert database.load(tmp_path / "export").rows == 2

    assert database.invoices("invoice_id, status") == [("1", "paid"), ("2", "failed"), ("3", "paid")]


def test_a_gap_between_exports_of_changes_is_refused(database: Database, tmp_path: Path) -> None:
    full([row(1, status="pending")], tmp_path / "export")
    database.load(tmp_path / "export")
    changes([row(1, status="failed")], tmp_path / "export")
    changes([row(1, status="paid")], tmp_path / "export")

    with pytest.raises(LoadError, match="Load a full export first"):
        database.load(tmp_path / "export")
    assert database.invoices("status") == [("pending",)]


def test_the_export_of_a_cleared_run_follows_the_one_that_it_replaces(database: Database, tmp_path: Path) -> None:
    full([row(1, status="pending")], tmp_path / "export")
    database.load(tmp_path / "export")
    changes([row(1, status="failed")], tmp_path / "export", "monday")
    database.load(tmp_path / "export")
    changes([row(1, status="pending"), row(2)], tmp_path / "export", "monday")

    database.load(tmp_path / "export")

    assert database.invoices("invoice_id, status") == [("1", "pending"), ("2", "failed")]


def test_a_load_is_rolled_back_if_its_sums_differ_from_the_manifest(database: Database, tmp_path: Path) -> None:
    full([row(1)], tmp_path / "first")
    database.load(tmp_path / "first")
    full([row(1, amount="5.00"), row(2)], tmp_path / "second")
    export = read_export(str(tmp_path / "second"))
    forged = copy.deepcopy(export.totals)
    forged["INR"]["pending"]["amount"] = "5.01"
    export.__class__ = type("Forged", (Export,), {"totals": forged})

    with pytest.raises(LoadError, match="sums"):
        Load(export, DIALECTS[database.kind], Target("invoices", None), cleaned).run(
            database.connect(), create_table=False
        )
    assert database.invoices("amount") == [(Decimal("1.01"),)]
    assert len(database.query("SELECT * FROM invoices_exports")) == 1


def test_organizations_can_share_a_table_without_mixing_invoices(database: Database, tmp_path: Path) -> None:
    full([row(1)], tmp_path / "acme")
    full([row(1, status="paid")], tmp_path / "other", organization="other")
    database.load(tmp_path / "acme")
    database.load(tmp_path / "other")
    full([], tmp_path / "acme")

    assert database.load(tmp_path / "acme").vanished == 1

    assert database.query("SELECT organization, vanished_at IS NULL FROM invoices ORDER BY 1") == [
        ("acme", 0),
        ("other", 1),
    ]


@pytest.mark.parametrize("table", ['in"voices; DROP TABLE books', "100%", "Ω ledger", "select", "a?b"])
def test_any_name_of_a_table_is_quoted_and_never_run(database: Database, tmp_path: Path, table: str) -> None:
    full([row(1)], tmp_path / "export")

    assert database.load(tmp_path / "export", table=table).state == "loaded"

    quoted = table.replace('"', '""')
    assert database.query(f'SELECT invoice_id FROM "{quoted}"') == [("1",)]


@pytest.mark.parametrize("table", ["", "a\x00b", "finance.invoices", "x" * 60])
def test_invalid_table_names_are_refused(table: str) -> None:
    with pytest.raises(UnpodConfigError, match="`table`"):
        Target(table, None)


def test_a_file_that_changes_while_it_is_loaded_is_named_and_nothing_is_loaded(
    database: Database, tmp_path: Path
) -> None:
    full([row(1)], tmp_path / "export")
    export = read_export(str(tmp_path / "export"))
    (file,) = (tmp_path / "export").glob("*.jsonl")
    file.write_text(file.read_text().replace("1.01", "1.02"))

    with (
        closing(database.connect()) as connection,
        pytest.raises(ExportError, match="was modified"),
    ):
        Load(export, DIALECTS[database.kind], Target("invoices", None), cleaned).run(connection, create_table=True)
    full([row(1)], tmp_path / "export")
    with pytest.raises(LoadRefused, match="does not exist"):
        database.load(tmp_path / "export", create_table=False)


def test_a_table_that_does_not_exist_is_named_with_the_remedy(database: Database, tmp_path: Path) -> None:
    full([row(1)], tmp_path / "export")

    with pytest.raises(LoadRefused, match="create_table=True"):
        database.load(tmp_path / "export", create_table=False)


def test_a_table_that_was_dropped_without_its_ledger_is_not_taken_for_loaded(
    database: Database, tmp_path: Path
) -> None:
    full([row(1)], tmp_path / "export")
    database.load(tmp_path / "export")
    with closing(database.connect()) as connection:
        connection.cursor().execute("DROP TABLE invoices")
        connection.commit()

    with pytest.raises(LoadRefused, match='Drop the ledger "invoices_exports"'):
        database.load(tmp_path / "export")


def test_a_table_without_a_column_is_refused_before_anything_is_written(database: Database, tmp_path: Path) -> None:
    full([row(1)], tmp_path / "export")
    with closing(database.connect()) as connection:
        connection.cursor().execute("CREATE TABLE invoices (organization TEXT, invoice_id TEXT)")
        connection.commit()

    with pytest.raises(LoadRefused, match="lacks the columns invoice_number, amount"):
        database.load(tmp_path / "export")


@pytest.mark.parametrize(
    ("column", "other"),
    [("amount", "FLOAT"), ("amount", "NUMERIC(10, 2)"), ("invoice_date", "TIMESTAMP"), ("currency", "CHAR(3)")],
)
def test_a_column_that_would_round_or_shift_values_is_refused_by_name(
    database: Database, tmp_path: Path, column: str, other: str
) -> None:
    full([row(1)], tmp_path / "export")
    database.load(tmp_path / "export", table="usual")
    types = DIALECTS[database.kind].types
    columns = ", ".join(f"{one.name} {other if one.name == column else types[one.kind]}" for one in COLUMNS)
    with closing(database.connect()) as connection:
        connection.cursor().execute(f"CREATE TABLE invoices ({columns})")
        connection.commit()

    with pytest.raises(LoadRefused, match=f"column {column} must be of type"):
        database.load(tmp_path / "export")


@pytest.mark.parametrize("times", range(3))
def test_of_two_concurrent_loads_the_newer_export_wins(database: Database, tmp_path: Path, times: int) -> None:
    full([row(number, status="pending") for number in range(1, 1_001)], tmp_path / "older")
    full([row(number, status="paid") for number in range(1, 1_001)], tmp_path / "newer")

    with ThreadPoolExecutor() as both:
        outcomes = list(both.map(database.load, (tmp_path / "older", tmp_path / "newer")))

    assert outcomes[1].state == "loaded"
    assert outcomes[0].state in ("loaded", "older")
    assert database.query("SELECT DISTINCT status FROM invoices") == [("paid",)]


STATUSES = st.sampled_from(["pending", "paid", "failed", "refunded"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(1, 6), STATUSES),
        st.tuples(st.just("delete"), st.integers(1, 6), st.none()),
        st.tuples(st.sampled_from(["full", "changes", "cleared changes", "load", "load"]), st.none(), st.none()),
    ),
    max_size=25,
)


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_after_any_sequence_the_table_equals_the_api_or_the_load_failed_with_a_reason(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("sequence")
    check_sequence(sqlite_in(folder), folder / "export", steps)


def check_sequence(database: Database, path: Path, steps: list[tuple[str, Any, Any]]) -> None:
    """Play steps of an API, of exports and loads; after each load that succeeds, the table has what was exported."""
    api: dict[int, dict[str, Any]] = {}
    exported: dict[str, str] | None = None
    runs = 0
    complete = False
    for step, number, status in steps:
        if step == "set":
            api[number] = row(number, status=status)
        elif step == "delete":
            api.pop(number, None)
        elif step == "full":
            full(list(api.values()), path)
        elif step in ("changes", "cleared changes"):
            runs += step == "changes"
            changes(list(api.values()), path, f"run {runs}")
        if step in ("full", "changes", "cleared changes"):
            exported = {str(key): one["status"] for key, one in api.items()}
            complete = step == "full"
        if step != "load" or exported is None or not (path / "_manifest.json").exists():
            continue
        try:
            database.load(path)
        except LoadError:
            continue
        found = dict(database.query("SELECT invoice_id, status FROM invoices WHERE vanished_at IS NULL"))
        # A vanished invoice is not a change; a full export marks it.
        assert {key: found.get(key) for key in exported} == exported
        if complete:
            assert found == exported


def test_ten_thousand_rows_are_all_there(database: Database, tmp_path: Path) -> None:
    full(list(rows(10_000)), tmp_path / "export")

    database.load(tmp_path / "export")

    assert database.query("SELECT count(*) FROM invoices") == [(10_000,)]
