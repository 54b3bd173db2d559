"""The spool for records."""

from __future__ import annotations

import json
import resource
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_unpod.export import ExportError, read_export, write_export
from airflow_provider_unpod.export.options import ExportOptions
from airflow_provider_unpod.export.reconciliation import Entry, reconcile
from airflow_provider_unpod.export.spool import Spool, encode_record
from tests.export.support import FakeReading, rows
from tests.properties import examples

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3),
)


@settings(max_examples=examples(50), deadline=None)
@given(st.dictionaries(st.text(), values, max_size=5))
def test_the_fast_encoder_gives_the_same_result_as_the_standard_one(record: dict[str, object]) -> None:
    assert encode_record(record) == json.dumps(record, separators=(",", ":"))


def test_lines_are_returned_by_partition_in_their_original_order() -> None:
    with Spool() as spool:
        for number in range(200_000):
            spool.add((str(number % 3),), f"{number:050d}")
        assert spool.partitions() == [("0",), ("1",), ("2",)]
        for partition in spool.partitions():
            lines = [int(line) for block in spool.blocks(partition) for line in block.splitlines()]
            assert lines == list(range(int(partition[0]), 200_000, 3))
            assert spool.rows(partition) == len(lines)


def write(folder: Path, mode: str = "full") -> None:
    write_export(FakeReading(rows(2000)), str(folder), options=ExportOptions(export_mode=mode))


def compare(folder: Path) -> None:
    long_ids = [Entry(f"{number:02000d}", Decimal(1), "USD") for number in range(10_000)]
    list(reconcile(long_ids, []))


USES: list[Callable[[Path], Any]] = [
    write,
    lambda folder: write(folder, "changes"),
    lambda folder: read_export(folder),
    compare,
]


@pytest.mark.parametrize("use", USES)
def test_a_missing_temporary_folder_is_named_with_the_remedy(
    use: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "export")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))

    with pytest.raises(ExportError, match=f"`TMPDIR` must be a folder with space.*{tmp_path}/gone"):
        use(tmp_path / "export")


@pytest.mark.parametrize("use", USES)
def test_a_full_temporary_folder_is_named_with_the_remedy(
    use: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "export")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # as if the disk were full
    try:
        with pytest.raises(ExportError, match=r"`TMPDIR` must be a folder with space"):
            use(tmp_path / "export")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
