"""Partitions, their folders, and values that are not valid folder names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pendulum
import pytest

from airflow_provider_unpod.billing.invoice import Invoice
from airflow_provider_unpod.billing.reading.selection import Selection
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


@pytest.mark.parametrize("value", ["__HIVE_DEFAULT_PARTITION__", "null ", "NULL"])
@pytest.mark.parametrize("file_format", ["jsonl", "csv", "parquet"])
def test_a_currency_that_readers_take_for_a_missing_value_is_exported_but_not_as_a_folder(
    tmp_path: Path, value: str, file_format: str
) -> None:
    found = [row(1), row(2, currency=value), row(3, invoice_date=None)]
    with pytest.raises(ExportRefused, match=r"^Remove 'currency' from `partition_by`: .*invoice 2 .*missing value"):
        write_export(FakeReading(found), tmp_path, options=ExportOptions(file_format, partition_by=("currency",)))
    assert names_in(tmp_path) == []

    written = new_export(FakeReading(found), str(tmp_path), options=ExportOptions(file_format, partition_by=("month",)))
    assert {file.partition["month"] for file in written.manifest.files} == {
        "2026-02",
        "2026-03",
        "__HIVE_DEFAULT_PARTITION__",
    }
    assert sorted(read_export(tmp_path), key=lambda record: record["id"]) == records(found)


@pytest.mark.parametrize(
    ("zone", "first", "midnight"),
    [
        ("America/Havana", "2026-11-01", "2026-11-01T04:00:00Z"),  # 00:00 to 00:59 occur twice
        ("Atlantic/Azores", "2026-10-25", "2026-10-25T00:00:00Z"),
        ("Asia/Gaza", "2004-10-01", "2004-09-30T21:00:00Z"),
        ("Africa/Cairo", "2024-11-01", "2024-10-31T22:00:00Z"),  # 23:00 to 23:59 of the day before occur twice
        ("Asia/Beirut", "2026-10-25", "2026-10-24T22:00:00Z"),
    ],
)
def test_a_month_and_a_selection_begin_with_the_first_midnight_however_it_is_written(
    tmp_path: Path, zone: str, first: str, midnight: str
) -> None:
    begin = datetime.fromisoformat(midnight.replace("Z", "+00:00"))
    moments = [begin + timedelta(minutes=minutes) for minutes in (-61, -31, -1, 0, 31, 61, 91)]
    found = [row(n, invoice_date=moment.isoformat()) for n, moment in enumerate(moments, start=1)]
    written_as: list[Any] = [first, f"{first}T00:00", date.fromisoformat(first)]
    written_as += [datetime.fromisoformat(first), datetime.fromisoformat(first).replace(fold=1), pendulum.parse(first)]
    written_as[-1] = written_as[-1].naive()
    for value in written_as:
        selection = Selection.from_arguments(invoice_date_from=value, timezone=zone)
        assert selection.invoice_date_from == begin, value
        assert [one for one in map(Invoice, found) if selection.matches(one)] == list(map(Invoice, found[3:]))

    options = ExportOptions(partition_by=("month",), business_timezone=zone)
    files = new_export(FakeReading(found), str(tmp_path), options=options).manifest.files
    before = first[:7] if not first.endswith("-01") else (begin - timedelta(days=2)).isoformat()[:7]
    expected = Counter({before: 3}) + Counter({first[:7]: 4})
    assert {file.partition["month"]: file.rows for file in files} == expected


@pytest.mark.parametrize("keys", ["month", ["month"], ("month",), {"month"}])
def test_one_partition_key_may_be_given_as_text_or_in_any_iterable(tmp_path: Path, keys: Any) -> None:
    options = ExportOptions(partition_by=keys)
    assert options.partition_by == ("month",)
    new_export(FakeReading([row(1, invoice_date="2026-02-01T00:00:00Z")]), str(tmp_path), options=options)
    assert [name for name in names_in(tmp_path) if name.startswith("month=2026-02/")]


def test_one_ignored_field_may_be_given_as_text() -> None:
    text: Any = "receipt_url"
    assert ExportOptions(export_mode="changes", ignore_fields=text).ignore_fields == ("receipt_url",)
