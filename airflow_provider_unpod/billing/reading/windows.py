"""The geometry of a list that can only be asked for by page number: which windows to ask for.

``page`` and ``page_size`` name the rows ``(page - 1) * page_size`` to ``page * page_size - 1``, so a window can only
begin at a multiple of its size. By varying the size, windows can be made to overlap all the same.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

#: No server limits pages to fewer rows than this; below it a short answer says nothing about the server's limit.
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


def across(end: int, beyond: int, at_most: int, cap: int, before: Window) -> Window:
    """A window for a second look at a list's end: holds row ``end - 1`` and, where possible, ends after row ``beyond``.

    The largest such window of at most ``at_most`` rows, which a server that limits pages to that size still gives
    whole. Where there is none: one of at most ``at_most`` rows that gets as far as possible, or, where so few rows are
    no limit that a server would have, the smallest that reaches beyond. Not ``before``: the same question again would
    get the same answer.
    """
    row = max(end - 1, 0)
    windows = [Window(row // size * size, size) for size in range(1, cap + 1)]
    reaching = [window for window in windows if window.end > max(beyond, row) and window != before]
    small = [window for window in reaching if window.size <= at_most]
    if small:
        return small[-1]
    if at_most >= SMALLEST_LIMIT or not reaching:
        return farthest(row, min(cap, at_most) if at_most >= SMALLEST_LIMIT else cap)
    return reaching[0]


def after(row: int, by: int, cap: int) -> Window:
    """The largest window that begins at row ``row`` or later, but not after row ``by``."""
    return max(
        (Window(-(-row // size) * size, size) for size in range(1, cap + 1)), key=lambda w: (w.start <= by, w.size)
    )
