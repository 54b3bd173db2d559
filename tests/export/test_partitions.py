"""Partitions, their folders, and values that are not valid folder names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_unpod.export import read_export, write_export
from airflow_provider_unpod.export.errors import ExportRefused
from airflow_provider_unpod.export.options import ExportOptions
from tests.export.support import FakeReading, names_in, new_export, records, row


def test_folders_have_currencies_in_upper_case_and_statuses_in_lower_case_and_records_are_unchanged(
    tmp_path: Path,
) -> None:
    found = [row(n, currency=c, status=s) for n, (c, s) in enumerate([("USD", "paid"), ("usd ", " Paid")], start=1)]
    options = ExportOptions(partition_by=("currency", "status"))
    written = new_export(FakeReading(found), str(tmp_path), options=options)

    assert [str(Path(file.path).parent) for file in written.manifest.files] == ["currency=USD/status=paid"]
    assert list(read_export(str(tmp_path))) == records(found)


@pytest.mark.parametrize(("value", "size"), [("x" * 300, 307), ("€" * 30, 277), ("/" * 100, 307)])
def test_a_value_too_long_for_a_folder_is_refused_when_it_is_seen(tmp_path: Path, value: str, size: int) -> None:
    read = []

    def found() -> Iterator[dict[str, Any]]:
        for number in range(1, 1000):
            read.append(number)
            yield row(number, status=value if number == 3 else "paid")

    with pytest.raises(ExportRefused, match=f"^Remove 'status' from `partition_by`: .*invoice 3 .*{size} bytes"):
        write_export(FakeReading(found()), str(tmp_path), options=ExportOptions(partition_by=("currency", "status")))
    assert read == [1, 2, 3]
    assert names_in(tmp_path) == []


def test_a_value_of_exactly_the_longest_folder_name_is_written(tmp_path: Path) -> None:
    found = [row(1, status="x" * (255 - len("status=")))]
    write_export(FakeReading(found), str(tmp_path), options=ExportOptions(partition_by=("status",)))

    assert list(read_export(str(tmp_path))) == records(found)


@pytest.mark.parametrize("keys", ["month", ["month"], ("month",), {"month"}])
def test_one_partition_key_may_be_given_as_text_or_in_any_iterable(tmp_path: Path, keys: Any) -> None:
    options = ExportOptions(partition_by=keys)
    assert options.partition_by == ("month",)
    new_export(FakeReading([row(1, invoice_date="2026-02-01T00:00:00Z")]), str(tmp_path), options=options)
    assert [name for name in names_in(tmp_path) if name.startswith("month=2026-02/")]


def test_one_ignored_field_may_be_given_as_text() -> None:
    text: Any = "receipt_url"
    assert ExportOptions(export_mode="changes", ignore_fields=text).ignore_fields == ("receipt_url",)
