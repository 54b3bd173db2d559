"""Replaces the previous export by a new one: completely or not at all, whatever other tasks do meanwhile.

Every file of an export has its id in its name, so exports never overwrite each other's files; only the manifest has
a fixed name, and writing it is the commit. A file that the current manifest does not list is litter, *unless* a task
is about to list it. Claims distinguish the two: a claim is a small file ``_exporting-<export id>`` that exists from
before an export's first file until after its last act:

1. list the folder; remember its claims (``_before``); write one's own; give up if a claim or the manifest belongs to
   somebody else: another organization, or another task of the same run
2. write the data files
3. write the manifest: from now on this export is the certified one
4. is the own claim still there? If not, another task took this export for dead, and its files may vanish: publish
   again under a new id
5. is the manifest still the own one? If not, another export came later and has won; unless its files are not all
   there, since it was taken for dead and did die before step 4: then publish again
6. tidy: remove all exports that the manifest does not list and that have no claim, or one that existed in step 1
   already (left by a killed task, or by one that will notice in step 4); their claims first, and their files only
   if the manifest is still the own one after that
7. remove the own claim, then read the manifest once more as in step 5

A task that ends without an export of its own, since nothing changed or something failed, tidies as in step 6, with
the manifest that is current: so the litter of a task that was killed after step 3 goes with the next task, whatever
becomes of that one.

Two tasks that meet here each write one thing and then read the other's (claim and manifest), so at least one of
them sees the other, and both see the same order: nobody removes files that a current manifest lists, and no file
remains that none lists, as long as both live. (One that is taken for dead, commits all the same and dies at once can
leave a manifest without files: no export then, until the next.) This asks of a store that a read that starts after a
write has ended sees it, which S3, GCS, Azure and file systems promise. A task that dies between any two steps leaves
files which the next one removes.

Claims say whose they are. Of two owners that meet in step 1, at least one sees the other's claim, or else its
manifest, which came before the claim went.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_unpod.billing.errors import short_repr
from airflow_provider_unpod.export.errors import ExportError, ExportRefused
from airflow_provider_unpod.export.manifest import MANIFEST_NAME, Manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

    from airflow_provider_unpod.export.storage import Folder

log = logging.getLogger(__name__)

_MAX_ATTEMPTS = 3
#: Errors of a store that has written nothing: no permission, or the folder is a file.
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
    """A unique id that sorts by time for people who list the folder; nothing relies on the clock."""
    return f"{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def claim_name(export_id: str) -> str:
    """The name of an export's claim; readers of Hive layouts ignore it for its underscore."""
    return f"_exporting-{export_id}"


def state_name(export_id: str) -> str:
    """The name of the state that exports of changes start from; readers of Hive layouts ignore it, too."""
    return f"_state-{export_id}"


def current_manifest(folder: Folder) -> Manifest | None:
    """The manifest of the certified export, ``None`` where there is none.

    :raises ExportError: if it cannot be believed.
    """
    text = folder.read(MANIFEST_NAME)
    return None if text is None else Manifest.from_bytes(text, folder.address_of(MANIFEST_NAME))


