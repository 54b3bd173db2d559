"""Reading an export, and believing it only as far as it proves itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import IO, TYPE_CHECKING, Any

from airflow_provider_unpod.billing.errors import UnpodBadAnswer, short_repr
from airflow_provider_unpod.billing.invoice import Invoice
from airflow_provider_unpod.export import formats
from airflow_provider_unpod.export.address import without_connection
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


class Export(Iterable[Record]):
    """A certified export. It was checked as a whole; every iteration yields its records, and checks them again.

    ``manifest`` is the manifest's content as a dict. Made by :func:`read_export`.
    """

    def __init__(self, folder: Folder, manifest: Manifest, *, check: bool = True) -> None:
        self.manifest: dict[str, Any] = manifest.content
        self._folder = folder
        self._certificate = manifest
        self._options = ExportOptions(manifest.content["file_format"], manifest.content["compression"])
        formats.require_libraries(self._options)
        if check:
            self._check()

    @property
    def export_id(self) -> str:
        """Identifies the export among all exports of its path."""
        return self._certificate.export_id

    @property
    def manifest_sha256(self) -> str:
        """The fingerprint: SHA-256 (hex) of the manifest file's bytes."""
        return self._certificate.sha256

    @property
    def files(self) -> list[str]:
        """The checked data files, as other programs name them: see :func:`export_files`."""
        return _addresses(self._folder, self._certificate)

    @property
    def count(self) -> int:
        """Records in all files."""
        return self._certificate.count

    @property
    def totals(self) -> dict[str, dict[str, dict[str, Any]]]:
        """``{currency: {status: {"count": n, "amount": "…"}}}``, amounts as decimal strings."""
        return self._certificate.totals

    def follows(self, export_id: str | None) -> bool:
        """Whether a copy of the invoices is up to date after it loads this export, if it loaded ``export_id`` last.

        A full export follows everything. An export of changes follows the one that it was compared with
        (``changes.since``) and those that it replaces (``changes.replaces``), all by the same run.

        :param export_id: the export loaded last, ``None`` where nothing was.
        """
        return self._certificate.follows(export_id)

    def __iter__(self) -> Iterator[Record]:
        for file in self._certificate.files:
            yield from self._records_of(file)

    def state(self) -> Iterator[list[Any]]:
        """The lines of the state of an export of changes, ``[key, versions before]`` or ``[key, before, after]``."""
        if self._certificate.state is None:
            return iter(())
        return self._contents(self._certificate.state, _decode_state)

    def open_report(self) -> IO[bytes] | None:
        """The report as a local file without a name, after its hash was verified; ``None`` if the export has none.

        :raises ExportError: if it is missing or was changed.
        """
        return self._fetch(self._certificate.report) if self._certificate.report else None

    def _check(self) -> None:
        if self._certificate.state is not None:
            self._fetch(self._certificate.state).close()
        totals = Totals()
        try:
            for record in self:
                invoice = Invoice(record)
                if invoice.as_record() != record:
                    raise TypeError(f"invoice {short_repr(invoice.invoice_id)} has an amount that is not a string")
                totals.add(invoice.currency, invoice.status, invoice.amount)
        except (AttributeError, TypeError, UnpodBadAnswer) as error:
            raise ExportError(f"{self._folder.address} contains a record that is not an invoice: {error!r}.") from error
        if totals.as_dict() != self.totals:
            raise ExportError(f"The totals of {self._folder.address} are not those of its records.")

    def _records_of(self, file: ListedFile) -> Iterator[Record]:
        return self._contents(
            file,
            lambda content: formats.decode(content, self._options, self._certificate.columns, file.partition),
        )

    def _contents(self, file: ListedFile, decode: Callable[[IO[bytes]], Iterator[Any]]) -> Iterator[Any]:
        """The rows of a file; none is yielded before the file's hash is verified."""
        address = self._folder.address_of(file.path)
        rows = 0
        with self._fetch(file) as content:
            try:
                # One more than listed is enough to refuse the file: a forged one may have any number.
                for row in islice(decode(content), file.rows + 1):
                    rows += 1
                    if rows <= file.rows:
                        yield row
            except ExportError:
                raise
            except Exception as error:  # of a forged file, decoders raise nearly anything
                raise ExportError(
                    f"{address} cannot be decoded, so its export cannot be believed: {error!r:.200}."
                ) from error
        if rows != file.rows:
            raise ExportError(f"{address} does not have the {file.rows} rows that its manifest lists.")

    def _fetch(self, file: ListedFile) -> IO[bytes]:
        content = self._folder.fetch(file.path, file.bytes + 1)  # a byte too many shows that the file is another one
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
        current = current_manifest(self._folder)
        if current is None or current.export_id != self.export_id:
            return _superseded(self._folder, self.export_id, current)
        remedy = "its export cannot be believed"
        if file == self._certificate.state:
            remedy = "changes can be compared with nothing. Run one full export of the path (export_mode='full')"
        return ExportError(f"{self._folder.address_of(file.path)} {what}; {remedy}.")


