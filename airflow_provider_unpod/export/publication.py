"""How an export takes the place of the one before: whole, or not at all, whoever else does the same meanwhile.

Every file of an export carries its id in its name, so exports never overwrite each other's files; only the
manifest has a fixed name, and writing it is the commit. What the current manifest does not list is litter, *if*
nobody is about to list it. That is what a claim is for, a small file ``_exporting-<export id>`` that stands from
before an export's first file until after its last act:

1. list the folder; remember the claims that stand (``_before``); write one's own; give up if another organisation
   has a claim or the manifest
2. write the data files
3. write the manifest: from now on it is this export that is certified
4. is the own claim still there? If not, somebody took this export for dead, and its files may vanish: publish
   again under a new id
5. is the manifest still the own one? If not, another export came later and has won; unless its files are not all
   there, since it was taken for dead and did die before step 4: then publish again
6. clean: remove all exports of which no manifest speaks and which have no claim, or one that stood in step 1
   already (left by a killed task, or by one that will notice in step 4); their claims first, and their files only
   if the manifest is still the own one after that
7. remove the own claim, then look at the manifest once more as in step 5

Two tasks that meet here each write one thing and then look at the other's (claim and manifest), so at least one of
them sees the other, and both see the same order: nobody removes files that a standing manifest lists, and no file
is left that none lists, as long as both live. (One that is taken for dead, commits all the same and dies at once can
leave a manifest without files: no export then, until the next.) This asks of a store that a read that starts after a
write has ended sees it, which S3, GCS, Azure and file systems promise. A task that dies between any two steps leaves
files which the next one removes.

Claims say whose they are, because a path belongs to one organisation. Of two organisations that meet in step 1 one at
least sees the other's claim, or else its manifest, which came before the claim went.
"""

from __future__ import annotations

import logging
import re
import secrets
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_unpod.export.errors import ExportError, ExportRefused
from airflow_provider_unpod.export.manifest import MANIFEST_NAME, Manifest

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from airflow_provider_unpod.export.storage import Folder

log = logging.getLogger(__name__)

_MAX_ATTEMPTS = 3
#: Of the store, after which nothing was written: no permission, or the folder is a file.
_REFUSALS = (PermissionError, FileExistsError, NotADirectoryError)
_ID = r"(?P<id>\d{8}T\d{6}Z-[0-9a-f]{8})"
_CLAIM = re.compile(rf"_exporting-{_ID}").fullmatch
_STATE = re.compile(rf"_state-{_ID}").fullmatch
_DATA = re.compile(
    rf"(?:(?:currency|status|month)=[^/]+/){{0,3}}invoices-{_ID}(?:-\d{{5,}})?\.(?:jsonl|csv|parquet)(?:\.gz|\.zst)?"
).fullmatch
_TEMPORARY = re.compile(r"(?:[^/]+=[^/]+/){0,3}\.(?:invoices-|_exporting-|_state-|_manifest\.json)[^/]*\.tmp").fullmatch


def new_export_id() -> str:
    """Unique, and sorted by time for people who look at the folder; nothing relies on the clock."""
    return f"{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def claim_name(export_id: str) -> str:
    """The name of an export's claim; no reader of data takes it for data."""
    return f"_exporting-{export_id}"


def state_name(export_id: str) -> str:
    """The name of the state that exports of changes start from; no reader of data takes it for data."""
    return f"_state-{export_id}"


def current_manifest(folder: Folder) -> Manifest | None:
    """The manifest that stands, ``None`` where there is none.

    :raises ExportError: if it cannot be believed.
    """
    text = folder.read(MANIFEST_NAME)
    return None if text is None else Manifest.from_bytes(text, folder.address_of(MANIFEST_NAME))


