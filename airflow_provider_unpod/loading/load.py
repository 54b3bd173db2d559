"""Loads a certified export into a table exactly once, even if the task is retried, cleared or run twice.

A load is one transaction, and loads into the same table run one after another. The transaction writes the rows, marks
vanished invoices, adds the entry to the ledger, and checks that the sums agree with the manifest. So a killed task
leaves nothing behind, and a second load of the same export finds it in the ledger.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.billing.moments import parse_moment
from airflow_provider_unpod.export.changes import NEW_STATUS, OLD_STATUS
from airflow_provider_unpod.export.errors import LoadError, LoadRefused
from airflow_provider_unpod.export.options import CHANGES, FULL
from airflow_provider_unpod.loading.dialects import MARK, quoted
from airflow_provider_unpod.loading.rows import COLUMNS, CONTENT, INTEGER, KEY, MOMENT, STAGED, TEXT, Column, Rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_unpod.export.reader import Export
    from airflow_provider_unpod.loading.dialects import Dialect, Target

LOADED, ALREADY_LOADED, OLDER = "loaded", "already loaded", "older"

#: Columns of the ledger, which has one row for each loaded export. ``position`` numbers the loads.
LEDGER = (
    Column("position", INTEGER, required=True),
    Column("organization", TEXT, required=True),
    Column("export_id", TEXT, required=True),
    Column("selection", TEXT, required=True),
    Column("mode", TEXT, required=True),
    Column("read_at", MOMENT, required=True),
    Column("loaded_at", MOMENT, required=True),
    Column("manifest_sha256", TEXT, required=True),
)
_ALL_INVOICES = json.dumps(None)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a load.

    :param state: ``"loaded"``, ``"already loaded"`` or ``"older"``. The last two change nothing.
    :param rows: number of rows loaded.
    :param vanished: number of rows marked as vanished, because a full export no longer contains their invoice.
    :param altered: number of rows in which characters were replaced that the database cannot store.
    :param current: id of the export that the table is current with.
    """

    state: str
    rows: int
    vanished: int
    altered: int
    current: str