def read_export(
    path: str | Path, conn_id: str | None = None, *, export_id: str | None = None, manifest_sha256: str | None = None
) -> Export:
    """Check a certified export completely, then return its records as an iterable.

    Every file is hashed, parsed and added up before this returns, and hashed again before its records are yielded.
    Takes local temporary space (``$TMPDIR``) of the size of the largest file.

    :param path: the folder of the export, or its manifest.
    :param conn_id: the storage connection, if it is not in the path.
    :param export_id: refuse every other export of the path, such as a later one; from the operator's summary or an
        asset event's extra.
    :param manifest_sha256: refuse a manifest with any other SHA-256 (hex), such as one that was changed and sealed
        again; from the same places. What names an export to a task should carry both.
    :returns: an iterable of records as ``Invoice.as_record()`` returns them, whatever the file format, with
        ``manifest``, ``export_id``, ``manifest_sha256``, ``count`` and ``totals``.
    :raises ExportError: if there is no certified export, if anything in it is missing, changed or does not add up, or
        if another export took its place. Iterating raises it too.
    :raises UnpodConfigError: if the path is invalid, a library for its store is not installed, or the storage
        connection does not exist.
    """
    folder, manifest = _believed_manifest(path, conn_id, export_id, manifest_sha256)
    export = Export(folder, manifest)
    if report := export.open_report():
        report.close()
    return export


def stream_export(
    path: str | Path, conn_id: str | None = None, *, export_id: str | None = None, manifest_sha256: str | None = None
) -> Export:
    """As :func:`read_export`, but without adding the records up first, for a reader that does so itself.

    The hash of each file is verified before its first record is yielded. Compare the sums of all records with
    ``totals`` before you believe any of them.
    """
    folder, manifest = _believed_manifest(path, conn_id, export_id, manifest_sha256)
    return Export(folder, manifest, check=False)


def export_files(
    path: str | Path, conn_id: str | None = None, *, export_id: str | None = None, manifest_sha256: str | None = None
) -> list[str]:
    """List the data files of a certified export, for programs that read them on their own, such as DuckDB or Spark.

    They belong to one export. A glob (``*.parquet``) matches those of two while one replaces the other, and would then
    count invoices twice. Only the manifest is checked; ``read_export(path).files`` checks the content of the files.
    A file that is missing when it is read shows that the export was replaced: list anew.

    :param path: the folder of the export, or its manifest.
    :param conn_id: the storage connection, if it is not in the path.
    :param export_id: refuse every other export of the path.
    :param manifest_sha256: refuse a manifest with any other SHA-256 (hex).
    :returns: paths of local files, and addresses without a storage connection (``s3://bucket/…``) of others. A
        partitioned export without an invoice has no files.
    :raises ExportError: if there is no certified export, or another one than was asked for.
    :raises UnpodConfigError: like :func:`read_export`.
    """
    return _addresses(*_believed_manifest(path, conn_id, export_id, manifest_sha256))


def _addresses(folder: Folder, manifest: Manifest) -> list[str]:
    place = without_connection(folder.address).removeprefix("file://")
    return [f"{place}/{file.path}" for file in manifest.files]


def _believed_manifest(
    path: str | Path, conn_id: str | None, export_id: str | None, manifest_sha256: str | None
) -> tuple[Folder, Manifest]:
    folder = Folder(str(path).strip().rstrip("/").removesuffix("/" + MANIFEST_NAME), conn_id)
    manifest = current_manifest(folder)
    if manifest is None:
        raise ExportError(f"There is no certified export in {folder.address}: it has no {MANIFEST_NAME}.")
    if export_id is not None and manifest.export_id != export_id:
        raise _superseded(folder, export_id, manifest)
    if manifest_sha256 is not None and manifest.sha256 != manifest_sha256:
        raise ExportError(
            f"The manifest {folder.address_of(MANIFEST_NAME)} is not the one that was asked for: its SHA-256 is "
            f"{manifest.sha256}, expected {manifest_sha256}. It was replaced by export {manifest.export_id}, or forged."
        )
    return folder, manifest


def _decode_state(content: IO[bytes]) -> Iterator[Any]:
    for line in formats.decode_lines(content, formats.STATE_COMPRESSION):
        key, *lists = line
        versions = [version for each in lists for version in each if version is not None]
        if not (isinstance(key, (int, str)) and 1 <= len(lists) <= 2 and all(lists)):
            raise ValueError("a line is not a key and its versions")
        if not all(isinstance(status, str) and isinstance(digest, str) for status, digest in versions):
            raise ValueError("a version is not a status and a digest")
        yield line


def _superseded(folder: Folder, export_id: str, by: Manifest | None) -> ExportError:
    successor = f"export {by.export_id} is the current one" if by else "its manifest was deleted"
    return ExportError(f"Export {export_id} in {folder.address} is superseded: {successor}.")