class Publication:
    """One export on its way into a folder. Leaving the ``with`` block by an error removes what it has written.

    :param organization: the handle of whom it is an export; never takes the place of another's.
    :raises ExportRefused: on entering it, if another organisation's export is here.
    """

    def __init__(self, folder: Folder, organization: str | None) -> None:
        self.export_id = new_export_id()
        self._folder = folder
        self._organization = organization
        self._own = [self.export_id]
        self._before: _Contents

    def __enter__(self) -> Publication:
        # Also tells early, before the API is asked for anything, whether the store can be read and written.
        self._before = _Contents.of(self._folder)
        try:
            self._claim()
            self._refuse_other_organizations()
        except BaseException as error:
            # After any other error, a time-out say, the claim may stand all the same.
            if not isinstance(error.__cause__, _REFUSALS):
                self.withdraw()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            self.withdraw()

    def publish(self, write_files: Callable[[str], Manifest]) -> Manifest:
        """Make the export that ``write_files(export_id)`` writes the one that is certified.

        :param write_files: writes all files under names that hold the id, and gives their manifest; called again
            with another id if the files of the first are in danger.
        :raises ExportError: if another task that exports to the same path was certified in between.
        """
        for _ in range(_MAX_ATTEMPTS):
            if not self._is_claimed():
                self._renew()
            manifest = write_files(self.export_id)
            if not self._is_claimed():
                continue  # the same question as below; asked here it spares the export that stands
            self._folder.put(MANIFEST_NAME, manifest.to_bytes())
            if not self._is_claimed():
                continue
            if self._standing() == self.export_id:
                self._tidy(manifest)
            if self._standing() == self.export_id:
                return manifest
            if self._is_standing_export_whole():
                raise ExportError(
                    f"Another task exported to {self._folder.address} at the same time, and its export stands. "
                    "Give every export a path of its own."
                )
        raise ExportError(f"Other tasks keep exporting to {self._folder.address} at the same time.")

    def _claim(self) -> None:
        self._folder.put(claim_name(self.export_id), self._claim_text)

    @property
    def _claim_text(self) -> bytes:
        whose = f"An export of organisation {self._organization!r} is being written; this file goes when it is done.\n"
        return whose.encode()

    def _refuse_other_organizations(self) -> None:
        # First the claims: one that goes in between leaves its manifest.
        for export_id in sorted(_Contents.of(self._folder).claimed - set(self._own)):
            claim = self._folder.read(claim_name(export_id))
            if claim not in (None, self._claim_text):
                raise ExportRefused(
                    f"Another organisation's export is being written to {self._folder.address}: give each a path of "
                    f"its own. If no such task runs, a killed one has left {claim_name(export_id)} there: delete it."
                )
        text = self._folder.read(MANIFEST_NAME)
        manifest = None
        if text is not None:
            with suppress(ExportError):  # one that cannot be believed is nobody's
                manifest = Manifest.from_bytes(text, MANIFEST_NAME)
        if manifest and (whose := manifest.content.get("organization")) != self._organization:
            raise ExportRefused(
                f"{self._folder.address} holds an export of organisation {whose!r}, not of {self._organization!r}: "
                f"give each a path of its own or, if this one is to be given over, delete {MANIFEST_NAME} there."
            )

    def _is_claimed(self) -> bool:
        return self._folder.read(claim_name(self.export_id)) is not None

    def _renew(self) -> None:
        self.export_id = new_export_id()
        self._own.append(self.export_id)
        self._claim()

    def _standing(self) -> str | None:
        """The id of the export that stands; another's manifest may be damaged or of a later version."""
        text = self._folder.read(MANIFEST_NAME) or b""
        found = re.search(rf'"export_id": "{_ID}"'.encode(), text)
        return found["id"].decode() if found else None

    def _is_standing_export_whole(self) -> bool:
        """Whether another's manifest has its files: it may have been written by a task that died in step 4."""
        manifest = current_manifest(self._folder)
        return manifest is not None and manifest.paths <= set(self._folder.names())

    def _tidy(self, manifest: Manifest) -> None:
        """Remove what only the exports before ``manifest`` needed, and one's own claims."""
        contents = _Contents.of(self._folder)
        in_work = contents.claimed - self._before.claimed - set(self._own)
        dead = contents.ids - in_work - {manifest.export_id}
        self._folder.delete(sorted(claim_name(export_id) for export_id in contents.claimed & dead))
        if self._standing() == manifest.export_id:
            litter = {name for export_id in dead for name in contents.files.get(export_id, ())}
            litter |= set(contents.files.get(manifest.export_id, ())) - manifest.paths
            self._folder.delete(sorted(litter | (self._before.temporary & contents.temporary)))
        self._folder.delete(map(claim_name, self._own))

    def withdraw(self) -> None:
        """Leave nothing behind that no manifest lists; keep everything where that cannot be told."""
        try:
            if self._standing() in self._own and (manifest := current_manifest(self._folder)):
                # Interrupted after the commit: there is no way back, only forward.
                self._tidy(manifest)
            if self._standing() not in self._own:
                contents = _Contents.of(self._folder)
                self._folder.delete(name for export_id in self._own for name in contents.files.get(export_id, ()))
                self._folder.delete(map(claim_name, self._own))
        except ExportError as error:
            log.warning("An unfinished export stays in %s until the next one: %s", self._folder.address, error)


class _Contents(NamedTuple):
    """What lies in a folder, by export; files that are no export's are not looked at."""

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
            elif file := _DATA(name) or _STATE(name):
                contents.files.setdefault(file["id"], []).append(name)
            elif _TEMPORARY(name):
                contents.temporary.add(name)
        return contents


def _without_other_exports(names: list[str]) -> list[str]:
    """Leave out folders further down that are the path of an export of their own."""
    others = []
    for name in names:
        folder, _, last = name.rpartition("/")
        if folder and (last == MANIFEST_NAME or _CLAIM(last)):
            others.append(folder + "/")
    return [name for name in names if not name.startswith(tuple(others))] if others else names
