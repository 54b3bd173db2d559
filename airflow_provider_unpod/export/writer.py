"""Writes a stream of invoices as a certified export."""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod import __version__
from airflow_provider_unpod.billing.reading.bad_rows import valid
from airflow_provider_unpod.export import formats, partitions
from airflow_provider_unpod.export.changes import Comparison, compare_with_last
from airflow_provider_unpod.export.manifest import FORMAT, MANIFEST_NAME, VERSION, ListedFile, Manifest, report_name
from airflow_provider_unpod.export.options import CHANGES, ExportOptions
from airflow_provider_unpod.export.publication import Publication, state_name
from airflow_provider_unpod.export.spool import Spool, encode_record
from airflow_provider_unpod.export.storage import Folder
from airflow_provider_unpod.export.totals import Totals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from airflow_provider_unpod.billing.invoice import Invoice
    from airflow_provider_unpod.billing.reading.selection import Selection
    from airflow_provider_unpod.export.columns import Column, Record
    from airflow_provider_unpod.export.spool import Partition

    #: Renders the report of an export from the content of its manifest (without ``report``) and its records.
    Renderer = Callable[[Mapping[str, Any], Iterable[Record]], bytes]

#: Limits for the lists of files and totals in the summary: number of entries, and bytes of JSON.
_MOST_LISTED = 100
_MOST_BYTES = 64 * 1024


@dataclass(frozen=True)
class Written:
    """An export that has just been certified: the address of its folder, and the storage connection as given."""

    address: str
    manifest: Manifest
    conn_id: str | None = None

    def summary(self) -> dict[str, Any]:
        """Return the summary for XCom and asset events: location and totals, but no invoices.

        Its size is limited, because Airflow stores it in its database. ``files`` is ``None`` beyond 100 files, and
        ``totals`` beyond 100 pairs of currency and status. Both are ``None`` beyond 64 KiB of JSON. The manifest has
        the complete lists.
        """
        files, totals = [f"{self.address}/{file.path}" for file in self.manifest.files], self.manifest.totals
        report = self.manifest.report
        return {
            "manifest": f"{self.address}/{MANIFEST_NAME}",
            "export_id": self.manifest.export_id,
            "manifest_sha256": self.manifest.sha256,
            "file_count": len(files),
            "files": files if may_be_listed(files, len(files)) else None,
            "count": self.manifest.count,
            "totals": totals if may_be_listed(totals, sum(map(len, totals.values()))) else None,
            "consistency": self.manifest.content["evidence"]["consistency"],
            "report": f"{self.address}/{report.path}" if report else None,
            "storage_conn_id": self.conn_id,
        }


def may_be_listed(listed: object, entries: int) -> bool:
    """Return whether a result is small enough for XComs and asset events."""
    return entries <= _MOST_LISTED and len(json.dumps(listed)) <= _MOST_BYTES


def write_export(
    invoices: Any,
    address: str | Path,
    *,
    conn_id: str | None = None,
    options: ExportOptions | None = None,
    about: Mapping[str, Any] | None = None,
    selection: Selection | None = None,
    render_report: Renderer | None = None,
) -> Written | None:
    """Read all ``invoices`` and write them as the certified export of a folder.

    :param invoices: an iterable over the whole list, from ``UnpodHook``. It has an ``evidence`` when it is exhausted.
    :param address: the folder. The files of an earlier export in it are replaced. Other files are not touched.
    :param conn_id: id of the storage connection, if it is not in the address.
    :param options: format, compression, partitions and mode.
    :param about: further fields of the manifest: ``organization``, ``source``, ``selection``, ``run``.
    :param selection: the invoices to export. ``None`` means all. An export of changes also contains invoices that were
        selected before and no longer are.
    :param render_report: renders the report, which becomes a file of the export. ``None`` means no report. If it
        fails, the export fails.
    :returns: the new certified export. ``None`` if ``options.export_mode`` is ``"changes"`` and nothing has changed:
        no file is written, and the previous export stays the certified one.
    :raises ExportError: if a store or a library fails.
    :raises ExportRefused: if the path belongs to another organization or task. After this and any other exception, the
        previous export is still the certified one.
    :raises UnpodConfigError: if the address is not a folder, a library for its store is not installed, or the storage
        connection does not exist. Raised before the list is read.
    :raises UnpodBadRows: if invoices cannot be written. The error names all of them.
    """
    options = options or ExportOptions()
    formats.require_libraries(options)
    draft = _Draft(options, about or {}, selection, render_report)
    with Folder(address, conn_id) as folder, Publication(folder, draft.about) as publication, ExitStack() as closing:
        draft.read(invoices, folder, closing)
        if draft.is_without_changes:
            publication.withdraw()
            return None
        return Written(folder.address, publication.publish(draft.write_files), conn_id)


