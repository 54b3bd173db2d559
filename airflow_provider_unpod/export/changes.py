"""Finds invoices that are new or different since the previous certified export of the same path.

Readers of exports of changes keep a copy of the list up to date: they load each export on top of the one before. The
state beside an export, a file that its manifest lists, has for every invoice the versions that such a copy may hold,
before and after this export is loaded. A version is the status and a digest of the record. The next export has every
invoice that differs from *any* of these versions, so all copies are equal afterwards.

Usually there is one version. A run that is retried or cleared *replaces* its own last export: some readers have loaded
that one, others have not, so both versions count, even if the invoice has been set back to what it was. After a full
export of the path, that export itself is the state.

An invoice is never skipped for its age and never forgotten. If one vanishes from the API, that is not a change; when it
comes back, it is compared with its last state.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.billing.invoice import Invoice
from airflow_provider_unpod.billing.moments import parse_moment
from airflow_provider_unpod.export.columns import DECIMAL, TIMESTAMP, fields_of_type
from airflow_provider_unpod.export.errors import ExportError
from airflow_provider_unpod.export.formats import STATE_COMPRESSION, compressed
from airflow_provider_unpod.export.publication import current_manifest
from airflow_provider_unpod.export.reader import Export
from airflow_provider_unpod.export.spool import encode_record, temporary_space
from airflow_provider_unpod.export.totals import EXACT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from airflow_provider_unpod.billing.reading.selection import Selection
    from airflow_provider_unpod.export.columns import Record
    from airflow_provider_unpod.export.manifest import Manifest
    from airflow_provider_unpod.export.options import ExportOptions
    from airflow_provider_unpod.export.storage import Folder

OLD_STATUS, NEW_STATUS = "old_status", "new_status"

_LINES_PER_BLOCK = 4096
_CACHE_KIB = 16 * 1024
#: Versions as JSON: ``[status, digest]``, or ``null`` of an invoice that a reader does not have.
_UNKNOWN = "[null]"
#: The digest of an invoice that has left the selection, so that it is reported once.
_LEFT = ""
_DECIMALS, _TIMESTAMPS = fields_of_type(DECIMAL), fields_of_type(TIMESTAMP)
_encode_sorted = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode


class Comparison:
    """Invoices compared with the versions that readers of earlier exports may hold. A context manager.

    The versions are in a nameless database in temporary space (``$TMPDIR``), some 150 bytes an invoice, so memory is
    bounded whatever the number of invoices.

    :param since: id of the export that is compared with, ``None`` if there is none.
    :param replaces: ids of the exports by the same run that this one replaces, the latest first.
    :param ignore_fields: names of fields in which a difference does not count.
    :param selection: the invoices that are wanted, ``None``: all.
    """

    def __init__(
        self,
        since: str | None = None,
        replaces: Iterable[str] = (),
        *,
        ignore_fields: Iterable[str] = (),
        selection: Selection | None = None,
    ) -> None:
        self._since = since
        self._replaces = tuple(replaces)
        self._ignored = frozenset(ignore_fields)
        self._selection = selection
        self._new = 0
        self._changed = 0
        with temporary_space():
            self._database = _temporary_database()

    def __enter__(self) -> Comparison:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._database.close()

    def load(self, known: Iterable[tuple[str, str]]) -> None:
        """Take in what readers may hold: keys and lists of versions, as JSON.

        :raises ExportError: if the temporary space is full.
        """
        with temporary_space():
            self._database.executemany("INSERT OR REPLACE INTO known VALUES (?, ?, NULL)", known)

    def load_export(self, export: Export) -> None:
        """Take in the records of a full export."""
        invoices = map(Invoice, export)
        self.load(
            (encode_record(invoice.key), _version(invoice, self._digest(invoice, invoice.as_record())))
            for invoice in invoices
        )

    def changes(self, invoices: Iterable[Invoice]) -> Iterator[Invoice]:
        """Yield those that differ, as invoices whose record has the old and the new status besides.

        An invoice that is no longer selected is yielded once, so that readers do not keep its old status for ever.

        :raises ExportError: if the API has fields of these names itself, or the temporary space is full.
        """
        for invoice in invoices:
            record = invoice.as_record()
            digest = self._digest(invoice, record)
            selected = self._selection is None or self._selection.matches(invoice)
            key, now = encode_record(invoice.key), _version(invoice, digest if selected else _LEFT)
            found = self._execute("SELECT before FROM known WHERE invoice = ?", key).fetchone()
            before = found[0] if found else _UNKNOWN
            if before == now:
                continue
            versions = json.loads(before)
            if not selected and all(version is None or version[1] in (_LEFT, digest) for version in versions):
                continue
            if OLD_STATUS in record or NEW_STATUS in record:
                raise ExportError(
                    f"export_mode='changes' cannot export invoice {invoice.invoice_id!r}: the API has a field "
                    f"`{OLD_STATUS}` or `{NEW_STATUS}` of its own. Use export_mode='full'."
                )
            self._execute("INSERT OR REPLACE INTO known VALUES (?, ?, ?)", key, before, now)
            first = versions[0]
            if first is None:
                self._new += 1
            else:
                self._changed += 1
            yield Invoice({**invoice.raw, OLD_STATUS: first and first[0], NEW_STATUS: invoice.status_key})

    def as_dict(self) -> dict[str, Any]:
        """The manifest's section about the comparison."""
        return {
            "since": self._since,
            "replaces": list(self._replaces),
            "ignore_fields": sorted(self._ignored),
            "new": self._new,
            "changed": self._changed,
        }

    @property
    def rows(self) -> int:
        """Number of invoices that are remembered."""
        count: int = self._execute("SELECT count(*) FROM known").fetchone()[0]
        return count

    def to_blocks(self) -> Iterator[bytes]:
        """The state for the next export: a line for each invoice, ``[key, before]`` or ``[key, before, after]``."""
        return compressed(self._blocks(), STATE_COMPRESSION)

    def _blocks(self) -> Iterator[bytes]:
        found = self._execute("SELECT invoice, before, after FROM known ORDER BY invoice")
        while rows := found.fetchmany(_LINES_PER_BLOCK):
            lines = (f"[{','.join(filter(None, row))}]\n" for row in rows)
            yield "".join(lines).encode("ascii")

    def _digest(self, invoice: Invoice, record: Record) -> str:
        """A digest that is the same for records that are equal by value: ``"299.0"`` and ``"299.00"``, no field and
        ``null``, one moment in two time zones.
        """
        compared = {name: value for name, value in record.items() if value is not None and name not in self._ignored}
        for name in _DECIMALS & compared.keys():
            amount = Decimal(compared[name])
            compared[name] = str(amount.normalize(EXACT)) if amount else "0"
        for name in _TIMESTAMPS & compared.keys():
            compared[name] = _moment(compared[name])
        if "id" in compared:
            compared["id"] = invoice.key
        compared["currency"], compared["status"] = invoice.currency_code, invoice.status_key
        return hashlib.blake2b(_encode_sorted(compared).encode(), digest_size=12).hexdigest()

    def _execute(self, statement: str, *values: str) -> sqlite3.Cursor:
        with temporary_space():
            return self._database.execute(statement, values)


def compare_with_last(
    folder: Folder, about: Mapping[str, Any], options: ExportOptions, selection: Selection | None = None
) -> Comparison:
    """A comparison with the current export of a folder, if there is one.

    :param about: what the new manifest will say of itself; the same ``run`` means that a task runs again.
    :raises ExportError: if what is in the folder cannot be believed.
    """
    manifest = current_manifest(folder)
    rules: dict[str, Any] = {"ignore_fields": options.ignore_fields, "selection": selection}
    if manifest is None:
        return Comparison(**rules)
    export = Export(folder, manifest)
    again = manifest.changes is not None and _is_same_run(manifest, about)
    if manifest.changes is not None and again:
        comparison = Comparison(manifest.changes["since"], [manifest.export_id, *manifest.changes["replaces"]], **rules)
    else:
        comparison = Comparison(manifest.export_id, **rules)
    try:
        if manifest.state is None:
            comparison.load_export(export)
        else:
            comparison.load(_known(export.state(), again))
    except BaseException:
        comparison.__exit__()
        raise
    return comparison


def _known(state: Iterable[Any], again: bool) -> Iterator[tuple[str, str]]:
    """The versions that readers may hold: of the last export, and if it is replaced, of those before it as well."""
    for key, before, *after in state:
        versions = after[0] if after else before
        if again and after:
            versions = [*before, *(version for version in versions if version not in before)]
        yield encode_record(key), encode_record(versions)


def _temporary_database() -> sqlite3.Connection:
    handle, path = tempfile.mkstemp(prefix="unpod-export-")
    try:
        os.close(handle)
        # Not this thread alone: a folder writes what it is given in a thread of its own, while this one waits.
        database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        # Nothing of it is kept, so it needs neither a journal nor a commit.
        database.execute("PRAGMA journal_mode = OFF")
        database.execute("PRAGMA synchronous = OFF")
        database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        database.execute("BEGIN EXCLUSIVE")
        database.execute("CREATE TABLE known (invoice TEXT PRIMARY KEY, before TEXT, after TEXT) WITHOUT ROWID")
    finally:
        Path(path).unlink()
    return database


def _version(invoice: Invoice, digest: str) -> str:
    return encode_record([[invoice.status_key, digest]])


def _moment(value: Any) -> Any:
    try:
        return parse_moment(value).isoformat() if type(value) is str else value
    except ValueError:
        return value  # not a date: compared as it is


def _is_same_run(manifest: Manifest, about: Mapping[str, Any]) -> bool:
    def identity(run: Any) -> dict[str, Any] | None:
        return {name: value for name, value in run.items() if name != "try_number"} if run else None

    run = identity(about.get("run"))
    return run is not None and run == identity(manifest.content.get("run"))
