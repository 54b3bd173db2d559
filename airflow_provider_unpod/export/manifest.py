"""The manifest: commit record and certificate of an export.

An export is the set of files that its manifest lists, and it exists from the moment in which the manifest does.
The text is canonical and ends with a seal, the SHA-256 of the rest, so that damage shows. Anybody who can write the
folder can also seal a forged manifest. The fingerprint, the SHA-256 of the whole text, is kept elsewhere (XCom, asset
events) and shows that, too. The fields are described in ``docs/exports.md``.
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
    """The name of an export's report: no glob for data matches it, and readers of Hive layouts ignore it."""
    return f"_report-{export_id}.html"


@dataclass(frozen=True)
class ListedFile:
    """A file of an export: ``path`` relative to the folder, ``rows``, ``bytes``, ``sha256`` (hex) of its content."""

    path: str
    rows: int
    bytes: int
    sha256: str
    partition: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ListedFile:
        """:raises ValueError: if it does not describe a file inside the folder."""
        path, rows, size, digest = (content[name] for name in ("path", "rows", "bytes", "sha256"))
        if not (type(rows) is int and type(size) is int and rows >= 0 and size >= 0 and isinstance(digest, str)):
            raise ValueError(f"the sizes of {path!r} are invalid")
        if not isinstance(path, str) or path.startswith("/") or {"", ".", ".."} & set(path.split("/")):
            raise ValueError(f"{path!r} is not a file of this folder")
        return cls(path, rows, size, digest, dict(content["partition"]))


@dataclass(frozen=True)
class Manifest:
    """The content of a manifest; ``content`` has every field, the attributes are those that code asks for."""

    content: dict[str, Any]
    files: tuple[ListedFile, ...]
    columns: tuple[Column, ...]
    state: ListedFile | None
    report: ListedFile | None = None

    @property
    def export_id(self) -> str:
        """Identifies this export among all exports of its path."""
        return str(self.content["export_id"])

    @property
    def count(self) -> int:
        """Rows in all files together."""
        return int(self.content["count"])

    @property
    def totals(self) -> dict[str, dict[str, dict[str, Any]]]:
        """``{currency: {status: {"count": n, "amount": "…"}}}``."""
        totals: dict[str, dict[str, dict[str, Any]]] = self.content["totals"]
        return totals

    @property
    def changes(self) -> dict[str, Any] | None:
        """How an export of changes was compared; ``None`` of a full export."""
        changes: dict[str, Any] | None = self.content["changes"]
        return changes

    def follows(self, export_id: str | None) -> bool:
        """Whether this export may be loaded on top of another one: see ``Export.follows``."""
        return self.changes is None or export_id in (self.changes["since"], *self.changes["replaces"])

    @property
    def besides(self) -> tuple[ListedFile, ...]:
        """The files that have no records: the state of an export of changes, and the report."""
        return tuple(file for file in (self.state, self.report) if file)

    @property
    def paths(self) -> set[str]:
        """All files of the export except the manifest."""
        return {file.path for file in (*self.files, *self.besides)}

    @cached_property
    def sha256(self) -> str:
        """The fingerprint: SHA-256 (hex) of the manifest file's bytes."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @classmethod
    def from_content(cls, content: dict[str, Any]) -> Manifest:
        """:raises ValueError: if fields are missing or contradict each other."""
        if content.get("format") != FORMAT:
            raise ValueError("it is not a manifest of an Unpod export")
        if content.get("version") != VERSION:
            raise ValueError(f"it has version {content.get('version')!r}; this provider reads version {VERSION}")
        try:
            files = tuple(map(ListedFile.from_dict, content["files"]))
            changes, report = content["changes"], content.get("report")
            columns = tuple(Column(**column) for column in content["columns"])
            state = ListedFile.from_dict(changes["state"]) if changes else None
            manifest = cls(content, files, columns, state, ListedFile.from_dict(report) if report else None)
            _ = manifest.follows(None)
            counted = sum(cell["count"] for cells in manifest.totals.values() for cell in cells.values())
            count = manifest.count
            _ = manifest.export_id, ExportOptions(content["file_format"], content["compression"]), content["fields"]
        except (KeyError, TypeError, AttributeError, OverflowError, UnpodConfigError) as error:
            raise ValueError(f"a field is missing or invalid: {error!r}") from error
        if len(manifest.paths) != len(files) + len(manifest.besides):
            raise ValueError("it lists a file twice")
        if manifest.report and manifest.report.path != report_name(manifest.export_id):
            raise ValueError("its report is not a file of this export")
        if not sum(file.rows for file in files) == count == counted:
            raise ValueError("its row counts and totals do not add up")
        return manifest

    def to_bytes(self) -> bytes:
        """The bytes of the manifest file, seal included."""
        content = {name: value for name, value in self.content.items() if name != _SEAL}
        return _canonical({**content, _SEAL: hashlib.sha256(_canonical(content)).hexdigest()})

    @classmethod
    def from_bytes(cls, text: bytes, address: str) -> Manifest:
        """:raises ExportError: naming ``address``, if a single byte differs from what was written."""
        try:
            content = json.loads(text)
            if not isinstance(content, dict):
                raise ValueError("it is not a JSON object")
            manifest = cls.from_content(content)
            if manifest.to_bytes() != text:
                raise ValueError("it was changed after it was written")
        except (ValueError, RecursionError) as error:
            raise ExportError(f"The manifest {address} cannot be believed: {error}.") from error
        return manifest


def _canonical(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")
