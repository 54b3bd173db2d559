"""Exports of changes: what is new or different since the last certified export of the same path."""

from __future__ import annotations

import shutil
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_unpod.billing.errors import UnpodConfigError
from airflow_provider_unpod.billing.invoice import Invoice
from airflow_provider_unpod.billing.reading.selection import Selection
from airflow_provider_unpod.export import ExportError, read_export, write_export
from airflow_provider_unpod.export.changes import Comparison
from airflow_provider_unpod.export.options import ExportOptions
from tests.export.support import FakeReading, names_in, row, rows
from tests.properties import examples

if TYPE_CHECKING:
    from collections.abc import Callable

CHANGES = ExportOptions(export_mode="changes")
PAID = Selection.from_arguments(statuses="paid")


def export(
    found: list[dict[str, Any]],
    folder: Path,
    options: ExportOptions = CHANGES,
    selection: Selection | None = None,
    **about: Any,
) -> Any:
    about = {"organization": "acme", **about}
    return write_export(FakeReading(found), str(folder), options=options, about=about, selection=selection)


def seen(folder: Path) -> list[tuple[Any, ...]]:
    return [(r.get("id"), r["old_status"], r["new_status"], r["status"]) for r in read_export(str(folder))]


def run(run_id: str, attempt: int = 1) -> dict[str, Any]:
    return {"dag_id": "d", "task_id": "t", "run_id": run_id, "map_index": -1, "try_number": attempt}


def test_the_first_export_of_changes_has_all_invoices_as_new(tmp_path: Path) -> None:
    export(list(rows(2)), tmp_path)

    assert seen(tmp_path) == [(1, None, "pending", "pending"), (2, None, "failed", "failed")]


def test_later_exports_have_what_is_new_or_different_with_both_statuses(tmp_path: Path) -> None:
    export([row(1), row(2), row(3)], tmp_path)
    export([row(1, status="paid"), row(2, amount="9.99"), row(3), row(4)], tmp_path)

    assert seen(tmp_path) == [
        (1, "pending", "paid", "paid"),
        (2, "failed", "failed", "failed"),
        (4, None, "pending", "pending"),
    ]
    manifest = read_export(str(tmp_path)).manifest
    assert (manifest["changes"]["new"], manifest["changes"]["changed"]) == (1, 2)


@pytest.mark.parametrize("file_format", ["jsonl", "csv", "parquet"])
def test_a_full_export_is_what_changes_are_compared_with(tmp_path: Path, file_format: str) -> None:
    export([row(1), row(2), row(3, customer={"name": "Ω"})], tmp_path, ExportOptions(file_format))
    export(
        [row(1), row(2, status="paid"), row(3, customer={"name": "Ω"})],
        tmp_path,
        ExportOptions(file_format, export_mode="changes"),
    )

    assert seen(tmp_path) == [(2, "failed", "paid", "paid")]


def test_without_changes_no_file_is_written_and_the_last_export_stays_current(tmp_path: Path) -> None:
    first = export([row(1)], tmp_path)
    before = names_in(tmp_path)

    assert export([row(1)], tmp_path) is None
    assert names_in(tmp_path) == before
    assert read_export(str(tmp_path)).export_id == first.manifest.export_id


def test_old_invoices_that_change_late_are_never_skipped(tmp_path: Path) -> None:
    old = row(1, invoice_date="2001-01-01T00:00:00Z")
    export([old, row(2)], tmp_path)
    export([old | {"status": "refunded"}, row(2)], tmp_path)

    assert seen(tmp_path) == [(1, "pending", "refunded", "refunded")]


def test_an_invoice_that_vanishes_and_returns_is_compared_with_its_last_version(tmp_path: Path) -> None:
    export([row(1), row(2)], tmp_path)
    export([row(2, status="paid")], tmp_path)
    export([row(1), row(2, status="paid"), row(3)], tmp_path)

    assert seen(tmp_path) == [(3, None, "paid", "paid")]


def test_the_latest_run_exports_the_same_changes_again_when_it_is_cleared(tmp_path: Path) -> None:
    export([row(1)], tmp_path, run=run("monday"))
    export([row(1, status="paid")], tmp_path, run=run("tuesday"))
    export([row(1, status="paid"), row(2)], tmp_path, run=run("tuesday", attempt=2))

    assert seen(tmp_path) == [(1, "pending", "paid", "paid"), (2, None, "failed", "failed")]
    assert export([row(1, status="paid"), row(2)], tmp_path, run=run("wednesday")) is None


