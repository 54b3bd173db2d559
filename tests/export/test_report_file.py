"""The report is a file of the export: written before the manifest, verified and cleaned up like the others."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_unpod.export import ExportError, read_export
from airflow_provider_unpod.export.manifest import MANIFEST_NAME, Manifest
from airflow_provider_unpod.export.options import ExportOptions
from airflow_provider_unpod.web.report import render_report
from tests.export.support import FakeReading, names_in, new_export, row, rows

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_unpod.export.writer import Written

PARTITIONED = ExportOptions("parquet", partition_by=("currency", "month"))
CHANGES = ExportOptions(export_mode="changes")


def export_to(folder: Path, found: Any = None, **arguments: Any) -> Written:
    arguments = {"about": {"organization": "acme"}, "render_report": render_report} | arguments
    return new_export(FakeReading(rows(100) if found is None else found), str(folder), **arguments)


def report_in(folder: Path) -> Path:
    (report,) = folder.glob("_report-*.html")
    return report


@pytest.mark.parametrize("options", [ExportOptions(), PARTITIONED, CHANGES], ids=["plain", "partitioned", "changes"])
def test_the_manifest_lists_the_report_with_size_and_hash(tmp_path: Path, options: ExportOptions) -> None:
    written = export_to(tmp_path, options=options)

    content = report_in(tmp_path).read_bytes()
    listed = read_export(str(tmp_path)).manifest["report"]
    assert listed == {
        "path": f"_report-{written.manifest.export_id}.html",
        "rows": 0,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "partition": {},
    }
    assert written.summary()["report"] == f"file://{tmp_path}/{listed['path']}"
    assert b"100 invoices" in content
    assert written.manifest.export_id.encode() in content


def test_without_a_report_the_manifest_and_the_summary_say_so(tmp_path: Path) -> None:
    written = export_to(tmp_path, render_report=None)

    assert (written.summary()["report"], written.manifest.content["report"]) == (None, None)
    assert list(tmp_path.glob("*.html")) == []


@pytest.mark.parametrize("pattern", ["**/*.jsonl", "**/*.parquet", "**/*.csv*", "**/invoices-*", "**/[!_]*.*"])
def test_no_pattern_for_data_files_matches_the_report(tmp_path: Path, pattern: str) -> None:
    export_to(tmp_path, options=PARTITIONED)

    assert report_in(tmp_path) not in set(tmp_path.glob(pattern))


def test_the_report_of_changes_says_that_its_figures_cover_only_the_changes(tmp_path: Path) -> None:
    export_to(tmp_path, options=CHANGES)
    export_to(tmp_path, [*rows(99), row(100, status="refunded"), row(101)], options=CHANGES)

    text = " ".join(report_in(tmp_path).read_text().split())
    assert "1 new and 1 changed invoices. All figures below cover only these" in text
    assert "2 invoices, read from" in text


def test_the_next_export_replaces_the_report_and_a_failed_one_keeps_it(tmp_path: Path) -> None:
    export_to(tmp_path)
    second = export_to(tmp_path)
    names = ["_manifest.json", f"_report-{second.manifest.export_id}.html", second.manifest.files[0].path]
    assert names_in(tmp_path) == names

    def fails(*_: Any) -> bytes:
        raise RuntimeError("no template")

    with pytest.raises(RuntimeError, match="no template"):
        export_to(tmp_path, render_report=fails)
    assert names_in(tmp_path) == names
    assert read_export(str(tmp_path)).export_id == second.manifest.export_id

    export_to(tmp_path, render_report=None)
    assert list(tmp_path.glob("*.html")) == []


def test_the_report_of_a_killed_task_is_removed_by_the_next_export(tmp_path: Path) -> None:
    for name in ("_report-20260101T000000Z-00000000.html", "._report-20260101T000000Z-00000000.html.abcd.tmp"):
        (tmp_path / name).write_text("half")
    (tmp_path / "report.html").write_text("not of an export")
    export_to(tmp_path, render_report=None)

    assert [name for name in names_in(tmp_path) if "report" in name] == ["report.html"]


@pytest.mark.parametrize("damage", ["changed", "longer", "missing"])
def test_an_export_whose_report_was_modified_or_removed_is_refused(tmp_path: Path, damage: str) -> None:
    export_to(tmp_path)
    report = report_in(tmp_path)
    if damage == "missing":
        report.unlink()
    else:
        content = report.read_bytes()
        report.write_bytes(content + b" " if damage == "longer" else content.replace(b"1", b"2", 1))

    with pytest.raises(ExportError, match=r"_report-\S+\.html (is missing|was modified)"):
        read_export(str(tmp_path))


def test_a_removed_report_does_not_stop_the_next_export_of_changes(tmp_path: Path) -> None:
    export_to(tmp_path)
    report_in(tmp_path).unlink()

    written = export_to(tmp_path, rows(101), options=CHANGES)
    assert (written.manifest.count, read_export(str(tmp_path)).count) == (1, 1)


@pytest.mark.parametrize("path", ["../x.html", "/etc/passwd", "_report-../x.html", "invoices.html"])
def test_a_manifest_whose_report_is_another_file_is_refused(tmp_path: Path, path: str) -> None:
    written = export_to(tmp_path)
    content = {**written.manifest.content, "report": {**written.manifest.content["report"], "path": path}}
    sealed = Manifest(content, (), (), None).to_bytes()
    (tmp_path / MANIFEST_NAME).write_bytes(sealed)

    with pytest.raises(ExportError, match="is invalid"):
        read_export(str(tmp_path))
