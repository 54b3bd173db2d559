"""The temporary file of a reconciliation's differences."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import IO

import pytest

from airflow_provider_unpod.export import ExportError, difference_files
from airflow_provider_unpod.export.difference_files import Differences
from airflow_provider_unpod.export.errors import LedgerError
from airflow_provider_unpod.export.reconciliation import Entry, reconcile
from airflow_provider_unpod.export.spool import temporary_file


def broken_ledger() -> Iterator[Entry]:
    yield Entry("1", Decimal("10.00"), "USD", None, None)
    raise LedgerError("line 2 is not a ledger")


def test_a_ledger_that_breaks_off_leaves_no_file_open(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[IO[bytes]] = []

    def recorded() -> IO[bytes]:
        opened.append(temporary_file())
        return opened[-1]

    monkeypatch.setattr(difference_files, "temporary_file", recorded)
    with pytest.raises(LedgerError, match="line 2"):
        Differences(reconcile([], broken_ledger()), 10)

    (file,) = opened
    assert file.closed


def test_a_missing_temporary_folder_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))

    with pytest.raises(ExportError, match=f"`TMPDIR` must be a folder with space.*{tmp_path}/gone"):
        Differences(reconcile([], []), 10)
