"""Reading an export, and believing it only as far as it proves itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Any

from airflow_provider_unpod.export import formats
from airflow_provider_unpod.export.columns import Record
from airflow_provider_unpod.export.errors import ExportError
from airflow_provider_unpod.export.manifest import MANIFEST_NAME, ListedFile, Manifest
from airflow_provider_unpod.export.options import ExportOptions
from airflow_provider_unpod.export.publication import current_manifest
from airflow_provider_unpod.export.storage import Folder
from airflow_provider_unpod.export.totals import Totals

if TYPE_CHECKING:
    from pathlib import Path

_BLOCK = 2**20


class Export(Iterator[Record]):
    """A certified export that was checked as a whole; iterating gives its records, checked once more.

    ``manifest`` is the manifest's content as a dict. Made by :func:`read_export`.
    """

    def __init__(self, folder: Folder, manifest: Manifest, options: ExportOptions) -> None:
        self.manifest: dict[str, Any] = manifest.content
        self._folder = folder
        self._certificate = manifest
        self._options = options
        self._check()
        self._records = self._read()

    @property
    def export_id(self) -> str:
        """The export's name among all of its path."""
        return self._certificate.export_id

    @property
    def count(self) -> int:
        """Records in all."""
        return self._certificate.count

    @property
    def totals(self) -> dict[str, dict[str, dict[str, Any]]]:
        """``{currency: {status: {"count": n, "amount": "…"}}}``, amounts as decimal strings."""
        return self._certificate.totals

    def __next__(self) -> Record:
        return next(self._records)

    def open_state(self) -> IO[bytes]:
        """The checked state of an export of changes, a nameless local file; the caller closes it."""
        if self._certificate.state is None:
            raise ExportError(f"{self._folder.address} is no export of changes: it has no state.")
        return self._fetch(self._certificate.state)

    def _read(self) -> Iterator[Record]:
        for file in self._certificate.files:
            yield from self._records_of(file)

    def _check(self) -> None:
        if self._certificate.state is not None:
            self._fetch(self._certificate.state).close()
        totals = Totals()
        try:
            for record in self._read():
                totals.add(record["currency"], record["status"], Decimal(record["amount"]))
        except (KeyError, TypeError, ArithmeticError) as error:
            raise ExportError(f"{self._folder.address} holds something that is no invoice: {error!r}.") from error
        if totals.as_dict() != self.totals:
            raise ExportError(f"The totals of {self._folder.address} are not those of its records.")

    def _records_of(self, file: ListedFile) -> Iterator[Record]:
        """The records of a file; none of them before its hash is right."""
        rows = 0
        with self._fetch(file) as content:
            try:
                for record in formats.decode(content, self._options, self._certificate.columns, file.partition):
                    rows += 1
                    yield record
            except (ValueError, EOFError, OSError, KeyError) as error:
                raise ExportError(f"{self._folder.address_of(file.path)} is no {self._options.file_format}.") from error
        if rows != file.rows:
            raise ExportError(f"{self._folder.address_of(file.path)} has {rows} rows; its manifest says {file.rows}.")

    def _fetch(self, file: ListedFile) -> IO[bytes]:
        content = self._folder.fetch(file.path)
        if content is None:
            raise self._difference(file, "is missing")
        digest = hashlib.sha256()
        while block := content.read(_BLOCK):
            digest.update(block)
        if content.tell() != file.bytes or digest.hexdigest() != file.sha256:
            content.close()
            raise self._difference(file, "is not the file that was written")
        content.seek(0)
        return content

    def _difference(self, file: ListedFile, what: str) -> ExportError:
        standing = current_manifest(self._folder)
        if standing is None or standing.export_id != self.export_id:
            return _superseded(self._folder, self.export_id, standing)
        return ExportError(f"{self._folder.address_of(file.path)} {what}; its export cannot be believed.")


def read_export(path: str | Path, conn_id: str | None = None, *, export_id: str | None = None) -> Export:
    """Check a certified export completely, then give its records one by one.

    Every file is hashed, parsed and added up before this returns, and hashed again before its records are given
    out. Takes local temporary space (``$TMPDIR``) of the size of the largest file.

    :param path: the folder of the export, or its manifest.
    :param conn_id: the storage connection, if it is not in the path.
    :param export_id: refuse any other export than this one; from the operator's summary or an asset event's extra.
    :returns: an iterator of records as ``Invoice.as_record()`` gives them, whatever the file format; it has
        ``manifest``, ``export_id``, ``count`` and ``totals``.
    :raises ExportError: if there is no certified export, if anything in it is missing, changed or does not add up, or
        if another export took its place. Iterating raises it too.
    :raises UnpodConfigError: if the path names no place, a library for its store is not installed, or the storage
        connection does not exist.
    """
    folder = Folder(str(path).strip().rstrip("/").removesuffix("/" + MANIFEST_NAME), conn_id)
    manifest = current_manifest(folder)
    if manifest is None:
        raise ExportError(f"There is no certified export in {folder.address}: it has no {MANIFEST_NAME}.")
    if export_id is not None and manifest.export_id != export_id:
        raise _superseded(folder, export_id, manifest)
    return open_export(folder, manifest)


def open_export(folder: Folder, manifest: Manifest) -> Export:
    """The export of a manifest, checked.

    :raises ExportError: like :func:`read_export`.
    """
    content = manifest.content
    return Export(folder, manifest, ExportOptions(content["file_format"], content["compression"]))


def _superseded(folder: Folder, export_id: str, by: Manifest | None) -> ExportError:
    successor = f"export {by.export_id} stands there now" if by else "there is none any more"
    return ExportError(f"Export {export_id} in {folder.address} is superseded: {successor}.")
