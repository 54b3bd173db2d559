"""A list that is polled again and again: what changed, for as few requests as the changes call for.

The first poll reads the whole list, with the proof that it is complete. After that a poll reads the pages of the
wanted invoices and the page where new ones appear. Every tenth poll or so, and after one that did not find an invoice
where it was expected, the whole list is read again. That an invoice does *not* exist is only ever concluded from a
complete reading.

One integer (place and status) is remembered of each invoice, and rows are kept only while they are wanted, so that
hundreds of thousands of invoices fit into a few dozen megabytes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from airflow_provider_unpod.billing.errors import UnpodListUnstable, UnpodRateLimited, UnpodUnavailable
from airflow_provider_unpod.billing.http.cancellation import Cancellation
from airflow_provider_unpod.billing.invoice import SETTLED_STATUSES, Invoice, InvoiceId, is_integer, match_key
from airflow_provider_unpod.billing.reading.fetcher import Fetcher, PageSource
from airflow_provider_unpod.billing.reading.reading import read_list
from airflow_provider_unpod.billing.reading.windows import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from airflow_provider_unpod.billing.client import Page

#: Errors that pass by themselves: they never end a wait, however often they come.
TRANSIENT = (UnpodUnavailable, UnpodRateLimited, UnpodListUnstable)

#: A complete reading is due after this many polls, or after a tenth as many polls as the list has pages where
#: that is more: on average it then costs at most a dozen requests per poll, however long the list is.
FULL_REFRESH_EVERY = 10

#: A missing invoice is searched on its page and the pages beside it this many times before everything is read.
_SEARCHES = 2

# What is known of an invoice is packed into one integer: place, parity of the last complete reading, status.
_STATUS_BITS = 12
_STATUS_MASK = (1 << _STATUS_BITS) - 1
_PARITY = 1 << _STATUS_BITS


@dataclass(frozen=True, slots=True)
class Wanted:
    """The invoices that a poll must read.

    :ivar keys: the invoices to find, as :func:`~airflow_provider_unpod.billing.invoice.match_key` gives them.
    :ivar certain: those of them whose absence must be proved, each with the number of the poll after which the proof
        must have been made.
    :ivar everything: also all open invoices, and every change that is seen.
    """

    keys: Collection[InvoiceId] = frozenset()
    certain: Mapping[InvoiceId, int] = field(default_factory=dict)
    everything: bool = False


class Subscriptions:
    """The invoices that all subscribers of one poll want, and the number of polls begun. Not thread-safe."""

    def __init__(self) -> None:
        #: The number of the poll that began last.
        self.polls = 0
        self._keys: Counter[InvoiceId] = Counter()
        self._certain: dict[InvoiceId, int] = {}
        self._everything = 0

    def add(self, keys: Collection[InvoiceId], *, certain: bool = False, everything: bool = False) -> None:
        """Subscribe to these invoices, in every poll that begins from now on."""
        self._keys.update(keys)
        self._everything += everything
        if certain:
            self._certain.update(dict.fromkeys(keys, self.polls))

    def remove(self, keys: Collection[InvoiceId], *, everything: bool = False) -> None:
        """Unsubscribe from these invoices; with the same arguments as :meth:`add`."""
        self._everything -= everything
        for key in keys:
            self._keys[key] -= 1
            if not self._keys[key]:
                del self._keys[key]
                self._certain.pop(key, None)

    def begin(self) -> Wanted:
        """Count a poll, and return what it must read."""
        self.polls += 1
        return Wanted(frozenset(self._keys), dict(self._certain), self._everything > 0)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The result of one poll, shared by all waits: do not change it.

    :ivar number: the number of the poll.
    :ivar at: when the poll ended, UTC.
    :ivar rows: the wanted invoices, by the wanted key, and those in ``changed``; all of them were read in this poll.
        The absence of a key that was wanted as certain and is not in here is proved.
    :ivar changed: new invoices, and those whose status differs from the previous poll that read them; empty for the
        first poll.
    :ivar statuses: returns all known invoices and their last known statuses when it is called.
    :ivar first: nothing is known of the time before, so ``changed`` does not cover it.
    """

    number: int
    at: datetime
    rows: Mapping[InvoiceId, Invoice]
    changed: Collection[InvoiceId]
    statuses: Callable[[], dict[InvoiceId, str]]
    first: bool = False


