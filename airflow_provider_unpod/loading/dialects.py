"""The differences between PostgreSQL and SQLite. Other databases are refused, because they are not tested.

Identifiers are always quoted, with double quotes that are doubled inside. Values are always parameters.
"""

from __future__ import annotations

import csv
import io
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_unpod.billing.errors import UnpodConfigError, short_repr
from airflow_provider_unpod.export.totals import EXACT
from airflow_provider_unpod.loading.rows import AMOUNT, INTEGER, JSON, MOMENT, TEXT, Column, Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: Longest name in bytes. PostgreSQL silently truncates longer ones, so two names could become the same.
_LONGEST_NAME = 63
_NOT_IN_NAMES = re.compile("[\x00\ud800-\udfff]").search
_LEDGER_SUFFIX, _STAGING_SUFFIX = "_exports", "_staging"
#: Size in bytes of the blocks sent to PostgreSQL.
_BLOCK = 2**18
#: Placeholder for a parameter in SQL. No identifier can contain this character.
MARK = "\x00"


def quoted(name: str) -> str:
    """Quote an identifier for SQL, for both databases."""
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True)
class Table:
    """The name of a table. ``str()`` gives SQL. ``schema=None`` uses the search path of the connection."""

    name: str
    schema: str | None = None

    def __str__(self) -> str:
        return quoted(self.name) if self.schema is None else f"{quoted(self.schema)}.{quoted(self.name)}"


class Target:
    """The names of a table, of its ledger of loaded exports, and of the staging table of a load.

    :param table: name of the table, one identifier.
    :param schema: schema of the table. ``None`` uses the search path of the connection.
    :raises UnpodConfigError: if a name is invalid.
    """

    def __init__(self, table: str, schema: str | None) -> None:
        if "." in table and schema is None:
            raise UnpodConfigError(
                f"`table` must be the name of a table, got {short_repr(table)}. Put the schema into `schema`."
            )
        _require_name(table, "table", _LONGEST_NAME - len(_LEDGER_SUFFIX))
        if schema is not None:
            _require_name(schema, "schema", _LONGEST_NAME)
        self.table = Table(table, schema)
        self.ledger = Table(table + _LEDGER_SUFFIX, schema)
        self.staging = Table(table + _STAGING_SUFFIX)


def _require_name(name: str, argument: str, most: int) -> None:
    if not name or _NOT_IN_NAMES(name) or len(name.encode()) > most:
        raise UnpodConfigError(f"`{argument}` must be a name of at most {most} bytes, got {short_repr(name)}.")


class Dialect(ABC):
    """The SQL of one database. ``name`` is the connection type."""

    name: str
    types: ClassVar[dict[str, str]]
    #: SQL expression for the exact sum of a column of amounts.
    total: str

    def columns(self, columns: Iterable[Column]) -> str:
        """Return the column definitions for CREATE TABLE."""
        return ", ".join(
            f"{quoted(one.name)} {self.types[one.kind]}{' NOT NULL' if one.required else ''}" for one in columns
        )

    @abstractmethod
    def begin(self, connection: Any) -> Any:
        """Begin a transaction and return its cursor. Loads into the same database wait for one another."""

    @abstractmethod
    def stage(self, cursor: Any, target: Target, columns: tuple[Column, ...], rows: Iterable[Row]) -> None:
        """Create the temporary table and insert the rows."""

    @abstractmethod
    def types_in(self, cursor: Any, table: Table) -> dict[str, str]:
        """Return the column types of a table by name. Empty if the table does not exist."""

    @abstractmethod
    def execute(self, cursor: Any, sql: str, values: Iterable[Any] = ()) -> None:
        """Run a statement that has one :data:`MARK` for each value."""


