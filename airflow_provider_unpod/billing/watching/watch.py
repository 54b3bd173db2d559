"""Follows the list of invoices in few requests: finds one, or polls many again and again.

In a list in strict order of its ids, one response says exactly which ids exist between its first and its last row. So a
poll reads the windows where the wanted invoices are, the window where new invoices appear, and more windows in turn, so
that the whole list is read again bit by bit. A response that spans an id and does not contain it is enough for "not
yet". Only a complete read proves that an invoice does not exist, because it may be inserted out of order.

A list in no such order is read completely, as often as the allowance of the day permits.
"""

from __future__ import annotations

import logging
import sys
from bisect import bisect_left
from contextlib import contextmanager
from datetime import datetime, timezone
from itertools import count as numbers
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.billing.errors import UnpodListUnstable
from airflow_provider_unpod.billing.invoice import Invoice, InvoiceId, match_key
from airflow_provider_unpod.billing.reading.fetcher import Fetcher, PageSource
from airflow_provider_unpod.billing.reading.order import BY_ID
from airflow_provider_unpod.billing.reading.reading import read_list
from airflow_provider_unpod.billing.reading.windows import SMALLEST_LIMIT, Window, WindowPage, farthest
from airflow_provider_unpod.billing.watching.allowance import Allowance
from airflow_provider_unpod.billing.watching.answers import Answer, IdOrder, Place, after, around, key_at
from airflow_provider_unpod.billing.watching.known_list import KnownList
from airflow_provider_unpod.billing.watching.look import CountedSource, Look
from airflow_provider_unpod.billing.watching.search import Search
from airflow_provider_unpod.billing.watching.subscriptions import TRANSIENT, Postponed, Snapshot, Wanted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from airflow_provider_unpod.billing.reading.evidence import Evidence

log = logging.getLogger(__name__)

#: Most requests of one search. On a list that does not change, 17 are enough for 200,000 invoices.
_PATIENCE = 24
#: Rounds in which all windows of the wanted invoices are requested together, before the rest is searched one by one.
_ROUNDS = 2
#: Number of windows requested together. Their rows are in memory at the same time.
_TOGETHER = 16
#: Most invoices whose rows are remembered.
_REMEMBERED = 1_000
#: Most windows that one poll reads in turn.
_MOST_IN_TURN = 10
#: With a smaller page limit, there are rows that no window crosses.
_SMALLEST_PAGE = 19
#: Number of polls in a row that found the list unstable, until it is read completely.
_UNSTABLE_POLLS = 3


class _NotInOrder(Exception):
    """The list cannot be followed: it is in no strict order of ids, has no ``count``, or pages are unusable."""


