"""Polls a list repeatedly and finds changes in as few requests as possible.

The first poll reads the whole list and proves that it is complete. Later polls read only the pages of the wanted
invoices and the page where new invoices appear. About every tenth poll reads the whole list again, and so does the poll
after one that did not find an invoice where it was expected. Only a complete read proves that an invoice does *not*
exist.

The tracker keeps one integer (place and status) for each invoice, and rows only while they are wanted. Hundreds of
thousands of invoices fit into a few dozen megabytes.
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

#: Transient errors. They never end a wait, however often they occur.
TRANSIENT = (UnpodUnavailable, UnpodRateLimited, UnpodListUnstable)

#: Number of polls after which the whole list is read again. For a long list, it is a tenth of the number of pages, so a
#: complete read costs at most a dozen requests per poll on average.
FULL_REFRESH_EVERY = 10

#: Number of searches near the expected place of an invoice before the whole list is read.
_SEARCHES = 2

# One integer holds the state of an invoice: place, parity of the last complete read, status.
_STATUS_BITS = 12
_STATUS_MASK = (1 << _STATUS_BITS) - 1
_PARITY = 1 << _STATUS_BITS


@dataclass(frozen=True, slots=True)
class Wanted:
    """The invoices that a poll must read.

    :ivar keys: the :func:`~airflow_provider_unpod.billing.invoice.match_key` of each wanted invoice.
    :ivar certain: keys whose absence must be proved. The value is the number of the poll after which the proof counts.
    :ivar everything: whether the poll must also read all open invoices and report every change.
    """

    keys: Collection[InvoiceId] = frozenset()
    certain: Mapping[InvoiceId, int] = field(default_factory=dict)
    everything: bool = False


class Subscriptions:
    """The invoices that the subscribers of a poll want. Also counts the polls. Not thread-safe."""

    def __init__(self) -> None:
        #: Number of the latest poll.
        self.polls = 0
        self._keys: Counter[InvoiceId] = Counter()
        self._certain: dict[InvoiceId, int] = {}
        self._everything = 0

    def add(self, keys: Collection[InvoiceId], *, certain: bool = False, everything: bool = False) -> None:
        """Subscribe to these invoices in all future polls."""
        self._keys.update(keys)
        self._everything += everything
        if certain:
            self._certain.update(dict.fromkeys(keys, self.polls))

    def remove(self, keys: Collection[InvoiceId], *, everything: bool = False) -> None:
        """Unsubscribe. Pass the same arguments as to :meth:`add`."""
        self._everything -= everything
        for key in keys:
            self._keys[key] -= 1
            if not self._keys[key]:
                del self._keys[key]
                self._certain.pop(key, None)

    def begin(self) -> Wanted:
        """Start a poll and return the invoices that it must read."""
        self.polls += 1
        return Wanted(frozenset(self._keys), dict(self._certain), self._everything > 0)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The result of one poll. All waits share it, so do not modify it.

    :ivar number: number of the poll.
    :ivar at: time when the poll ended, in UTC.
    :ivar rows: the wanted invoices by wanted key, and the changed ones. All were read in this poll. If a key of
        ``Wanted.certain`` is missing here, the invoice is proved not to exist.
    :ivar changed: keys of new invoices, and of those whose status has changed since they were last read. Empty in the
        first poll.
    :ivar statuses: function that returns the last known status of all known invoices.
    :ivar first: whether this is the first poll, so that earlier changes are unknown.
    """

    number: int
    at: datetime
    rows: Mapping[InvoiceId, Invoice]
    changed: Collection[InvoiceId]
    statuses: Callable[[], dict[InvoiceId, str]]
    first: bool = False