def test_a_cleared_older_run_exports_changes_since_the_last_export(tmp_path: Path) -> None:
    export([row(1), row(2)], tmp_path, run=run("monday"))
    export([row(1, status="paid"), row(2)], tmp_path, run=run("tuesday"))

    assert export([row(1, status="paid"), row(2)], tmp_path, run=run("monday", attempt=2)) is None
    export([row(1, status="paid"), row(2, status="paid")], tmp_path, run=run("monday", attempt=3))
    assert seen(tmp_path) == [(2, "failed", "paid", "paid")]
    assert export([row(1, status="paid"), row(2, status="paid")], tmp_path, run=run("tuesday", attempt=2)) is None


def test_a_cleared_run_exports_reverted_changes_and_names_the_exports_that_it_replaces(tmp_path: Path) -> None:
    monday = export([row(1), row(2)], tmp_path, run=run("monday")).manifest
    tuesday = export([row(1, status="failed"), row(2, status="paid")], tmp_path, run=run("tuesday")).manifest
    again = export([row(1), row(2, status="paid")], tmp_path, run=run("tuesday", attempt=2)).manifest

    assert seen(tmp_path) == [(1, "pending", "pending", "pending"), (2, "failed", "paid", "paid")]
    once_more = export([row(1), row(2, status="paid")], tmp_path, run=run("tuesday", attempt=3)).manifest
    assert seen(tmp_path) == [(1, "pending", "pending", "pending"), (2, "failed", "paid", "paid")]
    assert [each.changes["since"] for each in (tuesday, again, once_more)] == [monday.export_id] * 3
    assert tuesday.changes["replaces"] == []
    assert once_more.changes["replaces"] == [again.export_id, tuesday.export_id]


STATUSES = st.sampled_from(["pending", "paid", "failed", None])  # None: the API does not have the invoice now
STEPS = st.tuples(
    st.lists(STATUSES, min_size=3, max_size=3),
    st.sampled_from(["a", "b", "c"]),  # a run that exports twice in a row was retried or cleared
    st.sampled_from(["changes", "changes", "changes", "full"]),
    st.booleans(),  # whether the reader loads this export
)


@settings(max_examples=examples(80), deadline=None)
@given(st.lists(STEPS, min_size=2, max_size=7))
def test_a_copy_that_loads_only_exports_that_follow_equals_the_list_even_if_runs_are_cleared(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("changes")
    last: str | None = None
    copy: dict[int, str] = {}
    for statuses, run_id, mode, loads in steps:
        found = [row(number, status=status) for number, status in enumerate(statuses) if status]
        export(found, folder, ExportOptions(export_mode=mode), run=run(run_id))
        if not (folder / "_manifest.json").exists():
            continue  # no invoice so far
        current = read_export(str(folder))
        if not loads or not (current.export_id == last or current.follows(last)):
            continue
        if current.export_id != last:
            last = current.export_id
            copy.update((record["id"], record["status"]) for record in current)
        for record in found:
            assert copy[record["id"]] == record["status"]
    shutil.rmtree(folder)


def test_a_full_export_follows_every_other(tmp_path: Path) -> None:
    export([row(1)], tmp_path, ExportOptions())

    assert all(read_export(str(tmp_path)).follows(export_id) for export_id in (None, "any"))


def test_an_export_of_changes_does_not_follow_one_before_the_last(tmp_path: Path) -> None:
    ids = [export([row(1, status=status)], tmp_path).manifest.export_id for status in ("pending", "failed", "paid")]

    current = read_export(str(tmp_path))
    assert [current.follows(export_id) for export_id in (None, *ids)] == [False, False, True, False]


@pytest.mark.parametrize(
    "same",
    [
        {"amount": "1.0"},
        {"amount": "01.010"},
        {"tax_amount": "-0.00"},
        {"note": None},
        {"customer": {"name": "A", "tags": [None, {}], "vat": None}},
        {"customer": {"name": "A", "tags": [None, {"vat": None}]}},
        {"status": "Pending "},
        {"currency": " inr"},
        {"invoice_date": "2026-02-01T05:30:00+05:30"},
        {"id": "1"},
    ],
    ids=repr,
)
def test_values_that_are_equal_are_not_a_change(tmp_path: Path, same: dict[str, Any]) -> None:
    before = row(1, tax_amount="0", customer={"name": "A", "tags": [None, {}]}) | (
        {"amount": "1"} if same.get("amount") == "1.0" else {}
    )
    export([before], tmp_path)

    assert export([before | same], tmp_path) is None


@pytest.mark.parametrize(
    "other",
    [{"amount": "-1.01"}, {"amount": "1.011"}, {"tax_amount": None}, {"note": ""}, {"tags": []}, {"tags": [None, 1]}],
    ids=repr,
)
def test_values_that_differ_are_a_change(tmp_path: Path, other: dict[str, Any]) -> None:
    before = row(1, tax_amount="0", note=None, tags=[None])
    export([before], tmp_path)

    assert export([before | other], tmp_path).manifest.count == 1


def test_an_ignored_signed_url_is_not_a_change(tmp_path: Path) -> None:
    options = ExportOptions(export_mode="changes", ignore_fields=("receipt_url",))
    export([row(1, receipt_url="a?signature=1"), row(2, receipt_url="b?signature=1")], tmp_path, options)

    assert export([row(1, receipt_url="a?signature=2"), row(2, receipt_url="b?signature=2")], tmp_path, options) is None
    export([row(1, receipt_url="a?signature=3"), row(2, status="paid", receipt_url="b?signature=3")], tmp_path, options)
    assert next(iter(read_export(str(tmp_path))))["receipt_url"] == "b?signature=3"
    assert read_export(str(tmp_path)).manifest["changes"]["ignore_fields"] == ["receipt_url"]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ({"ignore_fields": ("receipt_url",)}, "`ignore_fields` has no effect without export_mode='changes'"),
        ({"export_mode": "changes", "ignore_fields": ("amount",)}, "must not contain 'amount'"),
        ({"export_mode": "changes", "ignore_fields": ("",)}, "must be names of fields"),
    ],
)
def test_fields_that_cannot_be_ignored_are_refused(arguments: dict[str, Any], hint: str) -> None:
    with pytest.raises(UnpodConfigError, match=hint):
        ExportOptions(**arguments)


