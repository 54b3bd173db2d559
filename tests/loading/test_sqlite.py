"""Locks and schemas of SQLite."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.export.support import row
from tests.loading.support import Database, full, sqlite_in

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_while_another_program_writes_the_load_fails_and_a_retry_loads_all(tmp_path: Path, journal: str) -> None:
    file = tmp_path / "books.db"
    impatient = Database("sqlite", lambda: sqlite3.connect(file, timeout=0))
    full([row(1)], tmp_path / "export")

    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute(f"PRAGMA journal_mode = {journal}")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="database is locked"):
            impatient.load(tmp_path / "export")
        other.execute("ROLLBACK")

        assert impatient.load(tmp_path / "export").state == "loaded"
        assert other.execute("SELECT invoice_id FROM invoices").fetchall() == [("1",)]


def test_a_table_is_loaded_by_its_schema_too(tmp_path: Path) -> None:
    database = sqlite_in(tmp_path)
    full([row(1), row(2)], tmp_path / "export")
    database.load(tmp_path / "export", schema="main")
    full([row(1)], tmp_path / "export")

    assert database.load(tmp_path / "export").vanished == 1

    assert database.load(tmp_path / "export", schema="main").state == "already loaded"
