"""Which responses hang together: the proof that nothing between them was lost.

A response is *linked* when it begins at the list's first row, or shares a row with a response that is linked already.
From the first row to a linked response that shows the list's end there is then a path of responses in which neighbors
share a row. Take any invoice that existed throughout the read, while the rows that stay kept their order: it is
before the first shared row of the path, or between two of them, or after the last; in each case it lies inside one
response, which is a whole, contiguous piece of the list. So it was read, whatever was inserted or deleted meanwhile,
and in whatever order the windows were fetched. `docs/completeness.md` has the argument at length.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_unpod.billing.reading.order import OrderWitness

if TYPE_CHECKING:
    from airflow_provider_unpod.billing.invoice import Invoice, InvoiceId
    from airflow_provider_unpod.billing.reading.windows import Window, WindowPage


class Unlinkable(Exception):
    """Windows cannot be linked on this server, or must not be believed; the text says why. Whole passes may do."""


class Link(NamedTuple):
    """How a response was linked."""

    fresh: list[Invoice]  # the invoices not read before
    #: Its shared rows are where they were before, in responses to *other* windows with the same ``count``: nothing
    #: has shifted in between, and the server gave the window that was asked for.
    in_place: bool


@dataclass(slots=True)
class _Accepted:
    window: Window
    end: int
    keys: tuple[InvoiceId, ...]
    count: int | None
    drift: int  # by how much rows around here have shifted since the first response, as far as links show


@dataclass
class Links:
    """All linked responses, and how far into the list they reach.

    :param slack: by how many rows a shared row may have shifted without ``count`` saying so. A row farther off than
        that is taken for one that changed its place in the list, and links nothing.
    """

    slack: int
    order: OrderWitness = field(default_factory=OrderWitness)
    #: The offset up to which everything is read, in today's positions as far as known.
    reach: int = 0

    _accepted: list[_Accepted] = field(default_factory=list)
    _found_in: dict[InvoiceId, int] = field(default_factory=dict)  # the latest response that holds it
    _frontier: int = 0

    def __len__(self) -> int:
        return len(self._accepted)

    def __contains__(self, key: object) -> bool:
        return key in self._found_in

    @property
    def invoices(self) -> int:
        """How many different invoices were read."""
        return len(self._found_in)

    def add(self, page: WindowPage) -> Link | None:
        """Link a response; ``None`` where it shares no row with those before.

        :raises Unlinkable: if it contradicts what linking rests on.
        """
        keys = tuple([invoice.key for invoice in page.invoices])
        if len(set(keys)) < len(keys):
            raise Unlinkable("one response held the same invoice twice")
        shifts = self._shifts(page, keys)
        root = page.window.start == 0
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
        """By how much each shared row moved, and the response it was in; without those that moved unbelievably far."""
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
        if not goes_on:  # nothing new at its end; it may still lead on from the response that had got farthest
            frontier = self._accepted[self._frontier]
            goes_on = keys[-1] not in frontier.keys and any(found == self._frontier for _, found in shifts)
        if shifts and not root:
            shift, found = shifts[-1]
            drift = self._accepted[found].drift + shift
        self._accepted.append(_Accepted(page.window, page.end, keys, page.count, drift))
        self._found_in.update(dict.fromkeys(keys, index))
        if goes_on:
            self._frontier, self.reach = index, page.end
        else:  # it shows where the rows of the farthest response have got to
            self.reach = max(1, frontier.end + drift - frontier.drift)
