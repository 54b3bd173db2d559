"""A report is returned only if manifest, task instance and hash are as requested, and its size is within a limit."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_unpod.export import ExportError
from airflow_provider_unpod.export.reader import read_report
from airflow_provider_unpod.web.report import render_report
from tests.export.support import FakeReading, new_export, rows

if TYPE_CHECKING:
    from pathlib import Path

RUN = {"dag_id": "d", "task_id": "t", "run_id": "r", "map_index": -1}


def reported(folder: Path, count: int = 3, **more: Any) -> dict[str, Any]:
    """The data about an export that a caller has."""
    about = {"organization": "acme", "run": {**RUN, "try_number": 2}}
    arguments = {"about": about, "render_report": render_report} | more
    written = new_export(FakeReading(rows(count)), str(folder), **arguments)
    return {"export_id": written.manifest.export_id, "manifest_sha256": written.manifest.sha256, "run": RUN}


def test_the_report_comes_byte_for_byte(tmp_path: Path) -> None:
    known = reported(tmp_path)

    (file,) = tmp_path.glob("_report-*")
    assert read_report(tmp_path, **known) == file.read_bytes()


def test_an_export_without_a_report_returns_none(tmp_path: Path) -> None:
    assert read_report(tmp_path, **reported(tmp_path, render_report=None)) is None


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"export_id": "20260101T000000Z-00000000"}, "has been replaced"),
        ({"manifest_sha256": "0" * 64}, "must have the SHA-256 0000"),
        ({"run": {**RUN, "dag_id": "other"}}, "not written by this task instance"),
        ({"run": {**RUN, "map_index": 0}}, "not written by this task instance"),
        ({"most": 100}, "too large"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, other: dict[str, Any], why: str) -> None:
    with pytest.raises(ExportError, match=why):
        read_report(tmp_path, **{**reported(tmp_path), **other})


def test_a_report_larger_than_the_limit_is_refused_though_its_manifest_is_not(tmp_path: Path) -> None:
    known = reported(tmp_path)
    size = (tmp_path / "_manifest.json").stat().st_size

    with pytest.raises(ExportError, match="The report has"):
        read_report(tmp_path, most=size, **known)


def test_the_report_of_an_export_without_a_task_instance_is_not_shown(tmp_path: Path) -> None:
    known = reported(tmp_path, about={"organization": "acme"})

    with pytest.raises(ExportError, match="not written by this task instance"):
        read_report(tmp_path, **known)


def test_a_pipe_in_the_place_of_a_file_is_not_opened(tmp_path: Path) -> None:
    known = reported(tmp_path)
    (file,) = tmp_path.glob("_report-*")
    file.unlink()
    os.mkfifo(file)

    with pytest.raises(ExportError, match="is missing"):
        read_report(tmp_path, **known)
