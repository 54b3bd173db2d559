"""Helpers for the tests of loading: exports and databases."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.export import read_export, write_export
from airflow_provider_unpod.export.options import ExportOptions
from airflow_provider_unpod.loading.dialects import DIALECTS, Target
from airflow_provider_unpod.loading.load import Load, Outcome
from airflow_provider_unpod.task_boundary import cleaned
from tests.export.support import FakeReading

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Database:
    """A database that tests load into.

    :param kind: type of the connection.
    :param connect: opens a DB-API connection.
    """

    def __init__(self, kind: str, connect: Callable[[], Any]) -> None:
        self.kind = kind
        self.connect = connect

    def load(
        self, folder: Path, *, table: str = "invoices", schema: str | None = None, create_table: bool = True
    ) -> Outcome:
        with closing(self.connect()) as connection:
            load = Load(read_export(str(folder)), DIALECTS[self.kind], Target(table, schema), cleaned)
            return load.run(connection, create_table=create_table)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(self.connect()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(sql)
            return [tuple(row) for row in cursor]

    def invoices(self, columns: str = "invoice_id, amount, currency, status", where: str = "") -> list[tuple[Any, ...]]:
        """Rows of the table; amounts as ``Decimal`` from either database."""
        found = self.query(f"SELECT {columns} FROM invoices {where} ORDER BY invoice_id")
        names = columns.split(", ")
        return [
            tuple(
                Decimal(cell) if name.endswith("amount") and cell is not None else cell
                for name, cell in zip(names, row, strict=True)
            )
            for row in found
        ]

    def extra(self, invoice_id: str) -> dict[str, Any]:
        ((extra,),) = self.query(f"SELECT extra FROM invoices WHERE invoice_id = '{invoice_id}'")
        return extra if isinstance(extra, dict) else dict(json.loads(extra))


def sqlite_in(folder: Path) -> Database:
    return Database("sqlite", lambda: sqlite3.connect(folder / "books.db", timeout=30))


def sqlite_connection(folder: Path) -> str:
    """The same database as an Airflow connection."""
    return json.dumps({"conn_type": "sqlite", "host": str(folder / "books.db")})


def full(found: list[dict[str, Any]], folder: Path, **about: Any) -> None:
    write_export(FakeReading(found), str(folder), about={"organization": "acme", **about})


def changes(found: list[dict[str, Any]], folder: Path, run_id: str | None = None) -> bool:
    """Return whether there were any."""
    run = {"dag_id": "d", "task_id": "t", "run_id": run_id, "map_index": -1, "try_number": 1} if run_id else None
    options = ExportOptions(export_mode="changes")
    about = {"organization": "acme", "run": run}
    return write_export(FakeReading(found), str(folder), options=options, about=about) is not None
