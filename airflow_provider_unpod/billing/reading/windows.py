"""Computes overlapping windows of a list that can only be requested by page number.

``page`` and ``page_size`` select the rows ``(page - 1) * page_size`` to ``page * page_size - 1``, so a window always
begins at a multiple of its size. Windows of different sizes can overlap nevertheless.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airflow_provider_unpod.billing.client import Page
    from airflow_provider_unpod.billing.invoice import Invoice

#: No server limits pages to fewer rows than this. A shorter response to a window of this size was not cut.
SMALLEST_LIMIT = 10
#: Most pages of a list, ten million rows at 100 per page. Without `count`, this is the only limit.
MAX_PAGES = 100_000
#: Most rows for which a chain is counted exactly. Longer chains are extrapolated.
_EXACT_ROWS = 100_000


class Window(NamedTuple):
    """The rows ``start`` to ``end - 1`` (0-based), where ``start`` is a multiple of ``size``."""

    start: int
    size: int

    @property
    def page(self) -> int:
        """The page number of this window in the API, from 1."""
        return self.start // self.size + 1

    @property
    def end(self) -> int:
        return self.start + self.size


@dataclass(frozen=True, slots=True)
class WindowPage:
    """A window and the page that the API returned for it."""

    window: Window
    page: Page

    @property
    def invoices(self) -> list[Invoice]:
        """The invoices, in list order."""
        return self.page.invoices

    @property
    def count(self) -> int | None:
        """``count`` of the response. ``None`` if it has none."""
        return self.page.count

    @property
    def past_end(self) -> bool:
        """Whether the API returned a 404, because the list ends before this window."""
        return self.page.past_end

    @property
    def end(self) -> int:
        """The row after the last row of the response."""
        return self.window.start + len(self.page.invoices)

    @property
    def short(self) -> bool:
        """Whether the response has fewer rows than requested."""
        return len(self.page.invoices) < self.window.size

    @property
    def shows_end(self) -> bool:
        """Whether the response is short and ends where its own ``count`` says."""
        return self.short and self.end == self.page.count

    @property
    def is_whole_list(self) -> bool:
        """Whether this one response contains the whole list, according to its own ``count``."""
        return self.window.start == 0 and self.shows_end


@lru_cache(maxsize=4096)
def farthest(row: int, cap: int) -> Window:
    """Return the window of at most ``cap`` rows that contains ``row`` and ends last. Of several, the largest."""
    # A plan for 200,000 rows calls this two thousand times before its second request, so the loop creates no objects.
    end, size = max([((row // size + 1) * size, size) for size in range(1, cap + 1)])
    return Window(end - size, size)


def chain(reach: int, cap: int) -> Iterator[Window]:
    """Yield windows from row ``reach`` on, forever. Each contains the last row of the one before.

    Each window is the one with the farthest end. This needs the fewest windows, since no other chain can get ahead of
    it. The chain stops if no window of at most ``cap`` rows gets any farther. This only happens if ``cap`` is below
    about a dozen rows: ``reach`` is then a multiple of every size.
    """
    while True:
        window = farthest(reach - 1, cap) if reach else Window(0, cap)
        if window.end <= reach:
            return
        yield window
        reach = window.end


@lru_cache(maxsize=64)
def chain_length(rows: int, cap: int) -> int | None:
    """Return how many linked windows cover ``rows`` rows and show the end. ``None`` if no chain can."""
    for number, (start, size) in enumerate(chain(0, cap), start=1):
        end = start + size
        if end > rows:  # not >=, because only a short response shows the end
            return number
    return None


def planned_requests(rows: int, cap: int) -> int:
    """Estimate the number of requests for ``rows`` rows in windows of at most ``cap`` rows."""
    exact = chain_length(min(rows, _EXACT_ROWS), cap)
    if exact is None:
        return rows // cap + 1
    return max(exact, -(-exact * rows // _EXACT_ROWS))


def ends_list(empty: WindowPage, fetch: Callable[[Window], WindowPage]) -> bool:
    """Return whether an empty response comes after the last row, and is not a page whose rows the server omits.

    It does if it is a 404, or if a page far after the end is an empty page, too.
    """
    if empty.past_end:
        return True
    far = fetch(Window(MAX_PAGES * empty.window.size, empty.window.size))
    return not far.invoices and not far.past_end
