"""Lists of files for other programs, even while another export replaces this one."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_unpod.export import ExportError, export_files, read_export
from airflow_provider_unpod.export.manifest import MANIFEST_NAME, Manifest
from airflow_provider_unpod.export.options import ExportOptions
from airflow_provider_unpod.export.reader import _addresses
from tests.export.support import FakeReading, new_export, rows

PAGE = Path(__file__).parents[2] / "docs" / "exports.md"


@pytest.mark.parametrize("partition_by", [(), ("currency", "status")])
def test_files_are_those_of_the_manifest_as_local_paths(tmp_path: Path, partition_by: tuple[str, ...]) -> None:
    written = new_export(FakeReading(rows(30)), str(tmp_path), options=ExportOptions(partition_by=partition_by))

    listed = [str(tmp_path / file.path) for file in written.manifest.files]
    assert export_files(tmp_path) == export_files(f"file://{tmp_path}/{MANIFEST_NAME}") == listed
    assert read_export(tmp_path).files == listed


class Bucket:
    address = "s3://a_connection@bucket/invoices"


def test_addresses_in_a_store_do_not_contain_the_connection(tmp_path: Path) -> None:
    manifest = new_export(FakeReading(rows(1)), str(tmp_path)).manifest
    folder: Any = Bucket()

    assert _addresses(folder, manifest) == [f"s3://bucket/invoices/{manifest.files[0].path}"]


def test_files_left_by_another_task_are_not_listed(tmp_path: Path) -> None:
    written = new_export(FakeReading(rows(3)), str(tmp_path)).manifest
    (tmp_path / "invoices-20260101T000000Z-00000000.jsonl").write_text("{}\n")

    assert export_files(tmp_path) == [str(tmp_path / written.files[0].path)]


def test_an_export_or_manifest_other_than_the_requested_one_is_refused(tmp_path: Path) -> None:
    first = new_export(FakeReading(rows(1)), str(tmp_path)).manifest
    second = new_export(FakeReading(rows(2)), str(tmp_path)).manifest

    with pytest.raises(ExportError, match="has been replaced"):
        export_files(tmp_path, export_id=first.export_id)
    with pytest.raises(ExportError, match=first.sha256):
        export_files(tmp_path, manifest_sha256=first.sha256)
    assert len(export_files(tmp_path, export_id=second.export_id, manifest_sha256=second.sha256)) == 1
    (tmp_path / MANIFEST_NAME).write_bytes(Manifest(second.content, (), (), None).to_bytes() + b"\n")
    with pytest.raises(ExportError, match="is invalid"):
        export_files(tmp_path)


@pytest.mark.parametrize("partition_by", [(), ("currency", "month")])
def test_the_sql_of_the_page_adds_up_to_the_control_totals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, partition_by: tuple[str, ...]
) -> None:
    import duckdb

    options = ExportOptions("parquet", "zstd", partition_by)
    manifest = new_export(FakeReading(rows(300)), str(tmp_path / "invoices"), options=options).manifest
    litter = tmp_path / "invoices" / "invoices-20260101T000000Z-00000000.parquet"
    litter.write_bytes(Path(export_files(tmp_path / "invoices")[0]).read_bytes())
    monkeypatch.chdir(tmp_path)
    (sql,) = re.findall(r"```sql\n(.*?)```", PAGE.read_text(), re.DOTALL)

    with duckdb.connect() as connection:
        found = connection.execute(sql).fetchall()
    assert found == [
        (currency, status, total["count"], Decimal(total["amount"]))
        for currency, totals in sorted(manifest.totals.items())
        for status, total in sorted(totals.items())
    ]


def test_the_sql_that_loads_into_duckdb_adds_up_to_the_control_totals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import duckdb

    options = ExportOptions("parquet", "zstd", ("currency", "month"))
    manifest = new_export(FakeReading(rows(300)), str(tmp_path / "invoices"), options=options).manifest
    monkeypatch.chdir(tmp_path)
    (sql,) = re.findall(r"```sql\n(.*?)```", PAGE.with_name("books.md").read_text(), re.DOTALL)

    with duckdb.connect() as connection:
        for _ in range(2):
            connection.execute(sql)
        found = connection.execute("SELECT currency, count(*), sum(amount) FROM unpod_invoices GROUP BY 1 ORDER BY 1")
        assert found.fetchall() == [
            (
                currency,
                sum(total["count"] for total in totals.values()),
                sum(Decimal(total["amount"]) for total in totals.values()),
            )
            for currency, totals in sorted(manifest.totals.items())
        ]


def test_the_python_of_the_page_reads_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = new_export(FakeReading(rows(300)), str(tmp_path), options=ExportOptions("parquet")).manifest
    (code,) = re.findall(r"```python\n([^`]*export_files[^`]*)```", PAGE.read_text())

    names: dict[str, Any] = {}
    exec(code.replace('"/data/unpod/acme"', repr(str(tmp_path))), names)
    assert len(names["frame"]) == manifest.count == 300
