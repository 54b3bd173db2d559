"""Replaces the previous export by a new one, completely or not at all, even if other tasks use the same folder.

The name of every file contains the id of its export, so exports never overwrite each other's files. Only the manifest
has a fixed name, and writing it is the commit. A file that the current manifest does not list is garbage, *unless* a
task is about to list it. Claims tell the two apart. A claim is a small file ``_exporting-<export id>`` that exists from
before the export's first file until after its last step:

1. List the folder and keep its claims (``_before``). Write the claim of this export. Give up if another claim or the
   manifest belongs to another organization, or to another task of the same run.
2. Write the data files.
3. Write the manifest. From now on, this export is the certified one.
4. Check that the claim still exists. If not, another task assumed that this task was dead, and may have deleted its
   files: publish again with a new id, after another look at the owners as in step 1.
5. Check that the manifest is still that of this export. If not, a later export has replaced it. But if that export's
   files are incomplete, its task died before step 4: publish again.
6. Clean up: delete exports that the manifest does not list, if they have no claim or one from before step 1 (of a task
   that was killed, or that will notice in step 4). Delete the claims first, and then the files, if the manifest is
   still that of this export.
7. Delete the claim of this export, then check the manifest once more as in step 5.

A task that ends without an export, because nothing changed or it failed, cleans up as in step 6 with the current
manifest. So the garbage of a task that was killed after step 3 is deleted by the next task, even if that one fails.

Each of two concurrent tasks writes its own claim and manifest before it reads those of the other. So at least one of
them sees the other, and both see the same order. As long as both run, no listed file is deleted and no unlisted file
remains. One case leaves a manifest without files: a task that was assumed dead commits and then dies immediately. There
is then no export until the next one.

This requires a store in which a read sees all writes that ended before it began. S3, GCS, Azure and file systems
guarantee that. If a task dies between two steps, the next task deletes its files.

Claims name their owner. If two owners meet in step 1, at least one of them sees the claim of the other, or else its
manifest, which was written before the claim was deleted.
"""

from __future__ import annotations

import logging
import re
import secrets
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_unpod.export.errors import ExportError, ExportRefused
from airflow_provider_unpod.export.manifest import MANIFEST_NAME, Manifest
from airflow_provider_unpod.export.owner import Owner
from airflow_provider_unpod.export.storage import LARGEST_SMALL_FILE, Folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

log = logging.getLogger(__name__)

_MAX_ATTEMPTS = 3
#: Errors after which nothing was written: no permission, or the folder is a file.
_REFUSALS = (PermissionError, FileExistsError, NotADirectoryError)
_ID = r"(?P<id>\d{8}T\d{6}Z-[0-9a-f]{8})"
_CLAIM = re.compile(rf"_exporting-{_ID}").fullmatch
_STATE = re.compile(rf"_state-{_ID}").fullmatch
_REPORT = re.compile(rf"_report-{_ID}\.html").fullmatch
_DATA = re.compile(
    rf"(?:(?:currency|status|month)=[^/]+/){{0,3}}invoices-{_ID}(?:-\d{{5,}})?\.(?:jsonl|csv|parquet)(?:\.gz|\.zst)?"
).fullmatch
_TEMPORARY = re.compile(
    r"(?:[^/]+=[^/]+/){0,3}\.(?:invoices-|_exporting-|_state-|_report-|_manifest\.json)[^/]*\.tmp"
).fullmatch


def new_export_id() -> str:
    """Return a unique id. It begins with the time for people who list the folder, but no code relies on the clock."""
    return f"{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def claim_name(export_id: str) -> str:
    """Return the name of an export's claim. Readers of Hive layouts ignore names with a leading underscore."""
    return f"_exporting-{export_id}"


def state_name(export_id: str) -> str:
    """Return the name of the state file of an export of changes. Readers of Hive layouts ignore it."""
    return f"_state-{export_id}"


