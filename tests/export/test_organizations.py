"""A path belongs to one organisation: its export is never replaced by that of another."""

from __future__ import annotations

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
        pytest.fail("the API was asked")


def export(reading: Any, folder: Path, organization: str, mode: str = "full") -> Any:
    options = ExportOptions(export_mode=mode)
    return write_export(reading, str(folder), options=options, about={"organization": organization})


@pytest.mark.parametrize("before", ["full", "changes"])
@pytest.mark.parametrize("mode", ["full", "changes"])
def test_another_organisations_export_is_neither_replaced_nor_compared_with(
    tmp_path: Path, before: str, mode: str
) -> None:
    written = export(FakeReading(rows(3)), tmp_path, "acme", before)
    names = names_in(tmp_path)

    with pytest.raises(ExportRefused, match=f"{tmp_path} .*'acme', not of 'other'.*path of its own.*{MANIFEST_NAME}"):
        export(Unread(), tmp_path, "other", mode)
    assert names_in(tmp_path) == names
    assert read_export(str(tmp_path)).export_id == written.manifest.export_id


@pytest.mark.parametrize("mode", ["full", "changes"])
def test_a_path_is_given_over_by_deleting_its_manifest(tmp_path: Path, mode: str) -> None:
    export(FakeReading(rows(3)), tmp_path, "acme", "changes")
    (tmp_path / MANIFEST_NAME).unlink()
    written = export(FakeReading(rows(2)), tmp_path, "other", mode)

    assert read_export(str(tmp_path)).count == 2
    assert names_in(tmp_path) == sorted([MANIFEST_NAME, *written.manifest.paths])


@pytest.mark.parametrize("damaged", [b"", b"{}", b"\xff", b'{"organization": "acme"}'])
def test_a_damaged_manifest_is_replaced_by_a_full_export_and_refused_by_one_of_changes(
    tmp_path: Path, damaged: bytes
) -> None:
    (tmp_path / MANIFEST_NAME).write_bytes(damaged)
    with pytest.raises(ExportError, match="cannot be believed"):
        export(Unread(), tmp_path, "acme", "changes")

    export(FakeReading(rows(3)), tmp_path, "acme")
    assert read_export(str(tmp_path)).count == 3
