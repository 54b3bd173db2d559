"""Reads certified exports, and verifies their content against the manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
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
#: Most bytes of a manifest or a report to read for the page. Reports have at most half of that.
MOST_SHOWN = 16 * 2**20


class Export(Iterable[Record]):
    """A certified export, created by :func:`read_export`. Each iteration verifies its files and yields the records.

    ``manifest`` is the content of the manifest as a dictionary.
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
        """The id of the export. It is unique."""
        return self._certificate.export_id

    @property
    def manifest_sha256(self) -> str:
        """The SHA-256 of the manifest file, in hex."""
        return self._certificate.sha256

    @property
    def files(self) -> list[str]:
        """The data files, in the form of :func:`export_files`."""
        return _addresses(self._folder, self._certificate)

    @property
    def count(self) -> int:
        """The number of records in all files."""
        return self._certificate.count

    @property
    def totals(self) -> dict[str, dict[str, dict[str, Any]]]:
        """The control totals: ``{currency: {status: {"count": n, "amount": "…"}}}``, with decimal strings."""
        return self._certificate.totals

    def follows(self, export_id: str | None) -> bool:
        """Return whether this export may be loaded on top of ``export_id``, so that the copy is up to date afterwards.

        A full export follows every export. An export of changes follows the one that it was compared with
        (``changes.since``) and those of the same run that it replaces (``changes.replaces``).

        :param export_id: id of the export that was loaded last. ``None`` if nothing was loaded.
        """
        return self._certificate.follows(export_id)

    def __iter__(self) -> Iterator[Record]:
        for file in self._certificate.files:
            yield from self._records_of(file)

    def state(self) -> Iterator[list[Any]]:
        """Yield the lines of the state file, ``[key, versions before]`` or ``[key, before, after]``."""
        if self._certificate.state is None:
            return iter(())
        return self._contents(self._certificate.state, _decode_state)

    def open_report(self) -> IO[bytes] | None:
        """Verify the report's hash and return it as a temporary local file. ``None`` if the export has no report.

        :raises ExportError: if the report is missing or was modified.
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
            raise ExportError(f"The totals in the manifest of {self._folder.address} differ from its records.")

    def _records_of(self, file: ListedFile) -> Iterator[Record]:
        return self._contents(
            file,
            lambda content: formats.decode(content, self._options, self._certificate.columns, file.partition),
        )

    def _contents(self, file: ListedFile, decode: Callable[[IO[bytes]], Iterator[Any]]) -> Iterator[Any]:
        """Verify the hash of a file, then yield its rows."""
        address = self._folder.address_of(file.path)
        rows = 0
        with self._fetch(file) as content:
            try:
                # One row more than listed is enough to refuse the file. A forged one may have any number.
                for row in islice(decode(content), file.rows + 1):
                    rows += 1
                    if rows <= file.rows:
                        yield row
            except ExportError:
                raise
            except Exception as error:  # decoders raise nearly any exception for a forged file
                raise ExportError(f"{address} cannot be decoded, so its export is invalid: {error!r:.200}.") from error
        if rows != file.rows:
            raise ExportError(f"{address} must have {file.rows} rows, as its manifest says, but has more or fewer.")

    def _fetch(self, file: ListedFile) -> IO[bytes]:
        content = self._folder.fetch(file.path, file.bytes + 1)  # an extra byte shows that the file was modified
        if content is None:
            raise self._difference(file, "is missing")
        digest = hashlib.sha256()
        while block := content.read(_BLOCK):
            digest.update(block)
        if content.tell() != file.bytes or digest.hexdigest() != file.sha256:
            content.close()
            raise self._difference(file, "was modified")
        content.seek(0)
        return content

    def _difference(self, file: ListedFile, what: str) -> ExportError:
        current = current_manifest(self._folder)
        if current is None or current.export_id != self.export_id:
            return _superseded(self._folder, self.export_id, current)
        consequence = "so its export is invalid"
        if file == self._certificate.state:
            consequence = "so changes cannot be determined. Run one full export to the path (export_mode='full')"
        return ExportError(f"{self._folder.address_of(file.path)} {what}, {consequence}.")


def read_export(
    path: str | Path, conn_id: str | None = None, *, export_id: str | None = None, manifest_sha256: str | None = None
) -> Export:
    """Verify a certified export completely, then return its records as an iterable.

    All files are hashed, parsed and added up before this function returns. Each file is hashed again before its records
    are yielded. This needs temporary disk space (``$TMPDIR``) for the largest file.

    :param path: folder of the export, or its manifest.
    :param conn_id: id of the storage connection, if it is not in the path.
    :param export_id: refuse any export with another id, such as a later one. The id is in the operator's summary and in
        the ``extra`` of asset events.
    :param manifest_sha256: refuse a manifest with another SHA-256 (hex), such as a forged one. It is in the same
        places. Pass both, if you can.
    :returns: an iterable of records as in ``Invoice.as_record()``, for all file formats, with ``manifest``,
        ``export_id``, ``manifest_sha256``, ``count`` and ``totals``.
    :raises ExportError: if there is no certified export, if a file is missing or was modified, if the totals do not add
        up, or if the export has been replaced. Iterating may raise it too.
    :raises UnpodConfigError: if the path is invalid, a library for its store is not installed, or the storage
        connection does not exist.
    """
    folder, manifest = _verified_manifest(path, conn_id, export_id, manifest_sha256)
    export = Export(folder, manifest)
    if report := export.open_report():
        report.close()
    return export


def stream_export(
    path: str | Path, conn_id: str | None = None, *, export_id: str | None = None, manifest_sha256: str | None = None
) -> Export:
    """Return the records like :func:`read_export`, but without checking the totals, for callers that do so themselves.

    The hash of each file is verified before its first record is yielded. Compare the sums of all records with
    ``totals`` before you use any of them.
    """
    folder, manifest = _verified_manifest(path, conn_id, export_id, manifest_sha256)
    return Export(folder, manifest, check=False)


def export_files(
    path: str | Path, conn_id: str | None = None, *, export_id: str | None = None, manifest_sha256: str | None = None
) -> list[str]:
    """List the data files of a certified export, for programs such as DuckDB or Spark.

    All files belong to one export. A glob (``*.parquet``) may match two exports while one replaces the other, and count
    invoices twice. Only the manifest is verified; ``read_export(path).files`` also verifies the files. If a listed file
    no longer exists, the export has been replaced: list the files again.

    :param path: folder of the export, or its manifest.
    :param conn_id: id of the storage connection, if it is not in the path.
    :param export_id: refuse any export with another id.
    :param manifest_sha256: refuse a manifest with another SHA-256 (hex).
    :returns: paths of local files, or addresses without the storage connection (``s3://bucket/…``). A partitioned
        export without invoices has no files.
    :raises ExportError: if there is no certified export, or it is not the requested one.
    :raises UnpodConfigError: as in :func:`read_export`.
    """
    return _addresses(*_verified_manifest(path, conn_id, export_id, manifest_sha256))


def read_report(
    path: str | Path,
    conn_id: str | None = None,
    *,
    export_id: str,
    manifest_sha256: str,
    run: Mapping[str, Any],
    most: int = MOST_SHOWN,
) -> bytes | None:
    """Return the verified report of an export whose address may be forged.

    :param run: ``dag_id``, ``task_id``, ``run_id`` and ``map_index`` of the task instance that must have written it.
    :param most: most bytes of the manifest, and of the report.
    :returns: the bytes of the HTML file, with verified SHA-256. ``None`` if the export has no report.
    :raises ExportError: if there is no such export, another task instance wrote it, or a file is missing, changed or
        too large.
    :raises UnpodConfigError: as in :func:`read_export`.
    """
    with _folder_of(path, conn_id) as folder:
        text = folder.fetch(MANIFEST_NAME, most + 1)
        found = None if text is None else Manifest.from_bytes(_limited(text, most), folder.address_of(MANIFEST_NAME))
        manifest = _require_identity(folder, found, export_id, manifest_sha256)
        author = manifest.run or {}
        if {name: author.get(name) for name in run} != dict(run):
            raise ExportError(f"The export in {folder.address} was not written by this task instance.")
        if manifest.report is not None and manifest.report.bytes > most:
            raise ExportError(f"The report has {manifest.report.bytes:,} bytes; at most {most:,} are shown.")
        report = Export(folder, manifest, check=False).open_report()
        return None if report is None else _limited(report, most)


def _limited(content: IO[bytes], most: int) -> bytes:
    with content:
        text = content.read(most + 1)
    if len(text) > most:
        raise ExportError(f"The file is too large: at most {most:,} bytes are read.")
    return text


def _addresses(folder: Folder, manifest: Manifest) -> list[str]:
    place = without_connection(folder.address).removeprefix("file://")
    return [f"{place}/{file.path}" for file in manifest.files]


def _verified_manifest(
    path: str | Path, conn_id: str | None, export_id: str | None, manifest_sha256: str | None
) -> tuple[Folder, Manifest]:
    folder = _folder_of(path, conn_id)
    return folder, _require_identity(folder, current_manifest(folder), export_id, manifest_sha256)


def _folder_of(path: str | Path, conn_id: str | None) -> Folder:
    return Folder(str(path).strip().rstrip("/").removesuffix("/" + MANIFEST_NAME), conn_id)


def _require_identity(
    folder: Folder, manifest: Manifest | None, export_id: str | None, manifest_sha256: str | None
) -> Manifest:
    if manifest is None:
        raise ExportError(f"{folder.address} does not contain a certified export: {MANIFEST_NAME} is missing.")
    if export_id is not None and manifest.export_id != export_id:
        raise _superseded(folder, export_id, manifest)
    if manifest_sha256 is not None and manifest.sha256 != manifest_sha256:
        raise ExportError(
            f"The manifest {folder.address_of(MANIFEST_NAME)} must have the SHA-256 {manifest_sha256}, got "
            f"{manifest.sha256}. It was replaced by export {manifest.export_id}, or it is forged."
        )
    return manifest


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
    return ExportError(f"Export {export_id} in {folder.address} has been replaced: {successor}.")
