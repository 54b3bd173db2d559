"""Records are read back exactly as they were exported."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_provider_unpod.export import ExportError, read_export, write_export
from airflow_provider_unpod.export.options import ExportOptions
from tests.export.support import FakeReading, names_in, new_export, records, row, rows

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("compression", [None, "gzip", "zstd"])
def test_jsonl_gives_back_the_same_records_in_the_same_order(tmp_path: Path, compression: str | None) -> None:
    write_export(FakeReading(rows(500)), str(tmp_path), options=ExportOptions(compression=compression))

    assert list(read_export(str(tmp_path))) == records(rows(500))


def test_iterating_twice_yields_the_records_twice(tmp_path: Path) -> None:
    write_export(FakeReading(rows(5)), str(tmp_path))
    export = read_export(str(tmp_path))

    assert list(export) == list(export) == records(rows(5))


def test_the_manifest_is_found_by_folder_and_by_its_own_address(tmp_path: Path) -> None:
    summary = new_export(FakeReading(rows(3)), f"file://{tmp_path}/").summary()

    assert summary["manifest"] == f"file://{tmp_path}/_manifest.json"
    assert list(read_export(summary["manifest"])) == list(read_export(str(tmp_path))) == records(rows(3))


def test_totals_are_exact_and_never_mix_currencies(tmp_path: Path) -> None:
    found = [
        row(1, amount="12345678901234567.89", currency="USD", status="paid"),
        row(2, amount="0.01", currency="USD", status="paid"),
        row(3, amount="500", currency="JPY", status="paid"),
        row(4, amount="1.234", currency="KWD", status="pending"),
        row(5, amount="9" * 30 + ".99", currency="USD", status="failed"),
        row(6, amount="0.01", currency="USD", status="failed"),
    ]
    totals = new_export(FakeReading(found), str(tmp_path)).summary()["totals"]

    assert totals == {
        "JPY": {"paid": {"count": 1, "amount": "500"}},
        "KWD": {"pending": {"count": 1, "amount": "1.234"}},
        "USD": {
            "failed": {"count": 2, "amount": "1" + "0" * 30 + ".00"},
            "paid": {"count": 2, "amount": "12345678901234567.90"},
        },
    }


def test_an_export_without_invoices_is_certified_too(tmp_path: Path) -> None:
    summary = new_export(FakeReading([]), str(tmp_path)).summary()

    assert (summary["count"], summary["totals"], len(summary["files"])) == (0, {}, 1)
    assert list(read_export(str(tmp_path))) == []


def test_a_folder_without_a_manifest_is_not_an_export(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"file://{tmp_path} does not contain a certified export"):
        read_export(str(tmp_path))


def test_a_new_export_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    first = new_export(FakeReading(rows(10)), str(tmp_path)).summary()
    second = new_export(FakeReading(rows(4)), str(tmp_path)).summary()

    assert names_in(tmp_path) == sorted(["_manifest.json", second["files"][0].rpartition("/")[2]])
    assert list(read_export(str(tmp_path))) == records(rows(4))
    with pytest.raises(ExportError, match="has been replaced"):
        read_export(str(tmp_path), export_id=first["export_id"])


def test_files_that_do_not_belong_to_an_export_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "month=2026-01").mkdir()
    other = new_export(FakeReading(rows(2)), str(tmp_path / "month=2026-01")).summary()
    write_export(FakeReading(rows(3)), str(tmp_path))
    write_export(FakeReading(rows(3)), str(tmp_path))

    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert list(read_export(other["manifest"])) == records(rows(2))
