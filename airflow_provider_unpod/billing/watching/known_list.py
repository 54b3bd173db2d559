"""What is known of a list in strict order of its ids: the ids, their statuses, and hints of their rows.

A response replaces everything that was known about the part of the list that it spans. Rows are only hints: a wrong
hint costs a request, never a result.
"""

from __future__ import annotations

import sys
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, TypeAlias

from airflow_provider_unpod.billing.invoice import SETTLED_STATUSES, Invoice, InvoiceId

if TYPE_CHECKING:
    from airflow_provider_unpod.billing.watching.answers import Answer, IdOrder, Place

#: The rows from and before which a place must be, each with the place of the known invoice next to it.
Neighbors: TypeAlias = "tuple[int, Place | None, int, Place | None]"


class KnownList:
    """The known part of a list. Not thread-safe.

    :param order: the order of the list.
    :param statuses: statuses of all its invoices, if the list was read completely.
    """

    def __init__(self, order: IdOrder, statuses: dict[InvoiceId, str] | None = None) -> None:
        self.order = order
        #: Number of rows, according to the latest ``count``.
        self.total = len(statuses or ())
        self.statuses = {} if statuses is None else statuses
        #: Keys of all known invoices that are not settled.
        self.open = {key for key, status in self.statuses.items() if status not in SETTLED_STATUSES}
        #: Last statuses of invoices that were removed in this turn. They may turn up elsewhere.
        self.removed: dict[InvoiceId, str] = {}
        self._keys = sorted(self.statuses, key=order.place)
        # Hints: the row of the first invoice of each response. Those up to the next hint follow it directly.
        self._marks: list[Place] = []
        self._rows: list[int] = []
        if self._keys:
            self._marks, self._rows = [order.place(self._keys[0])], [0]

    @classmethod
    def recalled(cls, order: IdOrder, total: int, rows: dict[InvoiceId, int]) -> KnownList:
        """Return a list of which only the rows of some invoices are known."""
        known = cls(order, dict.fromkeys(rows, ""))
        known.total = total
        known._marks = [order.place(key) for key in known._keys]
        known._rows = [rows[key] for key in known._keys]
        return known

    @property
    def first(self) -> Place | None:
        """The place of the first known invoice."""
        return self.order.place(self._keys[0]) if self._keys else None

    @property
    def last(self) -> Place | None:
        """The place of the last known invoice."""
        return self.order.place(self._keys[-1]) if self._keys else None

    @property
    def has_texts(self) -> bool:
        """Whether ids are not integers, or not all of them."""
        return bool(self._keys) and (isinstance(self._keys[0], str) or isinstance(self._keys[-1], str))

    def neighbors(self, place: Place) -> Neighbors:
        """Return the rows between which an invoice at ``place`` is expected. They are equal if its row is known."""
        if not self._marks:
            return 0, None, self.total, None
        index = bisect_left(self._keys, place, key=self.order.place)
        low, high, before, behind = 0, self.total, None, None
        if index:
            before = self.order.place(self._keys[index - 1])
            low = self._row(before, index - 1) + 1
        if index < len(self._keys):
            behind = self.order.place(self._keys[index])
            high = self._row(behind, index)
            if behind == place:
                low = high
        return low, before, high, behind

    def row_of(self, place: Place) -> int | None:
        """Return the row where an invoice at ``place`` is expected. ``None`` if the rows around it are unknown."""
        low, _, high, _ = self.neighbors(place)
        return low if low == high else None

    def later(self, place: Place, row: int) -> Place | None:
        """Return the first place after ``place`` that is expected at ``row`` or behind. ``None`` if there is none."""
        index = bisect_left(self._keys, place, key=self.order.place)
        indices = range(len(self._keys))
        index = bisect_left(indices, row, index, key=lambda one: self._row(self.order.place(self._keys[one]), one))
        return self.order.place(self._keys[index]) if index < len(self._keys) else None

    def forget_rows(self) -> None:
        """Forget all hints of rows, because they mislead."""
        self._marks, self._rows = [], []

    def absorb(self, answer: Answer) -> list[Invoice]:
        """Replace the part that ``answer`` spans. Return the invoices that are new or have another status."""
        invoices = answer.page.invoices
        keys = [invoice.key for invoice in invoices]
        self._move_marks(answer, keys)
        span = answer.among(self._keys, key=self.order.place)
        if self._keys[span] != keys:
            for key in set(self._keys[span]).difference(keys):
                self.removed[key] = self.statuses.pop(key)
                self.open.discard(key)
            self._keys[span] = keys
        changed = []
        for invoice in invoices:
            key, status = invoice.key, sys.intern(invoice.status_key)
            before = self.statuses.get(key)
            if before != status:
                if before is not None or self.removed.pop(key, None) != status:
                    changed.append(invoice)
                self.statuses[key] = status
                (self.open.discard if status in SETTLED_STATUSES else self.open.add)(key)
        return changed

    def _move_marks(self, answer: Answer, keys: list[InvoiceId]) -> None:
        """Correct the hints: what is behind these rows has moved as far as the last known one among them."""
        span, start = answer.among(self._marks), answer.page.window.start
        if answer.is_cut:  # by a page limit, with which the server computes other rows
            self._marks[span], self._rows[span] = [], []
            return
        for row in range(len(keys) - 1, -1, -1) if self._marks else ():
            if keys[row] in self.statuses:
                place = self.order.place(keys[row])
                moved = start + row - self._row(place, bisect_left(self._keys, place, key=self.order.place))
                if moved:
                    self._rows[span.stop :] = [one + moved for one in self._rows[span.stop :]]
                break
        if not answer.blank:
            self._marks[span], self._rows[span] = ([self.order.place(keys[0])], [start]) if keys else ([], [])

    def _row(self, place: Place, index: int) -> int:
        """Return the row of a known invoice, counted from the nearest hint before it."""
        at = max(0, bisect_right(self._marks, place) - 1)
        away = index - bisect_left(self._keys, self._marks[at], key=self.order.place)
        return min(self.total, max(0, self._rows[at] + away))