class Publication:
    """One export on its way into a folder. Leaving the ``with`` block by an error removes what it has written.

    :param about: ``organization`` and ``run`` (the task instance) as the manifest will name them. A path belongs to
        one organization, and within a run to one task instance.
    :raises ExportRefused: on entering it, if the path belongs to another, or it cannot be read whose it is.
    """

    def __init__(self, folder: Folder, about: Mapping[str, Any]) -> None:
        self.export_id = new_export_id()
        self._folder = folder
        self._owner = _Owner.of(about)
        self._own = [self.export_id]
        self._before: _Contents

    def __enter__(self) -> Publication:
        # Also shows early, before any request to the API, whether the store can be read and written.
        self._before = _Contents.of(self._folder)
        try:
            self._claim()
            self._refuse_other_owners()
        except BaseException as error:
            # After any other error, for example a time-out, the claim may have been written all the same.
            if not isinstance(error.__cause__, _REFUSALS):
                with self._best_effort():
                    self._folder.delete([claim_name(self.export_id)])
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            self.withdraw()

    def publish(self, write_files: Callable[[str], Manifest]) -> Manifest:
        """Make the export that ``write_files(export_id)`` writes the certified one.

        :param write_files: writes all files under names that contain the id, and returns their manifest; called again
            with another id if the files of the first are in danger.
        :raises ExportError: if another task that exports to the same path was certified meanwhile.
        """
        for _ in range(_MAX_ATTEMPTS):
            if not self._is_claimed(self.export_id):
                self._renew()
            manifest = write_files(self.export_id)
            if not self._is_claimed(self.export_id):
                continue  # the same question as below; asked here it spares the current export
            self._folder.put(MANIFEST_NAME, manifest.to_bytes())
            if not self._is_claimed(self.export_id):
                continue
            if self._current_id() == self.export_id:
                self._tidy(manifest)
            if self._current_id() == self.export_id:
                return manifest
            if self._is_current_export_whole():
                raise ExportError(
                    f"Give every export a path of its own: another task exported to {self._folder.address} at the same "
                    "time, and its export is the current one."
                )
        raise ExportError(
            f"Give every export a path of its own: other tasks keep exporting to {self._folder.address} at the same "
            "time."
        )

    def withdraw(self) -> None:
        """End without a new export: remove its files, and litter; keep all files where the store cannot be read."""
        with self._best_effort():
            # Interrupted after the commit, the own manifest may be the current one. There is no way back then.
            if (manifest := self._believable_manifest()) and self._tidy(manifest):
                return
            if self._current_id() not in self._own:
                contents = _Contents.of(self._folder)
                self._folder.delete(name for export_id in self._own for name in contents.files.get(export_id, ()))
                self._folder.delete(map(claim_name, self._own))

    def _claim(self) -> None:
        self._folder.put(claim_name(self.export_id), self._owner.to_bytes())

    def _refuse_other_owners(self) -> None:
        where = self._folder.address
        # First the claims: one that goes in between leaves its manifest.
        for export_id in sorted(_Contents.of(self._folder).claimed - set(self._own)):
            claim = self._folder.read(claim_name(export_id))
            if claim is not None and (other := self._owner.other_than(claim)):
                raise ExportRefused(
                    f"{other.remedy}: {where} is being exported to by {other.who}. If no such task is running, a "
                    f"killed one left {claim_name(export_id)} there: delete it."
                )
        manifest = self._folder.read(MANIFEST_NAME)
        if manifest is not None and (other := self._owner.other_than(manifest)):
            raise ExportRefused(
                f"{other.remedy}: {where} holds the export of {other.who}. To give the path over, delete "
                f"{MANIFEST_NAME} there."
            )

    def _is_claimed(self, export_id: str) -> bool:
        return self._folder.read(claim_name(export_id)) is not None

    def _renew(self) -> None:
        self.export_id = new_export_id()
        self._own.append(self.export_id)
        self._claim()

    def _current_id(self) -> str | None:
        """The id of the certified export; another's manifest may be damaged or of a later version."""
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
        """Whether another's manifest has its files: it may have been written by a task that died in step 4."""
        manifest = current_manifest(self._folder)
        return manifest is not None and manifest.paths <= set(self._folder.names())

    def _tidy(self, manifest: Manifest) -> bool:
        """Remove the files that only exports other than ``manifest``'s needed, and one's own claims.

        :returns: ``False`` if ``manifest`` is not the current one any more: then no file was removed.
        """
        contents = _Contents.of(self._folder)
        own = set(self._own)
        in_work = contents.claimed - self._before.claimed - own
        # A long listing can have the files of a task that claimed them while it went on, without the claim.
        in_work |= set(filter(self._is_claimed, contents.ids - contents.claimed - self._before.ids - own))
        dead = contents.ids - in_work - {manifest.export_id}
        self._folder.delete(sorted(map(claim_name, contents.claimed & self._before.claimed)))
        if self._current_id() != manifest.export_id:
            return False
        litter = {name for export_id in dead for name in contents.files.get(export_id, ())}
        litter |= set(contents.files.get(manifest.export_id, ())) - manifest.paths
        self._folder.delete(sorted(litter | (self._before.temporary & contents.temporary)))
        self._folder.delete(map(claim_name, self._own))
        return True

    @contextmanager
    def _best_effort(self) -> Iterator[None]:
        try:
            yield
        except ExportError as error:
            log.warning("An unfinished export stays in %s until the next one: %s", self._folder.address, error)


class _Other(NamedTuple):
    """To whom a path belongs, if not to this export, and what to do about it."""

    who: str
    remedy: str


class _Owner(NamedTuple):
    """Whose an export is, as its claim and its manifest say."""

    organization: Any
    run: Any

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> _Owner:
        return cls(content.get("organization"), content.get("run"))

    def to_bytes(self) -> bytes:
        note = "An export is being written. This file is removed when it ends."
        return (json.dumps({**self._asdict(), "note": note}, indent=2) + "\n").encode()

    def other_than(self, text: bytes) -> _Other | None:
        """Whose a claim or a manifest is, if it is another's or cannot be read; ``None`` if it is one's own.

        Of a damaged manifest, its organization can often be read: so a full export heals the path of its own one.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            content = None
        other = _Owner.of(content) if isinstance(content, dict) else None
        if other is None or (other.organization is None and self.organization is not None):
            return _Other("an unknown organization (the file is damaged, or of a later version)", "Use another path")
        if other.organization != self.organization:
            who = f"organization {short_repr(other.organization)}, not of {short_repr(self.organization)}"
            return _Other(who, "Give each organization a path of its own")
        if not self._is_same_run(other):
            return None
        if other.run.get("task_id") != self.run.get("task_id"):
            who = f"task {short_repr(other.run.get('task_id'))} of this run"
            return _Other(who, "Give each task a path of its own")
        if other.run.get("map_index") != self.run.get("map_index"):
            who = f"map_index {short_repr(other.run.get('map_index'))} of this task and run"
            return _Other(who, "Put `{{ ti.map_index }}` or the mapped value into `output_path`")
        return None

    def _is_same_run(self, other: _Owner) -> bool:
        if not (isinstance(self.run, dict) and isinstance(other.run, dict)):
            return False
        return all(self.run.get(name) == other.run.get(name) for name in ("dag_id", "run_id"))


class _Contents(NamedTuple):
    """The files of a folder, by export; files that no export wrote are ignored."""

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
    """Leave out subfolders that are the path of an export of their own."""
    others = []
    for name in names:
        folder, _, last = name.rpartition("/")
        if folder and (last == MANIFEST_NAME or _CLAIM(last)):
            others.append(folder + "/")
    return [name for name in names if not name.startswith(tuple(others))] if others else names
