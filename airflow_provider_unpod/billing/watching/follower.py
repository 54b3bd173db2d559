"""Follows a list in strict order of its ids: finds places in it, and reads the windows where they are.

A response says exactly which ids exist between its first and its last row. So a place is found by a search, and a
window that spans it shows whether an invoice is there.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.billing.errors import UnpodListUnstable
from airflow_provider_unpod.billing.reading.fetcher import Fetcher
from airflow_provider_unpod.billing.reading.windows import SMALLEST_LIMIT, Window, WindowPage, farthest
from airflow_provider_unpod.billing.watching.answers import Answer, IdOrder, Place, after, around, confirming, key_at
from airflow_provider_unpod.billing.watching.known_list import KnownList
from airflow_provider_unpod.billing.watching.search import Search

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from airflow_provider_unpod.billing.invoice import InvoiceId
    from airflow_provider_unpod.billing.watching.look import CountedSource, Look

#: Most requests of one search. On a list that does not change, 17 are enough for 200,000 invoices.
_PATIENCE = 24
#: Rounds in which all windows of the wanted invoices are requested together, before the rest is searched one by one.
_ROUNDS = 2
#: Number of windows requested together. Their rows are in memory at the same time.
_TOGETHER = 16
#: Most invoices that :meth:`Follower.memory` remembers.
REMEMBERED = 1_000
#: With a smaller page limit, there are rows that no window crosses.
_SMALLEST_PAGE = 19


class NotInOrder(Exception):
    """The list cannot be followed: it is in no strict order of ids, has no ``count``, or pages are unusable."""


class Follower:
    """Follows a list in strict order of its ids. All methods that request pages raise :class:`NotInOrder`.

    :param known: what is known of the list.
    """

    def __init__(self, source: CountedSource, known: KnownList) -> None:
        self._source = source
        self.known = known
        self._cap: int | None = None  # most rows per page. None: page 1 will show it
        self._longest = 0  # rows of the longest response
        self._density = 1.0  # rows per number in the ids
        # Up to here, new invoices have been looked for.
        self._landed = known.first if known.order.newest_first else known.last
        self._cursor: Place | None = None  # up to here, the list was read in turn. None is its start
        self._ids: frozenset[InvoiceId] = frozenset()
        self._places: list[Place] = []  # of these ids, sorted

    @classmethod
    def recalled(cls, source: CountedSource, memory: Mapping[str, Any]) -> Follower:
        """Return a follower that continues from the :meth:`memory` of another one."""
        order = IdOrder(memory["newest_first"])
        follower = cls(source, KnownList.recalled(order, memory["count"], dict(memory["rows"])))
        if memory["rows"]:  # otherwise page 1 is a better start
            follower._cap = memory["page_size"]
        follower._landed = None if memory["landed"] is None else order.place(memory["landed"])
        if memory["in_turn"] is not None:
            follower._cursor = after(order.place(memory["in_turn"]))
        return follower

    def memory(self, found: Iterable[InvoiceId]) -> dict[str, Any]:
        """Return JSON data about where these invoices are."""
        known = self.known
        keys = sorted((key for key in found if key in known.statuses), key=known.order.place)
        keys = keys[:: -(-len(keys) // REMEMBERED) or 1]  # of all pages
        rows = {key: known.row_of(known.order.place(key)) for key in keys}
        return {
            "newest_first": known.order.newest_first,
            "page_size": self._cap,
            "count": known.total,
            "rows": [[key, row] for key, row in rows.items() if row is not None],
            "landed": None if self._landed is None else key_at(self._landed),
            "in_turn": None if self._cursor is None else key_at(self._cursor),
        }

    @property
    def full_cost(self) -> int:
        """Requests of a complete read at least."""
        return self.known.total // self._size

    def distrust_rows(self) -> None:
        """Learn again which rows the server gives, because it may have another page limit now."""
        self._cap = None
        self.known.forget_rows()

    def follow(self, look: Look) -> bool:
        """Read the windows of the wanted invoices and, if everything is wanted, the one where new ones appear.

        :returns: ``False`` if that would need more requests than to read the whole list.
        """
        if self._cap is None:
            self.learn_limit(get_page_1(self._source), look)
        if look.everything:
            self._read_new(look)
        if not self._read_places(look):
            return False
        self._read_numbers(look)
        return True

    def learn_limit(self, page: WindowPage, look: Look) -> None:
        """Learn from page 1 how many rows the server gives per page."""
        rows, count = len(page.invoices), page.count
        if count is None:
            raise NotInOrder
        limited = page.short and not page.is_whole_list and rows < count
        self._cap = rows if limited else self._source.page_size
        if self._cap < _SMALLEST_PAGE and not page.is_whole_list:
            raise NotInOrder  # until a complete read has passed, after which page 1 may show another limit
        # Page 1 begins at the first row whatever the limit. With it, the response is a full page.
        self._take(WindowPage(Window(0, self._cap), page.page), look)

    def _read_new(self, look: Look) -> None:
        """Read from the newest invoice to the newest one of the last time, or the other way around."""
        known, landed = self.known, self._landed
        if known.order.newest_first:
            window = Window(0, self._size)
            answer = next((one for one in look.answers if one.page.window.start == 0), None) or self._ask(window, look)
            newest = answer.page.invoices
            while landed is not None and answer.last is not None and answer.last < landed:
                answer = self._read_on(answer.last, answer.page.end, look)
        else:
            last_row = max(0, known.total - 1)
            answer = self._seek(landed, look) if landed else self._ask(around(last_row, self._size), look)
            while answer.last is not None:
                answer = self._read_on(answer.last, answer.page.end, look)
            newest = answer.page.invoices[-1:]
        if newest:
            self._landed = known.order.place(newest[0].key)

    def _read_places(self, look: Look) -> bool:
        """Read the windows of all wanted invoices: first together, then those that were not where they should be.

        If that needs too many requests, the whole list is read instead. Then the result is ``False``.
        """
        todo = look.not_spanned(self._places_of(look))
        for _ in range(_ROUNDS):
            if todo:
                self._ask_all(self._windows_of(todo), look)
                todo = look.not_spanned(todo)
        most = self.known.total // self._size
        for place in todo:
            if self._source.requests - look.began > most + _PATIENCE:
                return False
            self._seek(place, look)
        return True

    def _read_numbers(self, look: Look) -> None:
        """Search for the invoices whose numbers are wanted, once for each: their order is only a hint.

        After that, they are found among the new invoices, or in turn.
        """
        missing = look.names & look.missing
        if missing and not look.everything and (look.numbered or not look.answers):
            self._read_new(look)
        order = self.known.order
        for name in missing & look.missing - look.numbers.keys() if look.numbered else ():
            place = order.place(name)
            search = Search(place, (0, None, self.known.total, None), self._density, self._size)
            answers = iter(list(look.answers))
            for _ in range(_PATIENCE + len(look.answers)):
                answer = next(answers, None) or self._ask(around(search.row(), self._size), look)
                numbers = answer.by_number(order)
                if numbers is None or numbers.spans(place):
                    look.unsearchable |= numbers is None
                    break
                search.narrow(numbers)

    # --- windows in turn

    def knows_next(self, look: Look) -> bool:
        """Return whether a window in turn can be read now. Move the cursor over what this poll has read already."""
        answers = [one for one in look.answers if not one.blank]
        while answer := next((one for one in answers if self._is_next(one)), None):
            self._cursor = answer.last and after(answer.last)
            if self._cursor is None:  # a turn ends at the end of the list
                self._cap = None  # the next turn asks for full pages again
                self.known.removed.clear()
                break
        return self._cap is not None

    def read_next(self, look: Look) -> None:
        """Read the next window in turn."""
        if self._cursor is None:
            self._ask(Window(0, self._size), look)
        else:
            self._read_on(self._cursor, self.known.neighbors(self._cursor)[0], look)

    def _is_next(self, answer: Answer) -> bool:
        return answer.first is None if self._cursor is None else answer.spans(self._cursor)

    # --- requests

    def _read_on(self, last: Place, end: int, look: Look) -> Answer:
        """Read the window that continues after ``last``, whose next row is ``end``."""
        return self._seek(after(last), look, farthest(max(0, end - 2), self._size))

    def _seek(self, place: Place, look: Look, window: Window | None = None) -> Answer:
        """Return a response of this poll that spans ``place``.

        :param window: where to look first.
        """
        held = look.spanning(place)
        if held is not None:
            return held
        search = Search(place, self.known.neighbors(place), self._density, self._size)
        for _ in range(_PATIENCE):
            answer = self._ask(window or around(search.row(), self._size), look)
            held = look.spanning(place)  # it may be another one, which confirmed the end of the list
            if held is not None:
                return held
            search.narrow(answer)
            window = None
        raise UnpodListUnstable(
            f"Try again when fewer invoices change: {_PATIENCE} requests did not find the place of an invoice, because "
            "the list changed faster than it could be read."
        )

    def _ask_all(self, windows: Iterator[Window], look: Look) -> None:
        """Read these windows, several at a time."""
        together = list(windows)
        for start in range(0, len(together), _TOGETHER):
            batch = together[start : start + _TOGETHER]
            fetcher = Fetcher(self._source, min(self._source.max_concurrency, len(batch)))
            fetcher.limit = len(batch)
            try:
                for window in batch:
                    fetcher.ask(window)
                for _ in batch:
                    self._take(fetcher.take(), look)
            finally:
                fetcher.close()

    def _ask(self, window: Window, look: Look) -> Answer:
        return self._take(self._get(window), look)

    def _get(self, window: Window) -> WindowPage:
        return WindowPage(window, self._source.get_page(window.page, window.size))

    def _take(self, page: WindowPage, look: Look, *, confirms: bool = False) -> Answer:
        """Learn what a response says.

        :param confirms: whether it was requested only to see whether the list ends there.
        """
        known, keys = self.known, [invoice.key for invoice in page.invoices]
        ignores_size = len(keys) > page.window.size
        if ignores_size or not known.order.holds(keys):
            raise NotInOrder
        at_start, blank = page.window.start == 0, not keys
        if at_start and blank and page.count:
            raise UnpodListUnstable(f"Try later: page 1 had no rows, although `count` was {page.count}.")
        counted = known.total if page.count is None else page.count
        known.total = min(known.total, page.window.start) if blank else max(counted, page.end)
        if len(keys) > 1:
            numbers = [known.order.place(key)[0][1] for key in (keys[0], keys[-1])]
            self._density = (len(keys) - 1) / max(1, abs(numbers[1] - numbers[0]))
        self._longest = max(self._longest, len(keys))
        first = None if at_start or blank else known.order.place(keys[0])
        last = None if blank or self._shows_end(page) else known.order.place(keys[-1])
        answer = Answer(page, first, last, blank and not at_start)
        changed = known.absorb(answer)
        look.add(answer)
        if look.everything:
            look.report(changed)
        if answer.is_cut and not confirms:
            end = self._take(self._get(confirming(page.end)), look, confirms=True)
            if end.last is not None or end.blank:
                self.distrust_rows()
        return answer

    def _shows_end(self, page: WindowPage) -> bool:
        """Return whether ``page`` is short because the list ends, and not because the server limits pages."""
        if not page.short:
            return False
        if page.is_whole_list or len(page.invoices) < SMALLEST_LIMIT:
            return True
        last = self.known.last
        nothing_behind = last is None or not self.known.order.place(page.invoices[-1].key) < last
        return page.shows_end and page.window.size <= self._longest and nothing_behind

    # --- what the wanted invoices are in a list in order

    def _places_of(self, look: Look) -> list[Place]:
        """Return the sorted places of all invoices that this poll must read."""
        ids = look.keys - look.names
        ids |= {key for name in look.names if (key := look.numbers.get(name)) is not None}
        if self.known.has_texts:
            ids |= look.names
        else:
            ids |= look.names & self.known.statuses.keys()
        if look.everything:
            ids |= self.known.open
        if ids != self._ids:
            self._ids, self._places = frozenset(ids), sorted(map(self.known.order.place, ids))
        return self._places

    def _windows_of(self, places: Sequence[Place]) -> Iterator[Window]:
        """Yield windows for these places, as far as their rows are known. Several on one page share it."""
        index = 0
        while index < len(places):
            place, stop = places[index], index + 1
            row = self.known.row_of(place)
            if row is not None:
                page = Window(row // self._size * self._size, self._size)
                beyond = self.known.later(place, page.end)
                stop = max(stop, len(places) if beyond is None else bisect_left(places, beyond))
                yield page if stop - index > 1 else around(row, self._size)
            index = stop

    @property
    def _size(self) -> int:
        return self._cap or self._source.page_size


def get_page_1(source: CountedSource) -> WindowPage:
    """Request the first page in full size."""
    return WindowPage(Window(0, source.page_size), source.get_page(1, source.page_size))