def current_manifest(folder: Folder) -> Manifest | None:
    """Return the manifest of the certified export. ``None`` if there is none.

    :raises ExportError: if the manifest is invalid.
    """
    text = folder.read(MANIFEST_NAME)
    return None if text is None else Manifest.from_bytes(text, folder.address_of(MANIFEST_NAME))


class Publication:
    """Publishes one export in a folder. If the ``with`` block fails, the files written so far are deleted.

    :param about: ``organization`` and ``run`` (the task instance), as in the manifest. A path belongs to one
        organization and, within a run, to one task instance.
    :raises ExportRefused: on entering the block, if the path belongs to another owner or the owner is unknown.
    """

    def __init__(self, folder: Folder, about: Mapping[str, Any]) -> None:
        self.export_id = new_export_id()
        self._folder = folder
        self._owner = Owner.of(about)
        self._own = [self.export_id]
        self._before: _Contents

    def __enter__(self) -> Publication:
        # Also checks that the store can be read and written, before any request to the API.
        self._before = _Contents.of(self._folder)
        try:
            self._claim()
            self._refuse_other_owners()
        except BaseException as error:
            # After other errors, such as a timeout, the claim may have been written nevertheless.
            if not isinstance(error.__cause__, _REFUSALS):
                with self._best_effort():
                    self._folder.delete([claim_name(self.export_id)])
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            self.withdraw()

    def publish(self, write_files: Callable[[str], Manifest]) -> Manifest:
        """Write an export with ``write_files`` and make it the certified one.

        :param write_files: called with an export id. It writes all files under names that contain the id, and returns
            their manifest. It is called again with another id if another task may delete the first files.
        :raises ExportError: if another task has published an export to the same path at the same time.
        """
        for _ in range(_MAX_ATTEMPTS):
            if not self._is_claimed(self.export_id):
                self._renew()
            manifest = write_files(self.export_id)
            if not self._is_claimed(self.export_id):
                continue  # the same check as below, but before the current export is replaced
            self._folder.put(MANIFEST_NAME, _checked(manifest.to_bytes()))
            if not self._is_claimed(self.export_id):
                continue
            if self._current_id() == self.export_id:
                self._tidy(manifest)
            if self._current_id() == self.export_id:
                return manifest
            if self._is_current_export_whole():
                raise ExportError(
                    f"Use a separate path for each export: another task exported to {self._folder.address} at the same "
                    "time, and its export is the current one."
                )
        raise ExportError(
            f"Use a separate path for each export: other tasks keep exporting to {self._folder.address} at the same "
            "time."
        )

    def withdraw(self) -> None:
        """End without a new export: delete its files and other garbage. If the store cannot be read, keep all files."""
        with self._best_effort():
            # If the task was interrupted after the commit, the new export stays the current one.
            if (manifest := self._believable_manifest()) and self._tidy(manifest):
                return
            if self._current_id() not in self._own:
                contents = _Contents.of(self._folder)
                self._folder.delete(name for export_id in self._own for name in contents.files.get(export_id, ()))
                self._folder.delete(map(claim_name, self._own))

    def _claim(self) -> None:
        self._folder.put(claim_name(self.export_id), self._owner.claim("An export is being written."))

    def _refuse_other_owners(self) -> None:
        where = self._folder.address
        # Claims are read first: a claim that is deleted in between leaves its manifest.
        for export_id in sorted(_Contents.of(self._folder).claimed - set(self._own)):
            claim = self._folder.read(claim_name(export_id))
            if claim is not None and (other := self._owner.other_than(claim)):
                raise ExportRefused(
                    f"{other.remedy}: an export of {other.who} to {where} is in progress. If no such task is running, "
                    f"delete {claim_name(export_id)}, which a killed task left there."
                )
        manifest = self._folder.read(MANIFEST_NAME)
        if manifest is not None and (other := self._owner.other_than(manifest)):
            raise ExportRefused(
                f"{other.remedy}: {where} contains an export of {other.who}. To reuse the path, delete "
                f"{MANIFEST_NAME} there."
            )

    def _is_claimed(self, export_id: str) -> bool:
        return self._folder.read(claim_name(export_id)) is not None

    def _renew(self) -> None:
        self.export_id = new_export_id()
        self._own.append(self.export_id)
        self._claim()
        self._refuse_other_owners()  # without a claim, this task was invisible to them

    def _current_id(self) -> str | None:
        """Return the id in the current manifest, even if the manifest is damaged or has a later version."""
        text = self._folder.read(MANIFEST_NAME) or b""
        found = re.search(rf'"export_id": "{_ID}"'.encode(), text)
        return found["id"].decode() if found else None

    def _believable_manifest(self) -> Manifest | None:
        text = self._folder.read(MANIFEST_NAME)
        try:
            return None if text is None else Manifest.from_bytes(text, MANIFEST_NAME)
        except ExportError:
            return None

    def _is_current_export_whole(self) -> bool:
        """Return whether all files of the current export exist. Its task may have died before step 4."""
        manifest = current_manifest(self._folder)
        return manifest is not None and manifest.paths <= set(self._folder.names())

    def _tidy(self, manifest: Manifest) -> bool:
        """Delete the files that the export of ``manifest`` does not need, and the claims of this export.

        :returns: ``False`` if ``manifest`` is no longer the current one. No file was deleted then.
        """
        contents = _Contents.of(self._folder)
        own = set(self._own)
        in_work = contents.claimed - self._before.claimed - own
        # A slow listing may contain the files of a task but not its claim, if the task started in the meantime.
        in_work |= set(filter(self._is_claimed, contents.ids - contents.claimed - self._before.ids - own))
        dead = contents.ids - in_work - {manifest.export_id}
        self._folder.delete(sorted(map(claim_name, contents.claimed & self._before.claimed)))
        if self._current_id() != manifest.export_id:
            return False
        garbage = {name for export_id in dead for name in contents.files.get(export_id, ())}
        garbage |= set(contents.files.get(manifest.export_id, ())) - manifest.paths
        self._folder.delete(sorted(garbage | (self._before.temporary & contents.temporary)))
        self._folder.delete(map(claim_name, self._own))
        return True

    @contextmanager
    def _best_effort(self) -> Iterator[None]:
        try:
            yield
        except ExportError as error:
            log.warning("The next export will delete the unfinished one in %s: %s", self._folder.address, error)


