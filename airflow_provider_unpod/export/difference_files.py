"""Writes the differences of a reconciliation to files: JSON for programs, CSV for spreadsheets.

A folder belongs to one organization and, within a run, to one task instance, as the folder of an export does. Each task
writes a claim before it reads the claims of others, and deletes it after its files are written. So of two tasks, at
least one sees the other's claim or its files.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any

from airflow_provider_unpod.export.columns import formula_safe
from airflow_provider_unpod.export.errors import ExportError, ExportRefused
from airflow_provider_unpod.export.owner import Owner
from airflow_provider_unpod.export.spool import discard, temporary_file, temporary_space

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow_provider_unpod.export.reconciliation import Difference, Entry, Reconciliation
    from airflow_provider_unpod.export.storage import Folder

JSON_NAME, CSV_NAME = "reconciliation.json", "reconciliation.csv"
_CLAIM = re.compile(r"_reconciling-[0-9a-f]{16}").fullmatch
_SUMMARY = ',\n  "summary": '
#: Most bytes of a file to read for its owner. The text before the summary is much shorter.
_LARGEST_HEAD = 2**20
_FIELDS = ("amount", "currency", "day", "status")
_HEAD = ("id", "outcomes", *(f"{name}_{side}" for name in _FIELDS for side in ("here", "there")))


class Differences:
    """The differences of a reconciliation, stored in a temporary file.

    :param most: maximum length of ``first``.
    """

    def __init__(self, reconciliation: Reconciliation, most: int) -> None:
        self.first: list[dict[str, Any]] = []
        self._file: IO[bytes] = temporary_file()
        try:
            self._store(reconciliation, most)
        except BaseException:
            self.close()
            raise
        self.summary = reconciliation.summary.as_dict()

    def _store(self, reconciliation: Reconciliation, most: int) -> None:
        for difference in reconciliation:
            content = as_dict(difference)
            if len(self.first) < most:
                self.first.append(content)
            with temporary_space():
                self._file.write(json.dumps(content).encode() + b"\n")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._file.seek(0)
        yield from map(json.loads, self._file)

    def close(self) -> None:
        """Delete the temporary file."""
        discard(self._file)

    def write(self, folder: Folder, about: Mapping[str, Any]) -> list[str]:
        """Write both files to a folder, each completely or not at all, and return their names.

        :param about: the compared sides, as the first fields of the JSON file. Its ``organization`` and ``run`` own the
            folder, see :class:`Owner`.
        :raises ExportRefused: if the folder belongs to another owner.
        """
        with _claimed(folder, Owner.of(about)):
            folder.write(CSV_NAME, self._csv_blocks())
            folder.write(JSON_NAME, self._json_blocks(about))
        return [JSON_NAME, CSV_NAME]

    def _json_blocks(self, about: Mapping[str, Any]) -> Iterator[bytes]:
        head = json.dumps(about, indent=2)[: -len("\n}")]
        summary = json.dumps(self.summary, indent=2).replace("\n", "\n  ")
        yield f'{head}{_SUMMARY}{summary},\n  "differences": ['.encode()
        separator = b"\n    "
        for difference in self:
            yield separator + json.dumps(difference).encode()
            separator = b",\n    "
        yield b"\n  ]\n}\n"

    def _csv_blocks(self) -> Iterator[bytes]:
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_HEAD)
        for difference in self:
            for row in _csv_rows(difference):
                writer.writerow(row)
            if text.tell() > 2**20:
                yield text.getvalue().encode()
                text.seek(0)
                text.truncate()
        yield text.getvalue().encode()


@contextmanager
def _claimed(folder: Folder, owner: Owner) -> Iterator[None]:
    """Hold the claim of ``owner`` on a folder.

    The name of a claim depends on the owner, so a retried task deletes the claim of its killed predecessor. A claim
    that is never deleted only stops tasks of its own run.

    :raises ExportRefused: if another owner has written the files there, or claims the folder.
    """
    run = owner.run or {}
    identity = [run.get(name) for name in ("dag_id", "run_id", "task_id", "map_index")]
    mine = f"_reconciling-{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]}"
    folder.put(mine, owner.claim("A reconciliation is being written."))
    try:
        claims = [name for name in folder.names() if _CLAIM(name) and name != mine]
        for name in claims:  # before the files: a claim that is deleted in between leaves its files
            _refuse_other(owner, folder, name, "in progress. If no such task is running, delete it")
        _refuse_other(owner, folder, JSON_NAME, "there. To reuse the folder, delete it")
        yield
    except BaseException:
        with suppress(ExportError):
            folder.delete([mine])
        raise
    folder.delete([mine])  # not those of other runs: their tasks may still be running


def _refuse_other(owner: Owner, folder: Folder, name: str, what: str) -> None:
    file = folder.fetch(name, _LARGEST_HEAD)
    if file is None:
        return
    with file:
        head, found, _ = file.read().partition(_SUMMARY.encode())
    other = owner.other_than(head + b"}" if found else head)
    if other is not None:
        raise ExportRefused(
            f"{other.remedy}: {folder.address_of(name)} belongs to a reconciliation of {other.who}, which is {what}."
        )


def as_dict(difference: Difference) -> dict[str, Any]:
    """Return a difference as a dictionary for JSON, with amounts as decimal strings and dates in ISO 8601."""
    return {
        "id": difference.key,
        "outcomes": list(difference.outcomes),
        "here": [_entry_as_dict(one) for one in difference.here],
        "there": [_entry_as_dict(one) for one in difference.there],
    }


def _entry_as_dict(entry: Entry) -> dict[str, Any]:
    return {
        "amount": format(entry.amount, "f"),
        "currency": entry.currency,
        "day": entry.day and entry.day.isoformat(),
        "status": entry.status,
    }


def _csv_rows(difference: dict[str, Any]) -> Iterator[list[str]]:
    """Yield one row, or several for duplicates: one for each row of the side that has more."""
    for number in range(max(len(difference["here"]), len(difference["there"]))):
        sides = [rows[number] if number < len(rows) else {} for rows in (difference["here"], difference["there"])]
        cells = (_cell(name, side.get(name)) for name in _FIELDS for side in sides)
        yield [formula_safe(difference["id"]), " ".join(difference["outcomes"]), *cells]


def _cell(name: str, value: str | None) -> str:
    # A ledger may contain any text. A negative amount only looks like a formula.
    return "" if value is None else value if name == "amount" else formula_safe(value)
