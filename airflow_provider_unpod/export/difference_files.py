"""Writes the differences of a reconciliation to files: JSON for programs, CSV for spreadsheets."""

from __future__ import annotations

import csv
import io
import json
from typing import IO, TYPE_CHECKING, Any

from airflow_provider_unpod.export.columns import formula_safe
from airflow_provider_unpod.export.spool import discard, temporary_file, temporary_space

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow_provider_unpod.export.reconciliation import Difference, Entry, Reconciliation
    from airflow_provider_unpod.export.storage import Folder

JSON_NAME, CSV_NAME = "reconciliation.json", "reconciliation.csv"
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

        :param about: the compared sides, as the first fields of the JSON file.
        """
        folder.write(CSV_NAME, self._csv_blocks())
        folder.write(JSON_NAME, self._json_blocks(about))
        return [JSON_NAME, CSV_NAME]

    def _json_blocks(self, about: Mapping[str, Any]) -> Iterator[bytes]:
        head = json.dumps({**about, "summary": self.summary}, indent=2)
        yield head[: -len("\n}")].encode() + b',\n  "differences": ['
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
