"""The geometry of a list that can only be asked for by page number: which windows to ask for.

``page`` and ``page_size`` name the rows ``(page - 1) * page_size`` to ``page * page_size - 1``, so a window can only
begin at a multiple of its size. By varying the size, windows can be made to overlap all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_unpod.billing.client import Page
    from airflow_provider_unpod.billing.invoice import Invoice

#: No server limits pages to fewer rows than this, so a shorter response to a window of this size was not cut.
SMALLEST_LIMIT = 10
#: Chains are counted window by window up to this many rows; longer ones are as dense.
_EXACT_ROWS = 100_000


class Window(NamedTuple):
    """The rows ``start`` to ``end - 1`` (0-based), where ``start`` is a multiple of ``size``."""

    start: int
    size: int

    @property
    def page(self) -> int:
        """The 1-based page number under which the API knows this window."""
        return self.start // self.size + 1

    @property
    def end(self) -> int:
        return self.start + self.size


@dataclass(frozen=True, slots=True)
class WindowPage:
    """A window, and the page that the API gave for it."""

    window: Window
    page: Page

    @property
    def invoices(self) -> list[Invoice]:
        """The rows, in the order of the list."""
        return self.page.invoices

    @property
    def count(self) -> int | None:
        """``count`` of the same response; ``None`` where it has none."""
        return self.page.count

    @property
    def past_end(self) -> bool:
        """Whether the API said, by a 404, that the list ends before this window."""
        return self.page.past_end

    @property
    def end(self) -> int:
        """The row after the last one that came, if the window began where it was asked for."""
        return self.window.start + len(self.page.invoices)

    @property
    def short(self) -> bool:
        """Whether fewer rows came than were asked for."""
        return len(self.page.invoices) < self.window.size

    @property
    def shows_end(self) -> bool:
        """Whether it is short, and ends with the list's last row by its own ``count``."""
        return self.short and self.end == self.page.count

    @property
    def is_whole_list(self) -> bool:
        """Whether one short response holds as many rows as its own ``count``: no second request is needed then."""
        return self.window.start == 0 and self.shows_end


@lru_cache(maxsize=4096)
def farthest(row: int, cap: int) -> Window:
    """Of the windows of at most ``cap`` rows that hold ``row``, the one that ends last (the largest, if several do)."""
    # A plan of 200,000 rows asks this two thousand times before its second request, hence no objects in the loop.
    end, size = max([((row // size + 1) * size, size) for size in range(1, cap + 1)])
    return Window(end - size, size)


def chain(reach: int, cap: int) -> Iterator[Window]:
    """Windows from row ``reach`` on without end, each holding the last row of the one before.

    Taking the farthest end each time needs the fewest windows: a chain that stops short anywhere can only be overtaken.
    Ends early where no window of at most ``cap`` rows gets on, which happens below about a dozen rows only: ``reach``
    is then a multiple of every size.
    """
    while True:
        window = farthest(reach - 1, cap) if reach else Window(0, cap)
        if window.end <= reach:
            return
        yield window
        reach = window.end


@lru_cache(maxsize=64)
def chain_length(rows: int, cap: int) -> int | None:
    """How many linked windows read ``rows`` rows and show their end; ``None`` where no chain can."""
    for number, (start, size) in enumerate(chain(0, cap), start=1):
        end = start + size
        if end > rows:  # strictly: only a window that comes short shows the end
            return number
    return None


def planned_requests(rows: int, cap: int) -> int:
    """About how many requests it takes to read ``rows`` rows by windows of at most ``cap``, for any number of rows."""
    whole, rest = divmod(rows, _EXACT_ROWS)
    exact = chain_length(_EXACT_ROWS if whole else rest, cap)
    if exact is None:
        return rows // cap + 1
    return exact * (whole + 1) if whole else exact
