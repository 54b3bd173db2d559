"""Compares two lists of invoices to the last digit.

Each side, an export, a SQL query or a ledger file, becomes a stream of :class:`Entry`. The streams may be in any order
and larger than memory, because they are sorted on disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from itertools import groupby, islice
from typing import Any, TypeAlias

from airflow_provider_unpod.export.spool import temporary_database, temporary_space
from airflow_provider_unpod.export.totals import EXACT

MATCHED, ONLY_HERE, ONLY_THERE, DUPLICATE = "matched", "only_here", "only_there", "duplicate"
AMOUNT, CURRENCY, STATUS, DATE = "amount", "currency", "status", "date"
NOT_COMPARED = "not_compared"
#: All outcomes, in the order in which summaries list them.
OUTCOMES = (MATCHED, ONLY_HERE, ONLY_THERE, AMOUNT, CURRENCY, STATUS, DATE, DUPLICATE, NOT_COMPARED)
#: Most rows of one id to keep on each side. This is enough to report a duplicate.
MOST_ROWS_OF_AN_ID = 20
#: Entries that are stored at a time.
_BATCH = 1_000
#: Steps from the total here to the total there. The first and the last are the totals.
_STEPS = ("here", ONLY_HERE, ONLY_THERE, CURRENCY, AMOUNT, "within_tolerance", "there")


@dataclass(frozen=True, slots=True)
class Entry:
    """An invoice on one side of a reconciliation.

    :param key: id or number as a string, normalized for comparison.
    :param amount: exact amount.
    :param currency: upper-case code.
    :param day: calendar day of the invoice. ``None`` if this side has none; dates are then not compared.
    :param status: lower-case status. ``None`` if this side has none; statuses are then not compared.
    """

    key: str
    amount: Decimal
    currency: str
    day: date | None = None
    status: str | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """An id on which the two sides differ.

    :param outcomes: ``only_here``, ``only_there`` or ``duplicate`` alone, or any of ``amount``, ``currency``,
        ``status`` and ``date``.
    :param here: rows of this id on the first side. There are several only for ``duplicate``.
    :param there: rows of this id on the second side.
    """

    key: str
    outcomes: tuple[str, ...]
    here: tuple[Entry, ...]
    there: tuple[Entry, ...]


@dataclass
class Summary:
    """The result of a reconciliation.

    :param counts: number of ids by outcome. An id that differs in two ways counts for both.
    :param bridges: the steps from the total here to the total there, by currency. They add up exactly. Duplicates are
        not part of any sum.
    """

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    bridges: dict[str, dict[str, Decimal]] = field(default_factory=dict)

    @property
    def agrees(self) -> bool:
        """Whether each compared id is on both sides, once, and equal."""
        return not any(count for outcome, count in self.counts.items() if outcome not in (MATCHED, NOT_COMPARED))

    def as_dict(self) -> dict[str, Any]:
        """Return the result as a dictionary for JSON, with amounts as decimal strings."""
        return {
            "agrees": self.agrees,
            "counts": dict(self.counts),
            "bridges": {
                currency: {step: format(amount, "f") for step, amount in bridge.items()}
                for currency, bridge in sorted(self.bridges.items())
            },
        }

    def _add(self, currency: str, step: str, amount: Decimal) -> None:
        bridge = self.bridges.setdefault(currency, dict.fromkeys(_STEPS, Decimal(0)))
        bridge[step] = EXACT.add(bridge[step], amount)


Group: TypeAlias = tuple[str, tuple[Entry, ...]]


def reconcile(
    here: Iterable[Entry],
    there: Iterable[Entry],
    *,
    date_window: int = 0,
    tolerance: Mapping[str, Decimal] | None = None,
    here_is_part: bool = False,
) -> Reconciliation:
    """Compare two lists of invoices.

    Both lists may be in any order. They are read completely before the first difference is yielded, and sorted in a
    temporary file, so memory use does not depend on their length.

    :param here: entries of one side, for example from ``entries_of_export``.
    :param there: entries of the other side.
    :param date_window: number of days by which dates may differ.
    :param tolerance: amount by which amounts may differ, by currency. Other currencies must agree exactly.
    :param here_is_part: whether ``here`` is only a part of the list, such as changes. Ids that only ``there`` has are
        then not compared.
    :returns: an iterator over the differences, ordered by key. Its ``summary`` is available after the last one. It
        raises :class:`ExportError` if the temporary space (``$TMPDIR``) is full or missing.
    """
    return Reconciliation(here, there, date_window, dict(tolerance or {}), here_is_part)


class Reconciliation(Iterator[Difference]):
    """An iterator over the differences between two lists, created by :func:`reconcile`."""

    def __init__(
        self,
        here: Iterable[Entry],
        there: Iterable[Entry],
        date_window: int,
        tolerance: dict[str, Decimal],
        here_is_part: bool,
    ) -> None:
        self._date_window = date_window
        self._tolerance = tolerance
        self._here_is_part = here_is_part
        self._summary = Summary()
        self._ended = False
        self._differences = self._compare(here, there)

    @property
    def summary(self) -> Summary:
        """The counts and bridges.

        :raises RuntimeError: if not all differences have been taken.
        """
        if not self._ended:
            raise RuntimeError("Take all differences first: the comparison has not ended.")
        return self._summary

    def __next__(self) -> Difference:
        return next(self._differences)

    def _compare(self, here: Iterable[Entry], there: Iterable[Entry]) -> Iterator[Difference]:
        with _Sorter() as sorter:
            sorter.add("here", here)
            sorter.add("there", there)
            for key, ours, theirs in _merged(sorter.groups("here"), sorter.groups("there")):
                if self._here_is_part and not ours:
                    self._summary.counts[NOT_COMPARED] += 1
                    continue
                outcomes = self._outcomes(ours, theirs)
                for outcome in outcomes or (MATCHED,):
                    self._summary.counts[outcome] += 1
                if outcomes:
                    yield Difference(key, outcomes, ours, theirs)
        self._check_bridges()
        self._ended = True

    def _outcomes(self, ours: tuple[Entry, ...], theirs: tuple[Entry, ...]) -> tuple[str, ...]:
        """Return the outcomes of one id, or none if it matches. Add its amounts to the bridges."""
        if len(ours) > 1 or len(theirs) > 1:
            return (DUPLICATE,)
        add = self._summary._add
        for mine in ours:
            add(mine.currency, "here", mine.amount)
        for other in theirs:
            add(other.currency, "there", other.amount)
        if not theirs:
            add(ours[0].currency, ONLY_HERE, -ours[0].amount)
            return (ONLY_HERE,)
        if not ours:
            add(theirs[0].currency, ONLY_THERE, theirs[0].amount)
            return (ONLY_THERE,)
        return tuple(self._differing(ours[0], theirs[0]))

    def _differing(self, mine: Entry, other: Entry) -> Iterator[str]:
        add = self._summary._add
        if mine.currency != other.currency:
            # Amounts in different currencies cannot be compared. The amount moves from one bridge to the other.
            add(mine.currency, CURRENCY, -mine.amount)
            add(other.currency, CURRENCY, other.amount)
            yield CURRENCY
        elif mine.amount != other.amount:
            by = EXACT.subtract(other.amount, mine.amount)
            tolerated = abs(by) <= self._tolerance.get(mine.currency, 0)
            add(mine.currency, "within_tolerance" if tolerated else AMOUNT, by)
            if not tolerated:
                yield AMOUNT
        if None not in (mine.status, other.status) and mine.status != other.status:
            yield STATUS
        if mine.day and other.day and abs((mine.day - other.day).days) > self._date_window:
            yield DATE

    def _check_bridges(self) -> None:
        for currency, bridge in self._summary.bridges.items():
            *steps, end = bridge.values()
            total = Decimal(0)
            for step in steps:
                total = EXACT.add(total, step)
            if total != end:
                raise RuntimeError(f"The bridge of {currency} leads to {total}, but the total there is {end}.")


def _merged(
    here: Iterator[Group], there: Iterator[Group]
) -> Iterator[tuple[str, tuple[Entry, ...], tuple[Entry, ...]]]:
    """Merge two streams of groups that are ordered by key. Yield the key, the rows here and the rows there."""
    ours, theirs = next(here, None), next(there, None)
    while ours or theirs:
        if theirs is None or (ours is not None and ours[0] < theirs[0]):
            assert ours is not None
            yield ours[0], ours[1], ()
            ours = next(here, None)
        elif ours is None or theirs[0] < ours[0]:
            yield theirs[0], (), theirs[1]
            theirs = next(there, None)
        else:
            yield ours[0], ours[1], theirs[1]
            ours, theirs = next(here, None), next(there, None)


class _Sorter:
    """Sorts any number of entries by key, with SQLite in an unnamed temporary file."""

    def __enter__(self) -> _Sorter:
        self._database = temporary_database(
            "CREATE TABLE entry (side TEXT, key TEXT, amount TEXT, currency TEXT, day TEXT, status TEXT)"
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()

    def add(self, side: str, entries: Iterable[Entry]) -> None:
        rows = (
            (side, one.key, str(one.amount), one.currency, one.day and one.day.isoformat(), one.status)
            for one in entries
        )
        # Errors of the entries, such as those of a query on another SQLite database, are not errors of this file.
        while batch := list(islice(rows, _BATCH)):
            with temporary_space():
                self._database.executemany("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?)", batch)

    def groups(self, side: str) -> Iterator[Group]:
        for key, group in groupby(self._sorted(side), key=lambda row: str(row[0])):
            yield (
                key,
                tuple(
                    Entry(key, Decimal(amount), currency, date.fromisoformat(day) if day else None, status)
                    for _, amount, currency, day, status in islice(group, MOST_ROWS_OF_AN_ID)
                ),
            )

    def _sorted(self, side: str) -> Iterator[tuple[Any, ...]]:
        with temporary_space():  # sorting writes temporary files, too
            yield from self._database.execute(
                # SQLite compares strings by their UTF-8 bytes, which gives the same order as in Python.
                "SELECT key, amount, currency, day, status FROM entry WHERE side = ? ORDER BY key, rowid",
                (side,),
            )