def _checked(text: bytes) -> bytes:
    """Refuse a manifest that :meth:`Folder.read` would refuse."""
    if len(text) > LARGEST_SMALL_FILE:
        raise ExportRefused(
            f"Use fewer partitions: the manifest would have {len(text):,} bytes, at most {LARGEST_SMALL_FILE:,} are "
            "read."
        )
    return text


class _Contents(NamedTuple):
    """The files of a folder by export. Files that do not belong to an export are ignored."""

    claimed: set[str]
    files: dict[str, list[str]]
    temporary: set[str]

    @property
    def ids(self) -> set[str]:
        return self.claimed | set(self.files)

    @classmethod
    def of(cls, folder: Folder) -> _Contents:
        contents = cls(set(), {}, set())
        for name in _without_other_exports(folder.names()):
            if claim := _CLAIM(name):
                contents.claimed.add(claim["id"])
            elif file := _DATA(name) or _STATE(name) or _REPORT(name):
                contents.files.setdefault(file["id"], []).append(name)
            elif _TEMPORARY(name):
                contents.temporary.add(name)
        return contents


def _without_other_exports(names: list[str]) -> list[str]:
    """Omit subfolders that are the path of another export."""
    others = []
    for name in names:
        folder, _, last = name.rpartition("/")
        if folder and (last == MANIFEST_NAME or _CLAIM(last)):
            others.append(folder + "/")
    return [name for name in names if not name.startswith(tuple(others))] if others else names
