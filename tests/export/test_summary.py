"""The summary of an export goes into Airflow's database, so its size has a limit."""

from __future__ import annotations

import json

import pytest

from airflow_provider_unpod.export.manifest import ListedFile, Manifest
from airflow_provider_unpod.export.writer import Written


def export_of(files: int, statuses: int) -> Written:
    content = {
        "export_id": "20260201T000000Z-00000000",
        "count": statuses,
        "totals": {"USD": {f"status {number}": {"count": 1, "amount": "1.00"} for number in range(statuses)}},
        "evidence": {"consistency": "linked"},
    }
    listed = tuple(ListedFile(f"month={n}/invoices-{n}.parquet", 1, 1, "0" * 64) for n in range(files))
    return Written("s3://bucket/invoices", Manifest(content, listed, (), None))


@pytest.mark.parametrize(("files", "statuses"), [(1, 1), (100, 100), (101, 101), (3000, 3000)])
def test_the_summary_counts_all_files_and_lists_a_hundred_at_most(files: int, statuses: int) -> None:
    summary = export_of(files, statuses).summary()

    assert summary["file_count"] == files
    assert (summary["files"] is None) == (files > 100)
    assert (summary["totals"] is None) == (statuses > 100)
    assert summary["files"] is None or len(summary["files"]) == files
    assert len(json.dumps(summary)) < 20_000
    assert summary["manifest"] == "s3://bucket/invoices/_manifest.json"


def test_the_summary_has_the_same_keys_whatever_its_size() -> None:
    assert export_of(1, 1).summary().keys() == export_of(3000, 3000).summary().keys()


def test_the_size_of_the_summary_is_limited_for_any_names() -> None:
    written = export_of(1, 1)
    written.manifest.totals["USD"] = {f"{number}{'x' * 3000}": {"count": 1, "amount": "1.00"} for number in range(90)}

    assert written.summary()["totals"] is None
