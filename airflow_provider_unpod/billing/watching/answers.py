"""What one response says about a list in strict order of its ids: exactly which ids exist between two of its places."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING, Any, TypeAlias

from airflow_provider_unpod.billing.invoice import match_key
from airflow_provider_unpod.billing.reading.order import direction_of, rank
from airflow_provider_unpod.billing.reading.windows import SMALLEST_LIMIT, Window

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow_provider_unpod.billing.invoice import InvoiceId
    from airflow_provider_unpod.billing.reading.windows import WindowPage

#: A place in the list: the rank of an id, and 0 for the id itself or 1 for directly after it. Places rise along the
#: list, whichever end is the newest.
Place: TypeAlias = tuple[Any, int]


class _Falling(tuple[Any, ...]):
    """A rank in a list whose ids fall."""

    __slots__ = ()

    def __lt__(self, other: Any) -> bool:
        return tuple.__gt__(self, other)


@dataclass(frozen=True, slots=True)
class IdOrder:
    """The order of a list by its ids."""

    newest_first: bool

    @classmethod
    def of(cls, keys: Sequence[InvoiceId]) -> IdOrder | None:
        """Return the strict order of ``keys``. ``None`` if they show none."""
        direction = direction_of(keys) if len(keys) > 1 else None
        return None if direction is None else cls(direction(2, 1))

    def holds(self, keys: Sequence[InvoiceId]) -> bool:
        """Return whether ``keys`` are in this order."""
        return len(keys) < 2 or IdOrder.of(keys) == self

    def place(self, key: InvoiceId) -> Place:
        """Return the place of an invoice, whether it exists or not."""
        return (_Falling(rank(key)) if self.newest_first else rank(key)), 0


def after(place: Place) -> Place:
    """Return the place directly after ``place``."""
    return place[0], 1


def key_at(place: Place) -> InvoiceId:
    """Return the id at a place."""
    _, number, text = place[0]
    return text or number  # type: ignore[no-any-return]  # an id, as in `rank`


@dataclass(frozen=True, slots=True)
class Answer:
    """The rows of one response, and the part of the list that they are all of.

    :ivar first: place from which on ``page`` has all rows. ``None`` is the start of the list.
    :ivar last: place up to which it has them. ``None`` is the end of the list.
    :ivar blank: whether the window is behind the list, so that the response spans nothing.
    """

    page: WindowPage
    first: Place | None
    last: Place | None
    blank: bool = False

    @property
    def is_cut(self) -> bool:
        """Whether it has fewer rows than requested although the list does not end there."""
        return self.page.short and self.last is not None

    def spans(self, place: Place) -> bool:
        """Return whether an invoice at ``place`` would be among the rows if it existed."""
        return not self.is_after(place) and (self.last is None or not self.last < place)

    def is_after(self, place: Place) -> bool:
        """Return whether ``place`` is before these rows."""
        return self.blank or (self.first is not None and place < self.first)

    def among(self, places: Sequence[Any], key: Callable[[Any], Place] | None = None) -> slice:
        """Return which of the sorted ``places`` it spans."""
        if self.blank:
            return slice(0, 0)
        start = 0 if self.first is None else bisect_left(places, self.first, key=key)
        return slice(start, len(places) if self.last is None else bisect_right(places, self.last, key=key))

    def by_number(self, order: IdOrder) -> Answer | None:
        """Return the same for invoice numbers instead of ids. ``None`` if they are not in the same order."""
        numbers = [match_key(str(invoice.raw.get("invoice_number"))) for invoice in self.page.invoices]
        if not order.holds(numbers):
            return None
        first, last = self.first and order.place(numbers[0]), self.last and order.place(numbers[-1])
        return Answer(self.page, first, last, self.blank)


@lru_cache(maxsize=4096)
def around(row: int, cap: int) -> Window:
    """Return the window of at most ``cap`` rows that tolerates the largest shift of ``row``."""
    windows = [Window(row // size * size, size) for size in range(1, cap + 1)]
    # The start of the list is no edge: nothing comes before it.
    return max(windows, key=lambda one: (min(row - one.start if one.start else cap, one.end - 1 - row), one.size))


def confirming(end: int) -> Window:
    """Return a window with the row before ``end`` whose response is certainly not cut if the list ends there.

    It has fewer than ten rows then, and no server limits pages to so few.
    """
    size = next(size for size in count(2) if 0 < end % size < SMALLEST_LIMIT)
    return Window(end // size * size, size)
