"""Exports of changes: what is new or different since the last certified export of the same path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_unpod.export import ExportError, read_export, write_export
from airflow_provider_unpod.export.options import ExportOptions
from tests.export.support import FakeReading, names_in, row, rows

if TYPE_CHECKING:
    from pathlib import Path

CHANGES = ExportOptions(export_mode="changes")


def export(found: list[dict[str, Any]], folder: Path, options: ExportOptions = CHANGES, **about: Any) -> Any:
    return write_export(FakeReading(found), str(folder), options=options, about={"organization": "acme", **about})


def seen(folder: Path) -> list[tuple[Any, ...]]:
    return [(r.get("id"), r["old_status"], r["new_status"], r["status"]) for r in read_export(str(folder))]


def run(run_id: str, attempt: int = 1) -> dict[str, Any]:
    return {"dag_id": "d", "task_id": "t", "run_id": run_id, "map_index": -1, "try_number": attempt}


def test_the_first_export_of_changes_holds_everything_as_new(tmp_path: Path) -> None:
    export(list(rows(2)), tmp_path)

    assert seen(tmp_path) == [(1, None, "pending", "pending"), (2, None, "failed", "failed")]


def test_later_ones_hold_what_is_new_or_different_with_both_statuses(tmp_path: Path) -> None:
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


def test_no_change_writes_nothing_and_leaves_the_last_export_standing(tmp_path: Path) -> None:
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


def test_an_invoice_that_was_not_selected_for_a_while_is_compared_with_when_it_was_last_seen(tmp_path: Path) -> None:
    export([row(1), row(2)], tmp_path)
    export([row(2, status="paid")], tmp_path)
    export([row(1), row(2, status="paid"), row(3)], tmp_path)

    assert seen(tmp_path) == [(3, None, "paid", "paid")]


def test_the_latest_run_when_cleared_exports_the_same_changes_again(tmp_path: Path) -> None:
    export([row(1)], tmp_path, run=run("monday"))
    export([row(1, status="paid")], tmp_path, run=run("tuesday"))
    export([row(1, status="paid"), row(2)], tmp_path, run=run("tuesday", attempt=2))

    assert seen(tmp_path) == [(1, "pending", "paid", "paid"), (2, None, "failed", "failed")]
    assert export([row(1, status="paid"), row(2)], tmp_path, run=run("wednesday")) is None


def test_an_older_run_when_cleared_exports_what_has_changed_since_the_last_export(tmp_path: Path) -> None:
    export([row(1), row(2)], tmp_path, run=run("monday"))
    export([row(1, status="paid"), row(2)], tmp_path, run=run("tuesday"))

    assert export([row(1, status="paid"), row(2)], tmp_path, run=run("monday", attempt=2)) is None
    export([row(1, status="paid"), row(2, status="paid")], tmp_path, run=run("monday", attempt=3))
    assert seen(tmp_path) == [(2, "failed", "paid", "paid")]
    assert export([row(1, status="paid"), row(2, status="paid")], tmp_path, run=run("tuesday", attempt=2)) is None


def test_ids_that_name_the_same_invoice_are_one(tmp_path: Path) -> None:
    export([row(1)], tmp_path)
    export([row(1) | {"id": "1", "status": "paid"}], tmp_path)

    assert seen(tmp_path) == [("1", "pending", "paid", "paid")]


def test_a_damaged_state_is_refused_and_not_taken_for_no_change(tmp_path: Path) -> None:
    export([row(1)], tmp_path)
    state = next(tmp_path.glob("_state-*"))
    state.write_bytes(state.read_bytes()[:-1])

    with pytest.raises(ExportError, match="_state-"):
        export([row(1)], tmp_path)
    with pytest.raises(ExportError, match="_state-"):
        read_export(str(tmp_path))


def test_fields_of_the_api_are_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="old_status"):
        export([row(1, old_status="theirs")], tmp_path)

    assert names_in(tmp_path) == []