class Postgres(Dialect):
    """PostgreSQL, through psycopg 2 or 3."""

    name = "postgres"
    types: ClassVar = {TEXT: "TEXT", INTEGER: "BIGINT", AMOUNT: "NUMERIC", MOMENT: "TIMESTAMPTZ", JSON: "JSONB"}
    total = "sum({})"

    def begin(self, connection: Any) -> Any:
        connection.commit()  # a hook may have begun a transaction, in which the settings could not be changed
        connection.autocommit = False
        cursor = connection.cursor()
        # After waiting for another load, this one must see its rows, whatever the default isolation level is.
        cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        cursor.execute("SET LOCAL datestyle = 'ISO'")  # the only style that psycopg 3 can read
        # One lock for the database, because the table may not exist yet or have several names. The transaction ends it.
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('airflow-provider-unpod'))")
        return cursor

    def stage(self, cursor: Any, target: Target, columns: tuple[Column, ...], rows: Iterable[Row]) -> None:
        cursor.execute(f"CREATE TEMPORARY TABLE {target.staging} ({self.columns(columns)}) ON COMMIT DROP")
        copy = f"COPY {target.staging} FROM STDIN WITH (FORMAT csv, ENCODING 'UTF8')"
        if hasattr(cursor, "copy_expert"):  # psycopg 2
            source = _Reader(_csv_blocks(rows))
            try:
                cursor.copy_expert(copy, source, size=_BLOCK)
            except Exception:
                if source.error is not None:
                    raise source.error from None
                raise
        else:
            with cursor.copy(copy) as sink:
                for block in _csv_blocks(rows):
                    sink.write(block)

    def types_in(self, cursor: Any, table: Table) -> dict[str, str]:
        cursor.execute(
            "SELECT attname, replace(format_type(atttypid, atttypmod), 'timestamp with time zone', 'timestamptz')"
            " FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
            (str(table),),
        )
        return {name: kind.upper() for name, kind in cursor.fetchall()}

    def execute(self, cursor: Any, sql: str, values: Iterable[Any] = ()) -> None:
        # The drivers treat every percent sign, also in a name, as the beginning of a placeholder.
        if parameters := tuple(values):
            cursor.execute(sql.replace("%", "%%").replace(MARK, "%s"), parameters)
        else:
            cursor.execute(sql)


class Sqlite(Dialect):
    """SQLite. Amounts are TEXT, because its NUMERIC rounds to a binary double. Times are ISO 8601 strings in UTC."""

    name = "sqlite"
    types: ClassVar = {TEXT: "TEXT", INTEGER: "INTEGER", AMOUNT: "TEXT", MOMENT: "TEXT", JSON: "TEXT"}
    total = "unpod_total({})"

    def begin(self, connection: Any) -> Any:
        connection.isolation_level = None  # otherwise the driver begins and commits transactions itself
        connection.create_aggregate("unpod_total", 1, _Total)
        cursor = connection.cursor()
        cursor.execute("BEGIN IMMEDIATE")
        return cursor

    def stage(self, cursor: Any, target: Target, columns: tuple[Column, ...], rows: Iterable[Row]) -> None:
        # SQLite looks rows up one by one and needs the key. PostgreSQL hashes them.
        key = quoted(columns[0].name)
        cursor.execute(f"CREATE TEMPORARY TABLE {target.staging} ({self.columns(columns)}, PRIMARY KEY ({key}))")
        marks = ", ".join("?" * len(columns))
        cursor.executemany(f"INSERT INTO {target.staging} VALUES ({marks})", rows)  # noqa: S608  # quoted

    def types_in(self, cursor: Any, table: Table) -> dict[str, str]:
        cursor.execute("SELECT lower(name), upper(type) FROM pragma_table_info(?, ?)", (table.name, table.schema))
        return dict(cursor.fetchall())

    def execute(self, cursor: Any, sql: str, values: Iterable[Any] = ()) -> None:
        cursor.execute(sql.replace(MARK, "?"), tuple(map(_sqlite_value, values)))


def _sqlite_value(cell: Any) -> Any:
    return cell.astimezone(timezone.utc).isoformat() if isinstance(cell, datetime) else cell


DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (Postgres(), Sqlite())}


class _Total:
    """Computes the exact sum of decimal strings. SQLite's own sum would be a binary double."""

    def __init__(self) -> None:
        self._sum = Decimal(0)

    def step(self, amount: str) -> None:
        self._sum = EXACT.add(self._sum, Decimal(amount))

    def finalize(self) -> str:
        return format(self._sum, "f")


def _csv_blocks(rows: Iterable[Row]) -> Iterator[bytes]:
    """Encode rows as CSV. An empty cell is NULL, because no cell of a row is an empty string."""
    text = io.StringIO()
    writer = csv.writer(text)
    for row in rows:
        writer.writerow(row)
        if text.tell() > _BLOCK:
            yield text.getvalue().encode()
            text.seek(0)
            text.truncate()
    yield text.getvalue().encode()


class _Reader:
    """A file-like object from which psycopg 2 reads blocks.

    :ivar error: the exception that ended the blocks. The driver would replace it by one of its own.
    """

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = b""
        self.error: BaseException | None = None

    def read(self, size: int = -1) -> bytes:
        try:
            while not self._rest:
                self._rest = next(self._blocks)
        except StopIteration:
            return b""
        except BaseException as error:
            self.error = error
            raise
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken
