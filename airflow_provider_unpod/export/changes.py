"""Finds invoices that are new or different since the previous certified export of the same path.

Readers of change exports keep a copy of the list: they load each export on top of the one before. A state file, which
the manifest lists, records the versions of every invoice that such a copy may have, before and after this export is
loaded. A version is the status and a digest of the record. The next export contains every invoice that differs from
*any* of these versions, so all copies are equal afterwards.

Usually there is one version. A run that is retried or cleared *replaces* its own last export. Some readers have loaded
that export and others have not, so both versions count, even if the invoice has been reverted. After a full export to
the path, that export itself is the state.

An invoice is never skipped for its age and never forgotten. An invoice that vanishes from the API is not a change. If
it returns, it is compared with its last version.
"""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.billing.invoice import Invoice
from airflow_provider_unpod.billing.moments import parse_moment
from airflow_provider_unpod.export.columns import DECIMAL, TIMESTAMP, fields_of_type
from airflow_provider_unpod.export.errors import ExportError
from airflow_provider_unpod.export.formats import STATE_COMPRESSION, compressed
from airflow_provider_unpod.export.publication import current_manifest
from airflow_provider_unpod.export.reader import Export
from airflow_provider_unpod.export.spool import encode_record, temporary_database, temporary_space
from airflow_provider_unpod.export.totals import EXACT

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Mapping

    from airflow_provider_unpod.billing.reading.selection import Selection
    from airflow_provider_unpod.export.columns import Record
    from airflow_provider_unpod.export.manifest import Manifest
    from airflow_provider_unpod.export.options import ExportOptions
    from airflow_provider_unpod.export.storage import Folder

OLD_STATUS, NEW_STATUS = "old_status", "new_status"

_LINES_PER_BLOCK = 4096
#: JSON list of versions. A version is ``[status, digest]``, or ``null`` for an invoice that a reader does not have.
_UNKNOWN = "[null]"
#: Digest of an invoice that has left the selection. It is reported once.
_LEFT = ""
_DECIMALS, _TIMESTAMPS = fields_of_type(DECIMAL), fields_of_type(TIMESTAMP)
_encode_sorted = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode


class Comparison:
    """Compares invoices with the versions that readers of earlier exports may have. A context manager.

    The versions are in an unnamed database in temporary space (``$TMPDIR``), about 150 bytes per invoice. Memory use
    does not grow with the number of invoices.

    :param since: id of the export to compare with. ``None`` if there is none.
    :param replaces: ids of earlier exports of the same run, which this one replaces, latest first.
    :param ignore_fields: names of fields whose differences do not count.
    :param selection: the invoices to export. ``None`` means all.
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
        self._database = temporary_database(
            "CREATE TABLE known (invoice TEXT PRIMARY KEY, before TEXT, after TEXT) WITHOUT ROWID"
        )

    def __enter__(self) -> Comparison:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._database.close()

    def load(self, known: Iterable[tuple[str, str]]) -> None:
        """Load the versions that readers may have: pairs of a key and a list of versions, both as JSON.

        :raises ExportError: if the temporary space is full.
        """
        with temporary_space():
            self._database.executemany("INSERT OR REPLACE INTO known VALUES (?, ?, NULL)", known)

    def load_export(self, export: Export) -> None:
        """Load the versions from the records of a full export."""
        invoices = map(Invoice, export)
        self.load(
            (encode_record(invoice.key), _version(invoice, self._digest(invoice, invoice.as_record())))
            for invoice in invoices
        )

    def changes(self, invoices: Iterable[Invoice]) -> Iterator[Invoice]:
        """Yield the invoices that differ. Their records also have the old and the new status.

        An invoice that is no longer selected is yielded once, so that readers do not keep its old status forever.

        :raises ExportError: if the API itself has fields with these names, or the temporary space is full.
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
                    f"Use export_mode='full': export_mode='changes' cannot export invoice {invoice.invoice_id!r}, "
                    f"because the API already has a field `{OLD_STATUS}` or `{NEW_STATUS}`."
                )
            self._execute("INSERT OR REPLACE INTO known VALUES (?, ?, ?)", key, before, now)
            first = versions[0]
            if first is None:
                self._new += 1
            else:
                self._changed += 1
            yield Invoice({**invoice.raw, OLD_STATUS: first and first[0], NEW_STATUS: invoice.status_key})

    def as_dict(self) -> dict[str, Any]:
        """Return the section of the manifest about the comparison."""
        return {
            "since": self._since,
            "replaces": list(self._replaces),
            "ignore_fields": sorted(self._ignored),
            "new": self._new,
            "changed": self._changed,
        }

    @property
    def rows(self) -> int:
        """The number of invoices in the state."""
        count: int = self._execute("SELECT count(*) FROM known").fetchone()[0]
        return count

    def to_blocks(self) -> Iterator[bytes]:
        """Yield the state for the next export: one line per invoice, ``[key, before]`` or ``[key, before, after]``."""
        return compressed(self._blocks(), STATE_COMPRESSION)

    def _blocks(self) -> Iterator[bytes]:
        found = self._execute("SELECT invoice, before, after FROM known ORDER BY invoice")
        while rows := found.fetchmany(_LINES_PER_BLOCK):
            lines = (f"[{','.join(filter(None, row))}]\n" for row in rows)
            yield "".join(lines).encode("ascii")

    def _digest(self, invoice: Invoice, record: Record) -> str:
        """Return a digest that is the same for equal values: ``"299.0"`` and ``"299.00"``, a missing field and
        ``null`` (at any depth), the same time in two time zones.
        """
        wanted = ((name, value) for name, value in record.items() if value is not None and name not in self._ignored)
        compared = {name: _without_nulls(value) for name, value in wanted}
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
    """Create a comparison with the current export of a folder, if there is one.

    :param about: fields of the new manifest. If ``run`` is the same as in the current one, the task runs again.
    :raises ExportError: if the current export is invalid.
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
    """Yield the versions that readers may have: after the last export, and if it is replaced, also before it."""
    for key, before, *after in state:
        versions = after[0] if after else before
        if again and after:
            versions = [*before, *(version for version in versions if version not in before)]
        yield encode_record(key), encode_record(versions)


def _version(invoice: Invoice, digest: str) -> str:
    return encode_record([[invoice.status_key, digest]])


def _without_nulls(value: Any) -> Any:
    """Remove the fields of nested objects that are ``null``. Elements of lists keep their places."""
    if isinstance(value, dict):
        return {name: _without_nulls(field) for name, field in value.items() if field is not None}
    return [_without_nulls(element) for element in value] if isinstance(value, list) else value


def _moment(value: Any) -> Any:
    try:
        return parse_moment(value).isoformat() if type(value) is str else value
    except ValueError:
        return value  # not a date: compared unchanged


def _is_same_run(manifest: Manifest, about: Mapping[str, Any]) -> bool:
    def identity(run: Any) -> dict[str, Any] | None:
        return {name: value for name, value in run.items() if name != "try_number"} if run else None

    run = identity(about.get("run"))
    return run is not None and run == identity(manifest.run)
