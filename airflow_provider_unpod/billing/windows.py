"""The geometry of a list that can only be asked for by page number: which windows to ask for.

``page`` and ``page_size`` name the rows ``(page - 1) * page_size`` to ``page * page_size - 1``, so a window can only
begin at a multiple of its size. By varying the size, windows can be made to overlap all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple


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
    return max((Window(row // size * size, size) for size in range(1, cap + 1)), key=lambda w: (w.end, w.size))


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
    for number, window in enumerate(chain(0, cap), start=1):
        if window.end > rows:  # strictly: only a window that comes short shows the end
            return number
    return None


def across(end: int, beyond: int, at_most: int, cap: int) -> Window:
    """A window that holds row ``end - 1`` and ends after row ``beyond``, to look at a list's end once more.

    As large as possible within ``at_most`` rows; the smallest that gets there where none of those does.
    """
    candidates = [Window((end - 1) // size * size, size) for size in range(1, cap + 1)] if end else [Window(0, cap)]
    reaching = [window for window in candidates if window.end > beyond]
    small = [window for window in reaching if window.size <= at_most]
    if small:
        return small[-1]
    return reaching[0] if reaching else farthest(max(end - 1, 0), cap)