def test_an_invoice_that_leaves_the_selection_is_exported_once_with_its_new_status(tmp_path: Path) -> None:
    export([row(1, status="paid"), row(2, status="pending")], tmp_path, selection=PAID)
    assert seen(tmp_path) == [(1, None, "paid", "paid")]

    export([row(1, status="refunded"), row(2, status="pending")], tmp_path, selection=PAID)
    assert seen(tmp_path) == [(1, "paid", "refunded", "refunded")]
    assert export([row(1, status="failed"), row(2, status="pending")], tmp_path, selection=PAID) is None
    export([row(1, status="paid"), row(2, status="pending")], tmp_path, selection=PAID)
    assert seen(tmp_path) == [(1, "refunded", "paid", "paid")]


def test_an_unchanged_invoice_that_leaves_the_selected_dates_is_not_a_change(tmp_path: Path) -> None:
    january = row(12, invoice_date="2026-01-31T00:00:00Z")
    february = row(1, invoice_date="2026-02-01T00:00:00Z")
    export([january, february], tmp_path)

    since_february = Selection.from_arguments(invoice_date_from="2026-02-01")
    assert export([january, february], tmp_path, selection=since_february) is None


def test_two_spellings_of_an_id_are_the_same_invoice(tmp_path: Path) -> None:
    export([row(1)], tmp_path)
    export([row(1) | {"id": "1", "status": "paid"}], tmp_path)

    assert seen(tmp_path) == [("1", "pending", "paid", "paid")]


def cut(state: Path) -> None:
    state.write_bytes(state.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [cut, Path.unlink])
def test_a_damaged_or_missing_state_is_refused_and_repaired_by_a_full_export(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    export([row(1)], tmp_path)
    damage(next(tmp_path.glob("_state-*")))

    with pytest.raises(ExportError, match=r"_state-.*one full export.*export_mode='full'"):
        export([row(1)], tmp_path)
    with pytest.raises(ExportError, match="_state-"):
        read_export(str(tmp_path))
    export([row(1)], tmp_path, ExportOptions())
    assert export([row(1)], tmp_path) is None


@pytest.mark.parametrize("name", ["old_status", "new_status"])
def test_fields_of_the_api_are_not_overwritten(tmp_path: Path, name: str) -> None:
    with pytest.raises(ExportError, match=f"export_mode='full'.*`{name}`"):
        export([row(1, **{name: "theirs"})], tmp_path)

    assert names_in(tmp_path) == []


def test_the_memory_of_a_comparison_does_not_grow_with_the_number_of_invoices() -> None:
    size = 30_000
    known = ((f'"{number}"', f'[["paid","{number:024x}"]]') for number in range(size))
    tracemalloc.start()
    try:
        with Comparison() as comparison:
            comparison.load(known)
            changed = sum(1 for _ in comparison.changes(map(Invoice, rows(size // 10))))
            lines = sum(len(block) for block in comparison.to_blocks())
        assert tracemalloc.get_traced_memory()[1] < 3 * 2**20
    finally:
        tracemalloc.stop()
    assert (changed, lines > size) == (size // 10, True)


def test_a_comparison_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    export(list(rows(1000)), tmp_path / "export")
    export(list(rows(1001)), tmp_path / "export")
    assert names_in(temporary) == []