class _Draft:
    """An export between the list and the folder: its records are spooled, its files not yet written."""

    folder: Folder
    spool: Spool
    comparison: Comparison | None
    columns: tuple[Column, ...]
    content: dict[str, Any]

    def __init__(
        self,
        options: ExportOptions,
        about: Mapping[str, Any],
        selection: Selection | None,
        render_report: Renderer | None,
    ) -> None:
        self.options = options
        self.about = about
        self.selection = selection
        self.render_report = render_report
        self.started_at = _now()
        self.partition_of = partitions.partitioner(options)

    def read(self, invoices: Any, folder: Folder, closing: ExitStack) -> None:
        """Spool the invoices that belong to the export. ``closing`` closes the files needed until it is published."""
        self.folder = folder
        self.spool = closing.enter_context(Spool())
        usable = valid(invoices, _checker(self.options, self.selection, self.partition_of))
        self.comparison = None
        if self.options.export_mode == CHANGES:
            comparing = compare_with_last(folder, self.about, self.options, self.selection)
            self.comparison = closing.enter_context(comparing)
            wanted = self.comparison.changes(usable)
        else:
            wanted = filter(self.selection.matches, usable) if self.selection else usable
        totals, fields = _read(wanted, self.spool, self.partition_of)
        read_at = _now()
        self.columns = formats.columns_of(_all_blocks(self.spool), self.options)
        self.content = {
            **self.about,
            "started_at": self.started_at,
            "read_at": read_at,
            **_as_dict(self.options),
            "fields": fields,
            "columns": [column.as_dict() for column in self.columns],
            "evidence": invoices.evidence.as_dict(),
            "count": totals.count,
            "totals": totals.as_dict(),
        }

    @property
    def is_without_changes(self) -> bool:
        """Whether this is an export of changes and there are none."""
        return self.comparison is not None and not self.content["count"]

    def write_files(self, export_id: str) -> Manifest:
        """Write all files but the manifest, and return the manifest."""
        files = [file.as_dict() for file in _write_data(self.folder, export_id, self.spool, self.options, self.columns)]
        changes = _write_state(self.folder, export_id, self.comparison) if self.comparison else None
        described = {**_head(export_id), **self.content, "files": files, "changes": changes}
        report = _write_report(self.folder, described, self.spool, self.render_report) if self.render_report else None
        return Manifest.from_content({**described, "report": report})


def _checker(
    options: ExportOptions, selection: Selection | None, partition_of: Callable[[Invoice], Partition]
) -> Callable[[Invoice], None]:
    """Return a function that raises ``UnpodBadAnswer`` for an invoice that this export cannot write."""

    def check(invoice: Invoice) -> None:
        selected = selection is None or selection.matches(invoice)
        if selected or options.export_mode == CHANGES:
            _ = invoice.tax_amount  # the only field of a record that was not validated when the row was read
        if selected:
            partition_of(invoice)

    return check


def _read(
    invoices: Iterable[Invoice], spool: Spool, partition_of: Callable[[Invoice], Partition]
) -> tuple[Totals, list[str]]:
    """Spool all invoices. Return the totals and the names of all fields."""
    totals = Totals()
    fields: dict[str, Any] = {}
    for invoice in invoices:
        record = invoice.as_record()
        fields.update(record)
        spool.add(partition_of(invoice), encode_record(record))
        totals.add(invoice.currency, invoice.status, invoice.amount)
    return totals, list(fields)


def _all_blocks(spool: Spool) -> Iterator[bytes]:
    for partition in spool.partitions():
        yield from spool.blocks(partition)


def _records(spool: Spool) -> Iterator[Record]:
    for block in _all_blocks(spool):
        yield from map(json.loads, block.splitlines())


def _head(export_id: str) -> dict[str, Any]:
    provider = {"name": "airflow-provider-unpod", "version": __version__}
    return {"format": FORMAT, "version": VERSION, "export_id": export_id, "provider": provider}


def _as_dict(options: ExportOptions) -> dict[str, Any]:
    return {
        "mode": options.export_mode,
        "file_format": options.file_format,
        "compression": options.compression,
        "partition_by": list(options.partition_by),
        "business_timezone": options.business_timezone,
    }


def _write_data(
    folder: Folder, export_id: str, spool: Spool, options: ExportOptions, columns: tuple[Column, ...]
) -> Iterator[ListedFile]:
    for name, partition in partitions.file_names(spool.partitions(), export_id, options):
        keys = dict(zip(options.partition_by, partition, strict=True))
        content = formats.encode(spool.blocks(partition), options, columns, keys)
        yield _write_file(folder, name, content, spool.rows(partition), keys)


def _write_state(folder: Folder, export_id: str, comparison: Comparison) -> dict[str, Any]:
    state = _write_file(folder, state_name(export_id), comparison.to_blocks(), comparison.rows, {})
    return {**comparison.as_dict(), "state": state.as_dict()}


def _write_report(folder: Folder, described: Mapping[str, Any], spool: Spool, render: Renderer) -> dict[str, Any]:
    content = render(described, _records(spool))
    return _write_file(folder, report_name(described["export_id"]), iter([content]), 0, {}).as_dict()


def _write_file(folder: Folder, name: str, content: Iterator[bytes], rows: int, keys: dict[str, str]) -> ListedFile:
    digest = hashlib.sha256()
    size = 0

    def measured() -> Iterator[bytes]:
        nonlocal size
        for block in content:
            digest.update(block)
            size += len(block)
            yield block

    folder.write(name, measured())
    return ListedFile(name, rows, size, digest.hexdigest(), keys)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")