class Load:
    """One load of an export into a table of a database.

    :param cleaned: converts a value to one that the database can store, and appends replaced values to its second
        argument.
    """

    def __init__(
        self, export: Export, dialect: Dialect, target: Target, cleaned: Callable[[Any, list[object]], Any]
    ) -> None:
        self._export = export
        self._dialect = dialect
        self._target = target
        self._cleaned = cleaned
        manifest = export.manifest
        self._organization = str(manifest["organization"])
        self._read_at = parse_moment(manifest["read_at"])
        self._changes = manifest["changes"] if manifest["mode"] == CHANGES else None
        selection = {name: value for name, value in (manifest.get("selection") or {}).items() if value is not None}
        self._selection = json.dumps(selection or None, sort_keys=True)

    def run(self, connection: Any, *, create_table: bool) -> Outcome:
        """Load the export in one transaction of a DB-API connection.

        :param create_table: whether to create the table and its ledger if they do not exist.
        :raises LoadRefused: if the columns of the table do not fit.
        :raises LoadError: if an export in between was not loaded, or the sums differ from the manifest. Nothing was
            changed then.
        """
        cursor = self._dialect.begin(connection)
        try:
            outcome = self._load(cursor, create_table)
            connection.commit()
        except BaseException:
            connection.rollback()
            raise
        return outcome

    def _load(self, cursor: Any, create_table: bool) -> Outcome:
        if create_table:
            self._create(cursor)
        self._require_columns(cursor)
        current = self._verdict(cursor)
        if current is not None:
            return current
        rows = Rows(self._export, (OLD_STATUS, NEW_STATUS) if self._changes else (), self._cleaned)
        self._dialect.stage(cursor, self._target, STAGED, rows)
        self._upsert(cursor)
        vanished = self._mark_vanished(cursor)
        self._record(cursor)
        self._check_sums(cursor)
        return Outcome(LOADED, self._export.count, vanished, rows.altered, self._export.export_id)

    # --- tables

    def _create(self, cursor: Any) -> None:
        if self._dialect.types_in(cursor, self._target.ledger) and not self._dialect.types_in(
            cursor, self._target.table
        ):
            raise LoadRefused(
                f"Drop the ledger {self._target.ledger}, too: table {self._target.table} does not exist, so the "
                "exports that the ledger lists are not loaded."
            )
        for table, columns, key in (
            (self._target.table, COLUMNS, KEY),
            (self._target.ledger, LEDGER, LEDGER[1:3]),
        ):
            primary = ", ".join(quoted(column.name) for column in key)
            self._run(
                cursor,
                f"CREATE TABLE IF NOT EXISTS {table} ({self._dialect.columns(columns)}, PRIMARY KEY ({primary}))",
            )

    def _require_columns(self, cursor: Any) -> None:
        """Refuse tables that differ from those of :meth:`_create`. A column of another type may change values."""
        for table, columns in ((self._target.table, COLUMNS), (self._target.ledger, LEDGER)):
            found = self._dialect.types_in(cursor, table)
            if not found:
                raise LoadRefused(f"Table {table} does not exist. Create it, or set create_table=True.")
            if missing := [column.name for column in columns if column.name not in found]:
                raise LoadRefused(
                    f"Table {table} lacks the columns {', '.join(missing)}. Add them, or load into another."
                )
            for column in columns:
                if found[column.name] != (needed := self._dialect.types[column.kind]):
                    raise LoadRefused(
                        f"Table {table}: column {column.name} must be of type {needed}, got {found[column.name]}. "
                        "Change it, or load into another table."
                    )

    # --- order of exports

    def _verdict(self, cursor: Any) -> Outcome | None:
        """Return the outcome if nothing is to be loaded. ``None`` if this export must be loaded now.

        :raises LoadError: if exports between the current one and this one were not loaded.
        """
        where = f"FROM {self._target.ledger} WHERE {self._equals('organization')}"
        self._run(
            cursor,
            f"SELECT {quoted('export_id')}, {quoted('read_at')} {where} AND {self._equals('selection')}"
            f" ORDER BY {quoted('position')} DESC LIMIT 1",
            self._organization,
            self._selection,
        )
        last = cursor.fetchone()
        current, read_at = (last[0], self._moment(last[1])) if last else (None, None)
        self._run(
            cursor, f"SELECT 1 {where} AND {self._equals('export_id')}", self._organization, self._export.export_id
        )
        if cursor.fetchone():
            return Outcome(ALREADY_LOADED, 0, 0, 0, current or self._export.export_id)
        if self._changes is not None and self._export.follows(current):
            return None
        if current is not None and read_at is not None and self._read_at < read_at:
            return Outcome(OLDER, 0, 0, 0, current)
        if self._changes is None:
            return None
        raise LoadError(
            f"Load a full export first: export {self._export.export_id} has the changes since "
            f"{self._changes['since']}, but the table is current with {current or 'no export'}. Exports in between "
            "were not loaded."
        )

    # --- load

    def _upsert(self, cursor: Any) -> None:
        """Write the staged rows to the table. Rows from a later export are not changed."""
        staged = ", ".join(quoted(column.name) for column in STAGED)
        names = ", ".join(quoted(column.name) for column in COLUMNS)
        self._run(
            cursor,
            f"SELECT 1 FROM {self._target.table} WHERE {self._equals('organization')} LIMIT 1",
            self._organization,
        )
        # A plain INSERT takes half as long. It is used if no existing row can conflict.
        on_conflict = self._on_conflict() if cursor.fetchone() else ""
        self._run(
            cursor,
            f"INSERT INTO {self._target.table} AS existing ({names})"
            f" SELECT {self._text()}, {staged}, {self._text()}, {self._moment_mark()}, {self._moment_mark()}"
            f" FROM {self._target.staging} WHERE true{on_conflict}",
            self._organization,
            self._export.export_id,
            self._read_at,
            self._vanished_at(cursor),
        )

    def _vanished_at(self, cursor: Any) -> Any:
        """Return the time when the first full export after this one was read. ``None`` if there is none.

        That export has already written its invoices, and this load does not change their rows. All other invoices have
        vanished since.
        """
        self._run(
            cursor,
            f"SELECT min({quoted('read_at')}) FROM {self._target.ledger}"
            f" WHERE {self._equals('organization')} AND {self._equals('selection')} AND {self._equals('mode')}"
            f" AND {quoted('read_at')} > {self._moment_mark()}",
            self._organization,
            _ALL_INVOICES,
            FULL,
            self._read_at,
        )
        return cursor.fetchone()[0]

    def _on_conflict(self) -> str:
        key = ", ".join(quoted(column.name) for column in KEY)
        update = [*CONTENT, *COLUMNS[-3:]]
        assignments = ", ".join(f"{quoted(column.name)} = excluded.{quoted(column.name)}" for column in update)
        return (
            f" ON CONFLICT ({key}) DO UPDATE SET {assignments}"
            f" WHERE existing.{quoted('read_at')} <= excluded.{quoted('read_at')}"
        )

    def _mark_vanished(self, cursor: Any) -> int:
        """Mark the invoices that a full export without a selection no longer contains."""
        if self._changes is not None or self._selection != _ALL_INVOICES:
            return 0
        self._run(
            cursor,
            f"UPDATE {self._target.table} SET {quoted('vanished_at')} = {self._moment_mark()}"
            f" WHERE {self._equals('organization')} AND {quoted('vanished_at')} IS NULL"
            f" AND {quoted('read_at')} < {self._moment_mark()}"
            f" AND NOT EXISTS (SELECT 1 FROM {self._target.staging} s"
            f" WHERE s.{quoted('invoice_id')} = {self._target.table}.{quoted('invoice_id')})",
            self._read_at,
            self._organization,
            self._read_at,
        )
        return int(cursor.rowcount)

    def _record(self, cursor: Any) -> None:
        names = ", ".join(quoted(column.name) for column in LEDGER)
        marks = ", ".join([MARK] * (len(LEDGER) - 1))
        self._run(
            cursor,
            f"INSERT INTO {self._target.ledger} ({names})"
            f" VALUES ((SELECT coalesce(max({quoted('position')}), 0) + 1 FROM {self._target.ledger}), {marks})",
            self._organization,
            self._export.export_id,
            self._selection,
            self._export.manifest["mode"],
            self._read_at,
            datetime.now(timezone.utc),
            self._export.manifest_sha256,
        )

    def _check_sums(self, cursor: Any) -> None:
        """Compare the sums in the table with the manifest.

        If the table already has a row from a later export, the staged row is added instead.
        """
        name = quoted
        amount = f"CASE WHEN t.{name('export_id')} = {MARK} THEN t.{name('amount')} ELSE s.{name('amount')} END"
        self._run(
            cursor,
            f"SELECT s.{name('currency')}, s.{name('status')}, count(*), {self._dialect.total.format(amount)}"
            f" FROM {self._target.staging} s JOIN {self._target.table} t"
            f" ON t.{name('organization')} = {MARK} AND t.{name('invoice_id')} = s.{name('invoice_id')}"
            f" GROUP BY 1, 2",
            self._export.export_id,
            self._organization,
        )
        found = {(currency, status): (int(count), Decimal(total)) for currency, status, count, total in cursor}
        certified = {
            (self._cleaned(currency, []), self._cleaned(status, [])): (cell["count"], Decimal(cell["amount"]))
            for currency, cells in self._export.totals.items()
            for status, cell in cells.items()
        }
        if found != certified:
            raise LoadError(
                f"The sums in {self._target.table} differ from export {self._export.export_id}, so nothing was loaded: "
                f"{found} in the table, {certified} in the manifest."
            )

    # --- SQL

    def _equals(self, column: str) -> str:
        return f"{quoted(column)} = {MARK}"

    def _text(self) -> str:
        return f"CAST({MARK} AS TEXT)"

    def _moment_mark(self) -> str:
        return f"CAST({MARK} AS {self._dialect.types[MOMENT]})"

    def _moment(self, value: Any) -> datetime:
        return parse_moment(value) if isinstance(value, str) else value

    def _run(self, cursor: Any, sql: str, *values: Any) -> None:
        self._dialect.execute(cursor, sql, values)
