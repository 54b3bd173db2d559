"""A path belongs to one organization and, within a run, to one task. Others cannot replace its export."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_unpod.export import ExportError, read_export, write_export
from airflow_provider_unpod.export.errors import ExportRefused
from airflow_provider_unpod.export.manifest import MANIFEST_NAME
from airflow_provider_unpod.export.options import ExportOptions
from tests.export.support import FakeReading, names_in, rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Unread:
    def __iter__(self) -> Iterator[None]:
        pytest.fail("there was a request to the API")


def export(reading: Any, folder: Path, organization: str, mode: str = "full") -> Any:
    options = ExportOptions(export_mode=mode)
    return write_export(reading, str(folder), options=options, about={"organization": organization})


@pytest.mark.parametrize("before", ["full", "changes"])
@pytest.mark.parametrize("mode", ["full", "changes"])
def test_another_organizations_export_is_neither_replaced_nor_compared_with(
    tmp_path: Path, before: str, mode: str
) -> None:
    written = export(FakeReading(rows(3)), tmp_path, "acme", before)
    names = names_in(tmp_path)

    with pytest.raises(
        ExportRefused, match=f"separate path for each organization: .*'acme', not of 'other'.*{MANIFEST_NAME}"
    ):
        export(Unread(), tmp_path, "other", mode)
    assert names_in(tmp_path) == names
    assert read_export(str(tmp_path)).export_id == written.manifest.export_id


@pytest.mark.parametrize("mode", ["full", "changes"])
def test_a_manifest_of_a_later_version_or_changed_by_an_editor_still_keeps_its_path(tmp_path: Path, mode: str) -> None:
    export(FakeReading(rows(3)), tmp_path, "acme")
    manifest = tmp_path / MANIFEST_NAME
    text = manifest.read_bytes()
    by_editors = [text.replace(b"\n", b"\r\n"), codecs.BOM_UTF8 + text, text.decode().encode("utf-16")]
    for changed in (*by_editors, text.replace(b'"version": 1', b'"version": 2')):
        manifest.write_bytes(changed)
        with pytest.raises(ExportError, match="is invalid"):
            read_export(tmp_path)
        names = names_in(tmp_path)

        with pytest.raises(ExportRefused, match="'acme', not of 'other'"):
            export(Unread(), tmp_path, "other", mode)
        assert (manifest.read_bytes(), names_in(tmp_path)) == (changed, names)


@pytest.mark.parametrize("mode", ["full", "changes"])
@pytest.mark.parametrize("damaged", [b"", b"{}", b"[]", b"\xff", b'{"organization": "ac', b"[" * 100_000])
def test_an_unreadable_manifest_may_belong_to_another_organization_and_is_not_replaced(
    tmp_path: Path, damaged: bytes, mode: str
) -> None:
    (tmp_path / MANIFEST_NAME).write_bytes(damaged)

    with pytest.raises(ExportRefused, match=f"{tmp_path} contains an export of an unknown.*delete {MANIFEST_NAME}"):
        export(Unread(), tmp_path, "acme", mode)
    assert names_in(tmp_path) == [MANIFEST_NAME]
    assert (tmp_path / MANIFEST_NAME).read_bytes() == damaged


@pytest.mark.parametrize("mode", ["full", "changes"])
@pytest.mark.parametrize("inside", [None, "mine"])
def test_a_folder_in_place_of_the_manifest_is_refused_and_left_alone(
    tmp_path: Path, inside: str | None, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / MANIFEST_NAME).mkdir()
    if inside:
        (tmp_path / MANIFEST_NAME / inside).write_text("mine")

    for use in (lambda: export(Unread(), tmp_path, "acme", mode), lambda: read_export(tmp_path)):
        with pytest.raises(ExportError, match=f"{MANIFEST_NAME} could not be read, .*Is a directory"):
            use()
    assert names_in(tmp_path) == ([f"{MANIFEST_NAME}/{inside}"] if inside else [])
    assert (tmp_path / MANIFEST_NAME).is_dir()
    assert caplog.text == ""


@pytest.mark.parametrize("mode", ["full", "changes"])
def test_a_path_can_be_reused_after_its_manifest_is_deleted(tmp_path: Path, mode: str) -> None:
    export(FakeReading(rows(3)), tmp_path, "acme", "changes")
    (tmp_path / MANIFEST_NAME).unlink()
    written = export(FakeReading(rows(2)), tmp_path, "other", mode)

    assert read_export(str(tmp_path)).count == 2
    assert names_in(tmp_path) == sorted([MANIFEST_NAME, *written.manifest.paths])


def test_a_damaged_manifest_of_the_same_organization_is_replaced_only_by_a_full_export(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).write_bytes(b'{"organization": "acme"}')
    with pytest.raises(ExportError, match="is invalid"):
        export(Unread(), tmp_path, "acme", "changes")

    export(FakeReading(rows(3)), tmp_path, "acme")
    assert read_export(str(tmp_path)).count == 3


def run_of(**fields: Any) -> dict[str, Any]:
    return {"dag_id": "close", "task_id": "export", "run_id": "r1", "map_index": 0, "try_number": 1} | fields


def export_of(folder: Path, run: dict[str, Any]) -> Any:
    return write_export(FakeReading(rows(3)), str(folder), about={"organization": "acme", "run": run})


@pytest.mark.parametrize(
    ("other", "hint"),
    [
        (run_of(map_index=1), "^Put .*map_index.* into `output_path`: .* map_index 0 of this task and run"),
        (run_of(task_id="export_failed", map_index=-1), "^Use a separate path for each task: .* task 'export' of this"),
    ],
)
def test_tasks_of_one_run_do_not_replace_each_others_export(tmp_path: Path, other: dict[str, Any], hint: str) -> None:
    written = export_of(tmp_path, run_of())

    with pytest.raises(ExportRefused, match=hint):
        export_of(tmp_path, other)
    assert read_export(str(tmp_path)).export_id == written.manifest.export_id


@pytest.mark.parametrize("again", [run_of(try_number=2), run_of(run_id="r2", map_index=1), run_of(dag_id="other")])
def test_a_retry_and_another_run_replace_the_export(tmp_path: Path, again: dict[str, Any]) -> None:
    export_of(tmp_path, run_of())
    written = export_of(tmp_path, again)

    assert read_export(str(tmp_path)).export_id == written.manifest.export_id
