"""Links responses to one another. Linked responses prove that no invoice between them is missing.

A response is *linked* if it begins at the first row of the list, or shares a row with a linked response. From the first
row to the end of the list there is then a path of responses in which neighbors share a row.

Take any invoice that existed during the whole read, and assume that the remaining rows keep their order. The invoice is
before the first shared row of the path, between two shared rows, or after the last. In each case it is inside one
response, which is a contiguous part of the list. So it was read, although other rows were inserted or deleted, and in
whatever order the windows were fetched. `docs/completeness.md` explains the proof in detail.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_unpod.billing.reading.order import OrderWitness

if TYPE_CHECKING:
    from airflow_provider_unpod.billing.invoice import Invoice, InvoiceId
    from airflow_provider_unpod.billing.reading.windows import Window, WindowPage


class Unlinkable(Exception):
    """Windows cannot be linked on this server. The message says why. Repeated passes may still work."""


class Link(NamedTuple):
    """The result of linking a response.

    :param fresh: the new invoices.
    :param in_place: whether all shared rows are where they were in responses to *other* windows with the same
        ``count``. If so, nothing has shifted, and the server returned the requested window.
    """

    fresh: list[Invoice]
    in_place: bool


@dataclass(slots=True)
class _Accepted:
    window: Window
    end: int
    keys: tuple[InvoiceId, ...]
    count: int | None
    drift: int  # rows by which this part of the list has shifted since the first response


@dataclass
class Links:
    """All linked responses, and the row up to which they cover the list.

    :param slack: most rows by which a shared row may shift without a change of ``count``. A row that shifted more is
        assumed to have moved within the list, and does not link.
    """

    slack: int
    order: OrderWitness = field(default_factory=OrderWitness)
    #: Row up to which the list is covered, in current positions as far as they are known.
    reach: int = 0
    #: Whether a response shared no row with earlier ones, or had a shared row in another place.
    moved: bool = False

    _accepted: list[_Accepted] = field(default_factory=list)
    _found_in: dict[InvoiceId, int] = field(default_factory=dict)  # index of the latest response with this invoice
    _frontier: int = 0

    def __len__(self) -> int:
        return len(self._accepted)

    def __contains__(self, key: object) -> bool:
        return key in self._found_in

    @property
    def invoices(self) -> int:
        """The number of different invoices read."""
        return len(self._found_in)

    def add(self, page: WindowPage) -> Link | None:
        """Link a response. Return ``None`` if it shares no row with the linked ones.

        :raises Unlinkable: if the response shows that the order of the list is not fixed.
        """
        keys = tuple([invoice.key for invoice in page.invoices])
        if len(set(keys)) < len(keys):
            raise Unlinkable("a response listed the same invoice twice")
        shifts = self._shifts(page, keys)
        root = page.window.start == 0
        self.moved = self.moved or any(shift for shift, _ in shifts) or not (root or shifts)
        if not (root or shifts):
            return None
        fresh = [invoice for invoice in page.invoices if invoice.key not in self._found_in]
        in_place = bool(shifts) and all(
            shift == 0 and self._accepted[found].count == page.count and self._accepted[found].window != page.window
            for shift, found in shifts
        )
        self._advance(page, keys, shifts, root)
        self.order.observe(page.invoices)
        return Link(fresh, in_place)

    def _shifts(self, page: WindowPage, keys: tuple[InvoiceId, ...]) -> list[tuple[int, int]]:
        """Return how far each shared row shifted, and the response it was in. Rows that shifted too far are omitted."""
        shifts = []
        last_in: dict[int, int] = {}
        shared = [(i, found) for i, key in enumerate(keys) if (found := self._found_in.get(key)) is not None]
        for i, found in shared:
            earlier = self._accepted[found]
            position = earlier.keys.index(keys[i])
            if position <= last_in.get(found, -1):
                raise Unlinkable("invoices changed their order in the list")
            last_in[found] = position
            shift = page.window.start + i - (earlier.window.start + position)
            by_count = 0 if page.count is None or earlier.count is None else abs(page.count - earlier.count)
            if abs(shift) <= self.slack + by_count:
                shifts.append((shift, found))
        return shifts

    def _advance(
        self, page: WindowPage, keys: tuple[InvoiceId, ...], shifts: list[tuple[int, int]], root: bool
    ) -> None:
        index = len(self._accepted)
        goes_on = root or (bool(keys) and keys[-1] not in self._found_in)
        drift = 0
        if not goes_on:  # no new invoice at its end, but it may still continue the response that reaches farthest
            frontier = self._accepted[self._frontier]
            goes_on = keys[-1] not in frontier.keys and any(found == self._frontier for _, found in shifts)
        if shifts and not root:
            shift, found = shifts[-1]
            drift = self._accepted[found].drift + shift
        self._accepted.append(_Accepted(page.window, page.end, keys, page.count, drift))
        self._found_in.update(dict.fromkeys(keys, index))
        if goes_on:
            self._frontier, self.reach = index, page.end
        else:  # it shows how far the rows of the farthest response have shifted
            self.reach = max(1, frontier.end + drift - frontier.drift)