class Tracker:
    """Polls the invoices of one organization. One thread at a time.

    :param full_refresh_every: read the whole list every so many polls; ``None``: see ``FULL_REFRESH_EVERY``.
    """

    def __init__(self, source: PageSource, *, full_refresh_every: int | None = None) -> None:
        self._source = _Cancellable(source)
        self._full_refresh_every = full_refresh_every
        self._known: dict[InvoiceId, int] = {}
        self._unsettled: set[InvoiceId] = set()
        self._statuses: list[str] = []
        self._codes: dict[str, int] = {}
        self._numbers: dict[InvoiceId, InvoiceId] = {}  # wanted invoice numbers of rows that go by another id
        self._numbered = False
        self._absent: dict[InvoiceId, int] = {}  # and the number of the poll that proved it
        self._changes: dict[InvoiceId, Invoice] = {}  # kept until a poll succeeds
        self._polls = 0
        self._last_complete = 0
        self._overdue = False  # an invoice was not where it was expected
        self._parity = 0
        self._shift = 0  # by how many rows new invoices in front have moved the others
        self._count: int | None = None
        self._uncounted = 0  # rows that `count` includes and the list does not show
        self._page_size: int | None = None
        self._front = self._back = True  # at which ends new invoices may appear

    def statuses(self) -> dict[InvoiceId, str]:
        """All known invoices and their last known statuses: a copy."""
        names = self._statuses
        return {key: names[packed & _STATUS_MASK] for key, packed in list(self._known.items())}

    def cancel(self) -> None:
        """End the poll that runs in another thread: its requests are cut, and it raises ``Cancelled``."""
        self._source.cancellation.cancel()

    def poll(self, wanted: Wanted, *, number: int | None = None) -> Snapshot:
        """Poll the list once.

        :param number: the number of this poll; by default one more than that of the previous one.
        :raises UnpodError: if the list cannot be read. Changes that were seen until then are reported by the next
            poll that succeeds.
        """
        self._polls = self._polls + 1 if number is None else number
        sighting, first = _Sighting(wanted), not self._last_complete
        if self._complete_due(wanted):
            self._read_all(sighting)
        else:
            self._read_landing(sighting)
            found = self._read_places(sighting)
            if not found and any(key not in sighting.rows and self._place(key) is not None for key in wanted.certain):
                self._read_all(sighting)
            elif not found or self._something_unseen():
                self._overdue = True  # not in this poll: its requests are spent
        for key in sighting.keys - sighting.rows.keys():
            self._numbers.pop(key, None)
        changes, self._changes = self._changes, {}
        rows = {**changes, **sighting.rows}
        return Snapshot(self._polls, datetime.now(timezone.utc), rows, tuple(changes), self.statuses, first)

    # --- when everything must be read

    def _complete_due(self, wanted: Wanted) -> bool:
        if not self._last_complete or self._overdue:
            return True
        every = self._full_refresh_every
        if every is None:
            every = max(FULL_REFRESH_EVERY, len(self._known) // (10 * max(1, self._page_size or 1)))
        if self._polls - self._last_complete >= every:
            return True
        return any(self._place(key) is None and self._unproved(key, wanted) for key in wanted.keys)

    def _unproved(self, key: InvoiceId, wanted: Wanted) -> bool:
        """Whether an unknown key may be in the list after all, and that matters."""
        proved = self._absent.get(key, 0)
        if key in wanted.certain:
            return proved <= wanted.certain[key]
        # Numbers of settled invoices are not remembered: a complete reading shows which row has this one.
        return self._numbered and type(key) is str and not proved

    def _something_unseen(self) -> bool:
        return self._count is not None and self._count - self._uncounted > len(self._known)

    # --- reading

    def _read_all(self, sighting: _Sighting) -> None:
        first = not self._last_complete
        self._parity ^= 1
        before: Invoice | None = None
        rises = falls = rows = 0
        try:
            with read_list(self._source) as reading:
                for place, invoice in enumerate(reading):
                    self._note(invoice, place, sighting, first)
                    if before is not None:
                        order = _order(before, invoice)
                        rises += order > 0
                        falls += order < 0
                    before = invoice
                    rows += 1
                self._count = reading.evidence.count_last
        except BaseException:
            # Mark all invoices as seen by this reading, so that those which the next one does not see stand out.
            for key, packed in self._known.items():
                self._known[key] = packed & ~_PARITY | self._parity << _STATUS_BITS
            raise
        for key in [key for key, packed in self._known.items() if packed >> _STATUS_BITS & 1 != self._parity]:
            del self._known[key]
            self._unsettled.discard(key)
        self._last_complete = self._polls
        self._overdue = False
        self._uncounted = 0 if self._count is None else self._count - rows
        self._front, self._back = not rises or falls > 0, not falls or rises > 0
        self._absent = {key: self._polls for key in sighting.keys if self._place(key) is None}

    def _read_landing(self, sighting: _Sighting) -> None:
        """Read the pages where new invoices appear, up to one with a known invoice."""
        last = max(0, self._total - 1)  # as it was: new invoices are behind it
        if self._front or self._page_size is None:
            page = 1
            while self._fetch([page], sighting) >= self._size and not sighting.met_known:
                page += 1
        if self._back:
            page = last // self._size + 1
            rows = sighting.pages[page] if page in sighting.pages else self._fetch([page], sighting)
            while not rows and page > 1:
                page -= 1
                rows = self._fetch([page], sighting)
            while rows >= self._size and (self._count is None or self._count > page * self._size):
                page += 1
                rows = self._fetch([page], sighting)

    def _read_places(self, sighting: _Sighting) -> bool:
        """Read the pages of the wanted invoices; whether all of them that are known were found."""
        for search in range(1 + _SEARCHES):
            wanted = sighting.keys | self._unsettled if sighting.everything else sighting.keys
            places = [
                place
                for key in wanted
                if key not in sighting.rows and key not in sighting.seen and (place := self._place(key)) is not None
            ]
            if not places:
                return True
            pages = {page for place in places for page in self._pages_to_search(place, search, sighting)}
            if search and len(pages) > max(4, self._total // self._size // 2):
                return False  # reading everything hardly costs more, and proves more
            self._fetch(sorted(pages), sighting)
        return False

    def _pages_to_search(self, place: int, search: int, sighting: _Sighting) -> Iterable[int]:
        """The page where an invoice is expected; in later searches the one where its neighbors went, and the next."""
        page, row = divmod(max(0, place + sighting.drift_near(place)), self._size)
        if not search:
            return () if page + 1 in sighting.pages else (page + 1,)
        return (page + 1, max(1, page) if row < self._size // 2 else page + 2)

    def _fetch(self, pages: list[int], sighting: _Sighting) -> int:
        """Read these pages, several at a time; returns the number of rows on the last one."""
        rows = 0
        fetcher = Fetcher(self._source, min(self._source.max_concurrency, max(1, len(pages))))
        fetcher.limit = len(pages)
        try:
            for page in pages:
                fetcher.ask(Window((page - 1) * self._size, self._size))
            for page in pages:
                window = fetcher.take()
                self._take(page, window.invoices, window.count, sighting)
                rows = len(window.invoices)
        finally:
            fetcher.close()
        return rows

    def _take(self, page: int, invoices: list[Invoice], count: int | None, sighting: _Sighting) -> None:
        if count is not None:
            self._count = count
        if self._page_size is None:  # the server may limit the page size without saying so
            clamped = 0 < len(invoices) < min(self._source.page_size, self._total)
            self._page_size = len(invoices) if clamped else self._source.page_size
        start = (page - 1) * self._size
        moved = [
            (row, start + row - place)
            for row, one in enumerate(invoices)
            if (place := self._place(one.key)) is not None
        ]
        if moved and page == 1 and not sighting.pages:
            # New invoices in front have moved all others: correct every place at once.
            by = moved[0][1]
            self._shift += by
            moved = [(row, drift - by) for row, drift in moved]
        if moved:
            sighting.drifts.append((start + moved[-1][0], moved[-1][1]))
        sighting.met_known = bool(moved)
        sighting.pages[page] = len(invoices)
        for row, invoice in enumerate(invoices):
            self._note(invoice, start + row, sighting, False)

    # --- remembering

    @property
    def _size(self) -> int:
        return self._page_size or self._source.page_size

    @property
    def _total(self) -> int:
        """The number of invoices, as far as it is known."""
        return len(self._known) if self._count is None else self._count

    def _place(self, key: InvoiceId) -> int | None:
        """The 0-based row where the invoice is expected; ``None`` if it is unknown."""
        packed = self._known.get(key)
        if packed is None:
            packed = self._known.get(self._numbers.get(key, key))
        return None if packed is None else (packed >> _STATUS_BITS + 1) + self._shift

    def _note(self, invoice: Invoice, place: int, sighting: _Sighting, first: bool) -> None:
        key, status = invoice.key, invoice.status_key
        code = self._codes.get(status)
        if code is None:
            code = self._codes[status] = len(self._statuses)
            self._statuses.append(status)
        before = self._known.get(key)
        self._known[key] = ((place - self._shift) << 1 | self._parity) << _STATUS_BITS | code
        if before is None or before & _STATUS_MASK != code:
            if status in SETTLED_STATUSES:
                self._unsettled.discard(key)
            else:
                self._unsettled.add(key)
            if sighting.everything and not first:
                self._changes[key] = invoice
        if key in sighting.keys:
            sighting.rows[key] = invoice
        elif sighting.everything and status not in SETTLED_STATUSES:
            sighting.seen.add(key)
        number = invoice.raw.get("invoice_number")
        if number is not None and invoice.raw.get("id") is not None:
            self._numbered = True
            if sighting.keys:
                name = match_key(number)
                # As in `Invoice.answers_to`: what may be an id is never taken for a number.
                if not is_integer(name) and name in sighting.keys and name not in self._known:
                    self._numbers[name] = key
                    sighting.rows[name] = invoice


class _Sighting:
    """The pages that one poll must read, and those that it has read so far."""

    def __init__(self, wanted: Wanted) -> None:
        self.keys = set(wanted.keys)
        self.everything = wanted.everything
        self.rows: dict[InvoiceId, Invoice] = {}
        #: Open invoices that were read and are not in ``keys``.
        self.seen: set[InvoiceId] = set()
        #: The pages that were read, and how many rows each had.
        self.pages: dict[int, int] = {}
        #: Whether the page that was read last had an invoice that was known before.
        self.met_known = False
        #: How far invoices were from where they were expected: (place, number of rows, 0 included).
        self.drifts: list[tuple[int, int]] = []

    def drift_near(self, place: int) -> int:
        """By how many rows the invoices around ``place`` have moved, as far as is known."""
        return min(self.drifts, key=lambda drift: abs(drift[0] - place), default=(0, 0))[1]


class _Cancellable:
    """A source of pages whose requests can all be cut at once."""

    def __init__(self, source: PageSource) -> None:
        self._source = source
        self.page_size = source.page_size
        self.max_concurrency = source.max_concurrency
        self.cancellation = Cancellation()

    def get_page(self, page: int, page_size: int, cancellation: Cancellation | None = None) -> Page:
        if cancellation is None:
            return self._source.get_page(page, page_size, self.cancellation)
        with self.cancellation.calling(cancellation.cancel):
            return self._source.get_page(page, page_size, cancellation)


def _order(one: Invoice, other: Invoice) -> int:
    """1 if ``other`` is newer, -1 if it is older, 0 if that is unknown. Only costs depend on it, never a result."""
    a, b = one.key, other.key
    if type(a) is not int or type(b) is not int:
        a, b = str(one.raw.get("invoice_date")), str(other.raw.get("invoice_date"))
    return (b > a) - (b < a)  # type: ignore[operator]  # both are int, or both are str
