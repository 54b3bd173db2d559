"""The manifest: commit record and certificate of an export.

An export is the set of files that its manifest lists. It exists as soon as the manifest exists. The text is canonical
and ends with a seal, the SHA-256 of the rest, which reveals damage. Anybody who can write to the folder can also seal a
forged manifest. The SHA-256 of the whole file reveals that too, because it is stored elsewhere (XCom, asset events).
``docs/exports.md`` describes the fields.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.billing.errors import UnpodConfigError
from airflow_provider_unpod.export.columns import Column
from airflow_provider_unpod.export.errors import ExportError
from airflow_provider_unpod.export.options import ExportOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

MANIFEST_NAME = "_manifest.json"
FORMAT = "unpod-export"
VERSION = 1

_SEAL = "seal"


def report_name(export_id: str) -> str:
    """Return the name of an export's report. Globs for data do not match it, and readers of Hive layouts ignore it."""
    return f"_report-{export_id}.html"


@dataclass(frozen=True)
class ListedFile:
    """A file of an export.

    :param path: path relative to the folder.
    :param rows: number of records.
    :param bytes: size.
    :param sha256: SHA-256 of its content, in hex.
    :param partition: values of its partition keys.
    """

    path: str
    rows: int
    bytes: int
    sha256: str
    partition: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the entry for the manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ListedFile:
        """Read an entry of a manifest. Raise ``ValueError`` if it is not a file inside the folder."""
        path, rows, size, digest = (content[name] for name in ("path", "rows", "bytes", "sha256"))
        if not (type(rows) is int and type(size) is int and rows >= 0 and size >= 0 and isinstance(digest, str)):
            raise ValueError(f"the sizes of {path!r} are invalid")
        if not isinstance(path, str) or path.startswith("/") or {"", ".", ".."} & set(path.split("/")):
            raise ValueError(f"{path!r} is not a file of this folder")
        return cls(path, rows, size, digest, dict(content["partition"]))


@dataclass(frozen=True)
class Manifest:
    """The content of a manifest. ``content`` has all fields, and the attributes are for use in code."""

    content: dict[str, Any]
    files: tuple[ListedFile, ...]
    columns: tuple[Column, ...]
    state: ListedFile | None
    report: ListedFile | None = None

    @property
    def export_id(self) -> str:
        """The id of the export. It is unique."""
        return str(self.content["export_id"])

    @property
    def count(self) -> int:
        """The number of records in all files."""
        return int(self.content["count"])

    @property
    def totals(self) -> dict[str, dict[str, dict[str, Any]]]:
        """``{currency: {status: {"count": n, "amount": "…"}}}``."""
        totals: dict[str, dict[str, dict[str, Any]]] = self.content["totals"]
        return totals

    @property
    def changes(self) -> dict[str, Any] | None:
        """The section about the comparison of an export of changes. ``None`` for a full export."""
        changes: dict[str, Any] | None = self.content["changes"]
        return changes

    @property
    def run(self) -> dict[str, Any] | None:
        """The task instance that wrote the export. ``None`` if it was not written by a task."""
        run: dict[str, Any] | None = self.content.get("run")
        return run

    def follows(self, export_id: str | None) -> bool:
        """Return whether this export may be loaded on top of another one, see ``Export.follows``."""
        return self.changes is None or export_id in (self.changes["since"], *self.changes["replaces"])

    @property
    def without_records(self) -> tuple[ListedFile, ...]:
        """The files without records: the state of an export of changes, and the report."""
        return tuple(file for file in (self.state, self.report) if file)

    @property
    def paths(self) -> set[str]:
        """The paths of all files except the manifest."""
        return {file.path for file in (*self.files, *self.without_records)}

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the manifest file, in hex."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @classmethod
    def from_content(cls, content: dict[str, Any]) -> Manifest:
        """Read a manifest. Raise ``ValueError`` if fields are missing, invalid or contradict each other."""
        if content.get("format") != FORMAT:
            raise ValueError("it is not a manifest of an Unpod export")
        if content.get("version") != VERSION:
            raise ValueError(f"its version must be {VERSION}, got {content.get('version')!r}")
        try:
            files = tuple(map(ListedFile.from_dict, content["files"]))
            changes, report = content["changes"], content.get("report")
            columns = tuple(Column(**column) for column in content["columns"])
            state = ListedFile.from_dict(changes["state"]) if changes else None
            manifest = cls(content, files, columns, state, ListedFile.from_dict(report) if report else None)
            _ = manifest.follows(None), {**(manifest.run or {})}
            counted = sum(cell["count"] for cells in manifest.totals.values() for cell in cells.values())
            count = manifest.count
            _ = manifest.export_id, ExportOptions(content["file_format"], content["compression"]), content["fields"]
        except (KeyError, TypeError, AttributeError, OverflowError, UnpodConfigError) as error:
            raise ValueError(f"a field is missing or invalid: {error!r}") from error
        if len(manifest.paths) != len(files) + len(manifest.without_records):
            raise ValueError("it lists a file twice")
        if manifest.report and manifest.report.path != report_name(manifest.export_id):
            raise ValueError("its report is not a file of this export")
        if not sum(file.rows for file in files) == count == counted:
            raise ValueError("its row counts and totals do not add up")
        return manifest

    def to_bytes(self) -> bytes:
        """Return the bytes of the manifest file, including the seal."""
        content = {name: value for name, value in self.content.items() if name != _SEAL}
        return _canonical({**content, _SEAL: hashlib.sha256(_canonical(content)).hexdigest()})

    @classmethod
    def from_bytes(cls, text: bytes, address: str) -> Manifest:
        """Read a manifest file. Raise :class:`ExportError` if a single byte has been modified."""
        try:
            content = json.loads(text)
            if not isinstance(content, dict):
                raise ValueError("it is not a JSON object")
            manifest = cls.from_content(content)
            if manifest.to_bytes() != text:
                raise ValueError("it was modified after it was written")
        except (ValueError, RecursionError) as error:
            raise ExportError(f"The manifest {address} is invalid: {error}.") from error
        return manifest


def _canonical(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")