class Tracker:
    """Polls the invoices of one organization. Use it from one thread at a time.

    :param full_refresh_every: number of polls between complete reads. ``None``: see ``FULL_REFRESH_EVERY``.
    """

    def __init__(self, source: PageSource, *, full_refresh_every: int | None = None) -> None:
        self._source = _Cancellable(source)
        self._full_refresh_every = full_refresh_every
        self._known: dict[InvoiceId, int] = {}
        self._unsettled: set[InvoiceId] = set()
        self._statuses: list[str] = []
        self._codes: dict[str, int] = {}
        self._numbers: dict[InvoiceId, InvoiceId] = {}  # from wanted invoice number to id
        self._numbered = False
        self._absent: dict[InvoiceId, int] = {}  # from key to the poll that proved its absence
        self._changes: dict[InvoiceId, Invoice] = {}  # kept until a poll succeeds
        self._polls = 0
        self._last_complete = 0
        self._overdue = False  # an invoice was not where it was expected
        self._parity = 0
        self._shift = 0  # rows by which new invoices at the front have moved the others
        self._count: int | None = None
        self._uncounted = 0  # rows that `count` includes but the list does not contain
        self._page_size: int | None = None
        self._front = self._back = True  # ends at which new invoices may appear

    def statuses(self) -> dict[InvoiceId, str]:
        """Return a copy of the last known status of all known invoices."""
        names = self._statuses
        return {key: names[packed & _STATUS_MASK] for key, packed in list(self._known.items())}

    def cancel(self) -> None:
        """Cancel the poll that runs in another thread. It raises ``Cancelled`` there."""
        self._source.cancellation.cancel()

    def poll(self, wanted: Wanted, *, number: int | None = None) -> Snapshot:
        """Poll the list once.

        :param number: number of this poll. Default: the previous number plus 1.
        :raises UnpodError: if the list cannot be read. The next successful poll reports the changes seen until then.
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
                self._overdue = True  # the next poll reads everything, since this one has used its requests
        for key in sighting.keys - sighting.rows.keys():
            self._numbers.pop(key, None)
        changes, self._changes = self._changes, {}
        rows = {**changes, **sighting.rows}
        return Snapshot(self._polls, datetime.now(timezone.utc), rows, tuple(changes), self.statuses, first)

    # --- when a complete read is due

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
        """Return whether an unknown key may still be in the list and a complete read must find out."""
        proved = self._absent.get(key, 0)
        if key in wanted.certain:
            return proved <= wanted.certain[key]
        # Invoice numbers of settled invoices are not kept. Only a complete read finds the row with this number.
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
            # Mark all invoices as seen by this read, so that the next one can detect missing invoices.
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
        last = max(0, self._total - 1)  # last row of the previous poll: new invoices are after it
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
        """Read the pages of the wanted invoices. Return whether all known ones were found."""
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
                return False  # a complete read costs little more and proves more
            self._fetch(sorted(pages), sighting)
        return False

    def _pages_to_search(self, place: int, search: int, sighting: _Sighting) -> Iterable[int]:
        """Return the page where an invoice is expected. Later searches follow its neighbors and add the next page."""
        page, row = divmod(max(0, place + sighting.drift_near(place)), self._size)
        if not search:
            return () if page + 1 in sighting.pages else (page + 1,)
        return (page + 1, max(1, page) if row < self._size // 2 else page + 2)

    def _fetch(self, pages: list[int], sighting: _Sighting) -> int:
        """Read these pages, several at a time. Return the number of rows on the last one."""
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
        if self._page_size is None:  # the server may limit the page size silently
            clamped = 0 < len(invoices) < min(self._source.page_size, self._total)
            self._page_size = len(invoices) if clamped else self._source.page_size
        start = (page - 1) * self._size
        moved = [
            (row, start + row - place)
            for row, one in enumerate(invoices)
            if (place := self._place(one.key)) is not None
        ]
        if moved and page == 1 and not sighting.pages:
            # New invoices at the front have moved all others. Correct all places at once.
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
        """The number of invoices, as far as known."""
        return len(self._known) if self._count is None else self._count

    def _place(self, key: InvoiceId) -> int | None:
        """Return the row (from 0) where the invoice is expected. ``None`` if the invoice is unknown."""
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
                # As in `Invoice.answers_to`: an integer may be an id, so it never matches an invoice number.
                if not is_integer(name) and name in sighting.keys and name not in self._known:
                    self._numbers[name] = key
                    sighting.rows[name] = invoice


class _Sighting:
    """The state of one poll: the invoices it wants, and the pages it has read."""

    def __init__(self, wanted: Wanted) -> None:
        self.keys = set(wanted.keys)
        self.everything = wanted.everything
        self.rows: dict[InvoiceId, Invoice] = {}
        #: Open invoices that were read but are not in ``keys``.
        self.seen: set[InvoiceId] = set()
        #: Number of rows by page read.
        self.pages: dict[int, int] = {}
        #: Whether the latest page contained a known invoice.
        self.met_known = False
        #: Pairs of a place and the rows by which its invoice had moved.
        self.drifts: list[tuple[int, int]] = []

    def drift_near(self, place: int) -> int:
        """Return by how many rows the invoices near ``place`` have moved, as far as known."""
        return min(self.drifts, key=lambda drift: abs(drift[0] - place), default=(0, 0))[1]


class _Cancellable:
    """A source of pages whose requests can all be cancelled at once."""

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
    """Return 1 if ``other`` is newer, -1 if it is older, 0 if unknown. It affects only costs, never a result."""
    a, b = one.key, other.key
    if type(a) is not int or type(b) is not int:
        a, b = str(one.raw.get("invoice_date")), str(other.raw.get("invoice_date"))
    return (b > a) - (b < a)  # type: ignore[operator]  # both are int, or both are str
