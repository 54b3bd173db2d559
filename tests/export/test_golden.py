"""An export that 0.1.0 has written stays readable, and the form of manifests stays what its readers know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from airflow_provider_unpod.export import read_export
from airflow_provider_unpod.export.manifest import MANIFEST_NAME
from airflow_provider_unpod.export.options import ExportOptions
from tests.export.support import FakeReading, new_export, records, row

GOLDEN = Path(__file__).with_name("golden")
INVOICES = [
    row(1, amount="20.48", currency="USD", note="ab\x00c"),
    row(2, amount="500", currency="JPY", invoice_date=None),
]
#: What differs from run to run, and what follows from it.
VOLATILE = {"export_id", "started_at", "read_at", "path", "seal"}


def test_an_export_of_an_earlier_version_is_read() -> None:
    export = read_export(GOLDEN)
    assert sorted(export, key=lambda record: int(record["id"])) == [
        {**record, "old_status": None, "new_status": record["status"]} for record in records(INVOICES)
    ]


def test_the_form_of_a_manifest_is_unchanged(tmp_path: Path) -> None:
    before: dict[str, Any] = json.loads((GOLDEN / MANIFEST_NAME).read_bytes())
    about = {name: before[name] for name in ("organization", "source", "selection", "run")}
    options = ExportOptions("csv", partition_by=("currency",), export_mode="changes")
    written = new_export(FakeReading(INVOICES), str(tmp_path), options=options, about=about).manifest
    assert without_volatile(json.loads(written.to_bytes())) == without_volatile(before)


def without_volatile(value: Any) -> Any:
    if isinstance(value, list):
        return [without_volatile(one) for one in value]
    if isinstance(value, dict):
        return [(name, None if name in VOLATILE else without_volatile(one)) for name, one in value.items()]
    return value