class ListWatch:
    """Follows the invoices of one organization. Use it from one thread at a time.

    :param source: client that requests the pages.
    :param allowance: requests beyond what each poll needs. Default: ``DAILY_REQUESTS`` a day.
    :param memory: :meth:`memory` of an earlier watch of the same list.
    """

    def __init__(
        self, source: PageSource, allowance: Allowance | None = None, memory: Mapping[str, Any] | None = None
    ) -> None:
        self._source = CountedSource(source)
        self._allowance = allowance or Allowance()
        self._polls = 0
        self._list: KnownList | None = None  # None: the order is not known yet, or the list has none
        self._in_order = True
        self._was_in_order = False  # so it may be again
        self._numbered = False  # rows have a number beside their id
        self._statuses: dict[InvoiceId, str] = {}  # after a complete read, of all invoices
        self._complete = False
        self._succeeded = False
        self._unstable = 0  # polls in a row
        self._absent: dict[InvoiceId, int] = {}  # from key to the poll that proved its absence
        self._untold: set[InvoiceId] = set()  # changed, and in no snapshot yet
        self._removed: dict[InvoiceId, str] = {}  # last statuses; they may turn up elsewhere
        self._numbers: dict[InvoiceId, InvoiceId] = {}  # from wanted invoice number to id
        self._cap: int | None = None  # most rows per page. None: page 1 will show it
        self._longest = 0  # rows of the longest response
        self._density = 1.0  # rows per number in the ids
        self._landed: Place | None = None  # up to here, new invoices have been looked for
        self._cursor: Place | None = None  # up to here, the list was read in turn. None is its start
        self._cost = 1  # requests of the latest complete read
        self._explained = False
        self._ids: frozenset[InvoiceId] = frozenset()
        self._places: list[Place] = []  # of these ids, sorted
        if memory:
            self._recall(memory)

    def statuses(self) -> dict[InvoiceId, str]:
        """Return a copy of the last known status of all known invoices."""
        return dict(self._statuses)

    def cancel(self) -> None:
        """Cancel the poll that runs in another thread. It raises ``Cancelled`` there."""
        self._source.cancellation.cancel()

    def locate(self, invoice_id: InvoiceId) -> Invoice | None:
        """Return the current invoice, or ``None`` if a complete read has proved that it is not in the list.

        :param invoice_id: ``id`` or ``invoice_number`` of the invoice. ``101`` and ``"101"`` are the same.
        :raises UnpodError: if the list cannot be read.
        """
        key = match_key(invoice_id)
        seen = self.poll(Wanted({key}, {key: self._polls}))
        assert isinstance(seen, Snapshot)  # because a proof is never postponed
        return seen.rows.get(key)

    def memory(self) -> dict[str, Any] | None:
        """Return JSON data about where the wanted invoices are. ``None`` if the list is in no order."""
        if self._list is None:
            return None
        known = self._list
        keys = [key for key in self._ids if key in known.statuses][:_REMEMBERED]
        rows = {key: known.row_of(known.order.place(key)) for key in keys}
        return {
            "newest_first": known.order.newest_first,
            "page_size": self._cap,
            "count": known.total,
            "rows": [[key, row] for key, row in rows.items() if row is not None],
            "numbers": [[name, key] for name, key in self._numbers.items()][:_REMEMBERED],
            "in_turn": None if self._cursor is None else key_at(self._cursor),
        }

    def _recall(self, memory: Mapping[str, Any]) -> None:
        """Continue from :meth:`memory`."""
        order = IdOrder(memory["newest_first"])
        self._list = KnownList.recalled(order, memory["count"], dict(memory["rows"]))
        self._statuses, self._succeeded, self._was_in_order = self._list.statuses, True, True
        self._numbers = dict(memory["numbers"])
        if memory["rows"]:  # otherwise page 1 is a better start
            self._cap = memory["page_size"]
        if memory["in_turn"] is not None:
            self._cursor = after(order.place(memory["in_turn"]))

    def poll(self, wanted: Wanted, *, number: int | None = None, last: bool = False) -> Snapshot | Postponed:
        """Poll the list once.

        :param number: number of this poll. Default: the previous number plus 1.
        :param last: whether no poll follows, so that this one must not be postponed.
        :raises UnpodError: if the list cannot be read. The next successful poll reports the changes seen until then.
        """
        self._polls = self._polls + 1 if number is None else number
        look = Look(wanted, self._untold, self._source.requests)
        first, read = not self._succeeded, None
        try:
            read = self._read(look, last=last)
        except UnpodListUnstable:
            self._unstable += 1
            self._distrust_rows()
            raise
        finally:
            needed = self._source.requests - look.began - look.in_turn
            self._allowance.spend_on_poll(needed, first=first and read is not None)
        if not read:
            return Postponed(self._polls, datetime.now(timezone.utc))
        self._succeeded, self._unstable = True, 0
        self._absent = {key: poll for key, poll in self._absent.items() if key in look.certain and key in look.missing}
        self._numbers = {name: key for name, key in self._numbers.items() if name in look.rows}
        changed, self._untold = tuple(self._untold & look.rows.keys()), set()
        first = first or look.baseline
        return Snapshot(self._polls, datetime.now(timezone.utc), look.rows, changed, self.statuses, first)

    def _read(self, look: Look, *, last: bool) -> bool:
        """Read what this poll needs. Return whether it was read, and not postponed."""
        look.baseline = look.everything and not self._complete
        needed = last or look.baseline or not self._succeeded
        if self._in_order and not look.baseline:
            if _is_due(self._unstable):
                self._read_all(look)
                return True
            try:
                self._follow(look)
            except _NotInOrder:
                self._list, self._in_order = None, False
                if not look.everything and not look.missing:
                    return True  # the next poll reads everything
            else:
                blind = (last and look.missing) or (look.unsearchable and not self._succeeded)
                if not self._unproved(look) and not blind:
                    self._read_in_turn(look)
                    return True
        if needed or self._unproved(look) or self._full_cost == 1:
            self._read_all(look)
            return True
        if not self._allowance.grants(self._full_cost):
            self._explain_postponing()
            return False
        with self._from_allowance(look):
            self._read_all(look)
        return True

    def _distrust_rows(self) -> None:
        """Learn again which rows the server gives, because it may have another page limit now."""
        self._cap = None
        if self._list is not None:
            self._list.forget_rows()

    def _explain_postponing(self) -> None:
        if not self._explained:
            self._explained = True
            log.info(
                "The list is in no order of its ids, or has no `count`, so it must be read completely: about %s "
                "requests, as often as the %s `daily_requests` of the connection allow.",
                f"{self._full_cost:,}",
                f"{self._allowance.daily:,}",
            )

    @property
    def _full_cost(self) -> int:
        """Requests of a complete read, as far as known."""
        return max(self._cost, self._list.total // self._size if self._list else 1)

    @contextmanager
    def _from_allowance(self, look: Look) -> Iterator[None]:
        """Count the requests in this block as not needed by the poll."""
        before = self._source.requests
        try:
            yield
        finally:
            look.in_turn += self._source.requests - before
            self._allowance.spend(self._source.requests - before)

    def _unproved(self, look: Look) -> bool:
        """Return whether an invoice is missing whose absence must be proved and is not."""
        return any(self._absent.get(key, 0) <= since for key, since in look.certain.items() if key in look.missing)

    # --- complete reads

    def _read_all(self, look: Look) -> None:
        """Read the whole list. If the list is in no order and a few invoices are wanted, stop when they are found."""
        statuses: dict[InvoiceId, str] = {}
        changed: dict[InvoiceId, Invoice] = {}
        ends: list[InvoiceId] = []
        compare, whole = look.everything and self._complete, look.everything or self._in_order or self._was_in_order
        before = self._source.requests
        with read_list(self._source) as reading:
            for invoice in reading:
                key = invoice.key
                status = statuses[key] = sys.intern(invoice.status_key)
                ends[1:] = [key]
                look.see(invoice, self._numbers)
                if compare and self._statuses.get(key, self._removed.get(key)) != status:
                    changed[key] = invoice
                if not whole and not look.missing:
                    self._cost = self._source.requests - before
                    return
            evidence = reading.evidence
        look.rows.update(changed)
        self._untold.update(changed)
        self._absent.update(dict.fromkeys(look.missing & look.certain.keys(), self._polls))
        self._continue_from(statuses, ends, evidence)

    def _continue_from(self, statuses: dict[InvoiceId, str], ends: list[InvoiceId], evidence: Evidence) -> None:
        order = IdOrder.of(ends) if evidence.order == BY_ID and evidence.count_last is not None else None
        self._statuses, self._complete, self._cost, self._unstable = statuses, True, evidence.requests, 0
        self._list, self._in_order, self._cap, self._cursor = None, order is not None, None, None
        self._removed, self._ids, self._places = {}, frozenset(), []
        if order is not None:
            self._list, self._was_in_order = KnownList(order, statuses), True
            self._landed = self._list.first if order.newest_first else self._list.last

    # --- what a poll needs of a list in order

    def _follow(self, look: Look) -> None:
        """Read the windows of the wanted invoices and, if everything is wanted, the one where new ones appear."""
        if self._cap is None:
            self._learn_from_page_1(look)
        if look.everything:
            self._read_new(look)
        if self._read_places(look):
            self._read_numbers(look)

    def _learn_from_page_1(self, look: Look) -> None:
        """Find out the order of the list and how many rows the server gives per page."""
        page = self._get(Window(0, self._source.page_size))
        rows, count = len(page.invoices), page.count
        if count is None:
            raise _NotInOrder
        if self._list is None:
            order = IdOrder.of([invoice.key for invoice in page.invoices])
            if order is None:
                raise _NotInOrder
            self._list, self._was_in_order = KnownList(order), True
            self._statuses = self._list.statuses
        limited = page.short and not page.is_whole_list and rows < count
        self._cap = rows if limited else self._source.page_size
        if self._cap < _SMALLEST_PAGE and not page.is_whole_list:
            raise _NotInOrder  # until a complete read has passed, after which page 1 may show another limit
        # Page 1 begins at the first row whatever the limit. With it, the response is a full page.
        self._take(WindowPage(Window(0, self._cap), page.page), look)

    def _read_new(self, look: Look) -> None:
        """Read from the newest invoice to the newest one of the previous poll, or the other way around."""
        known, landed = self._known, self._landed
        assert landed is not None  # set by the complete read that comes first
        if known.order.newest_first:
            window = Window(0, self._size)
            answer = next((one for one in look.answers if one.page.window.start == 0), None) or self._ask(window, look)
            newest = answer.page.invoices
            while answer.last is not None and answer.last < landed:
                answer = self._read_on(answer.last, answer.page.end, look)
        else:
            answer = self._seek(landed, look)
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
        most = self._known.total // self._size
        for place in todo:
            if self._source.requests - look.began > most + _PATIENCE:
                self._read_all(look)
                return False
            self._seek(place, look)
        return True

    def _read_numbers(self, look: Look) -> None:
        """Search for the invoices whose numbers are wanted. Their order is only a hint."""
        if look.names & look.missing and not look.answers:
            self._ask(Window(0, self._size), look)
        self._numbered = self._numbered or look.numbered
        order = self._known.order
        for name in look.names & look.missing if self._numbered else ():
            place = order.place(name)
            search = Search(place, (0, None, self._known.total, None), self._density, self._size)
            answers = iter(list(look.answers))
            for _ in range(_PATIENCE + len(look.answers)):
                answer = next(answers, None) or self._ask(around(search.row(), self._size), look)
                numbers = answer.by_number(order)
                if numbers is None or numbers.spans(place):
                    look.unsearchable |= numbers is None
                    break
                search.narrow(numbers)

    # --- windows in turn

    def _read_in_turn(self, look: Look) -> None:
        """Continue to read the whole list, for changes of settled invoices and for missing ones out of order."""
        if not look.everything and not look.missing:
            return
        try:
            for _ in range(_MOST_IN_TURN):
                self._move_cursor(look)
                # What the poll needed is counted at its end.
                ahead = self._source.requests - look.began - look.in_turn + 1
                if self._cap is None or not self._succeeded or not self._allowance.grants(ahead):
                    return
                with self._from_allowance(look):
                    if self._cursor is None:
                        self._ask(Window(0, self._size), look)
                    else:
                        self._read_on(self._cursor, self._known.neighbors(self._cursor)[0], look)
        except _NotInOrder:
            self._list, self._in_order = None, False  # the next poll reads everything
        except TRANSIENT as error:
            if isinstance(error, UnpodListUnstable):
                self._distrust_rows()
            log.info("The invoices that nobody waits for will be read again later: %s", error)

    def _move_cursor(self, look: Look) -> None:
        """Move the cursor over what this poll has read already. A turn ends at the end of the list."""
        answers = [one for one in look.answers if not one.blank]
        while answer := next((one for one in answers if self._is_next(one)), None):
            self._cursor = answer.last and after(answer.last)
            if self._cursor is None:
                self._cap = None  # the next turn asks for full pages again
                self._removed = {}
                return

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
        search = Search(place, self._known.neighbors(place), self._density, self._size)
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

    def _take(self, page: WindowPage, look: Look, *, confirming: bool = False) -> Answer:
        """Learn what a response says.

        :param confirming: whether it was requested only to see whether the list ends there.
        """
        known, keys = self._known, [invoice.key for invoice in page.invoices]
        ignores_size = len(keys) > page.window.size
        if ignores_size or not known.order.holds(keys):
            raise _NotInOrder
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
        changed = known.absorb(answer, self._removed)
        look.add(answer, self._numbers)
        if look.everything:
            look.rows.update((invoice.key, invoice) for invoice in changed)
            self._untold.update(invoice.key for invoice in changed)
        if answer.is_cut and not confirming:
            end = self._take(self._get(_confirming(page.end)), look, confirming=True)
            if end.last is not None or end.blank:
                self._distrust_rows()
        return answer

    def _shows_end(self, page: WindowPage) -> bool:
        """Return whether ``page`` is short because the list ends, and not because the server limits pages."""
        if not page.short:
            return False
        if page.is_whole_list or len(page.invoices) < SMALLEST_LIMIT:
            return True
        last = self._known.last
        nothing_behind = last is None or not self._known.order.place(page.invoices[-1].key) < last
        return page.shows_end and page.window.size <= self._longest and nothing_behind

    # --- what the wanted invoices are in a list in order

    def _places_of(self, look: Look) -> list[Place]:
        """Return the sorted places of all invoices that this poll must read."""
        ids = {self._numbers.get(key, key) for key in look.keys if key not in look.names or key in self._numbers}
        if self._known.has_texts:
            ids |= look.names
        else:
            ids |= look.names & self._known.statuses.keys()
        if look.everything:
            ids |= self._known.open
        if ids != self._ids:
            self._ids, self._places = frozenset(ids), sorted(map(self._known.order.place, ids))
        return self._places

    def _windows_of(self, places: Sequence[Place]) -> Iterator[Window]:
        """Yield windows for these places, as far as their rows are known. Several on one page share it."""
        index = 0
        while index < len(places):
            place, stop = places[index], index + 1
            row = self._known.row_of(place)
            if row is not None:
                page = Window(row // self._size * self._size, self._size)
                beyond = self._known.later(place, page.end - row)
                stop = max(stop, len(places) if beyond is None else bisect_left(places, beyond))
                yield page if stop - index > 1 else around(row, self._size)
            index = stop

    @property
    def _known(self) -> KnownList:
        assert self._list is not None
        return self._list

    @property
    def _size(self) -> int:
        return self._cap or self._source.page_size


def _is_due(unstable: int) -> bool:
    """Return whether so many polls in a row that found the list unstable call for a complete read, ever more seldom."""
    times, rest = divmod(unstable, _UNSTABLE_POLLS)
    return times > 0 and rest == 0 and times & (times - 1) == 0


def _confirming(end: int) -> Window:
    """Return a window with the row before ``end`` whose response is certainly not cut if the list ends there.

    It has fewer than ten rows then, and no server limits pages to so few.
    """
    size = next(size for size in numbers(2) if 0 < end % size < SMALLEST_LIMIT)
    return Window(end // size * size, size)
