"""Finding one invoice in a list that can only be read page by page, in few requests.

A finder remembers where invoices were and how the list moves; where ids are in an order it searches by it; and only
when neither finds the invoice does it read the whole list. Only such a complete reading proves that an invoice does not
exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_unpod.billing.invoice import Invoice, InvoiceId, match_key
from airflow_provider_unpod.billing.reading.order import direction_of, rank
from airflow_provider_unpod.billing.reading.reading import read_list
from airflow_provider_unpod.billing.reading.windows import Window, WindowPage
from airflow_provider_unpod.billing.watching.tracker import FULL_REFRESH_EVERY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_unpod.billing.reading.fetcher import PageSource

#: Requests that one search by order may cost: halving 200,000 invoices takes eleven, guessing by number a few.
_MOST_REQUESTS = 16
#: Requests to find an invoice near where it was, before it is searched for.
_MOST_REQUESTS_NEARBY = 3


@dataclass(frozen=True, slots=True)
class _Place:
    """The place of an invoice: its row, and the ``count`` of the response that contained it."""

    row: int
    count: int | None


@dataclass(slots=True)
class _Miss:
    """A complete reading that did not hold an invoice: the ``count`` it ended with, and the polls since."""

    count: int | None
    polls: int = 0


class InvoiceFinder:
    """Finds invoices by id, and remembers where they were. Not thread-safe; keep one for a series of polls.

    :param source: the client to ask.
    """

    def __init__(self, source: PageSource) -> None:
        self._source = source
        self._places: dict[InvoiceId, _Place] = {}
        self._newest_first = True  # until a list shows otherwise
        self._misses: dict[InvoiceId, _Miss] = {}

    def find(self, invoice_id: InvoiceId, *, conclusive: bool = True) -> Invoice | None:
        """Return the invoice as it is now; ``None`` if it is not in the list.

        :param invoice_id: its ``id`` or ``invoice_number``; ``101`` and ``"101"`` are the same.
        :param conclusive: whether ``None`` must rest on a complete reading made now. Pass ``False`` to wait for an
            invoice to appear: once a complete reading has not found it, a search by order, or an unchanged ``count``,
            is then taken for "not yet" in the polls up to the next complete reading, the tenth.
        :raises UnpodListUnstable: if the list could not be read completely, so that nothing is known.
        :raises UnpodError: whatever else the requests raise.
        """
        key = match_key(invoice_id)
        invoice = self._nearby(key)
        if invoice is not None:
            return invoice
        first = self._ask(Window(0, self._source.page_size))
        invoice = _held_by(first, key)
        if invoice is not None:
            return self._remember(key, first, invoice)
        if first.is_whole_list:
            return None
        ordered, invoice = self._by_order(key, first)
        if invoice is not None:
            return invoice
        if not conclusive and self._may_still_miss(key, ordered, first.count):
            return None
        return self._by_reading_all(key)

    def _may_still_miss(self, key: InvoiceId, ordered: bool, count: int | None) -> bool:
        """Whether the last complete reading, which did not hold the invoice, need not be made again yet.

        Neither sign is a proof: an invoice can be put in out of order, and another one can go when it comes.
        """
        miss = self._misses.get(key)
        if miss is None:
            return False
        miss.polls += 1
        return miss.polls < FULL_REFRESH_EVERY and (ordered or (count is not None and count == miss.count))

    def _ask(self, window: Window) -> WindowPage:
        return WindowPage(window, self._source.get_page(window.page, window.size))

    def _remember(self, key: InvoiceId, page: WindowPage, invoice: Invoice) -> Invoice:
        self._places[key] = _Place(page.window.start + page.invoices.index(invoice), page.count)
        self._misses.pop(key, None)
        return invoice

    def _nearby(self, key: InvoiceId) -> Invoice | None:
        """Look where it was, then where the growth of the list must have moved it, then on the side the ids show."""
        place = self._places.get(key)
        if place is None:
            return None
        row = place.row
        for _ in range(_MOST_REQUESTS_NEARBY):
            window = _around(row, self._source.page_size)
            page = self._ask(window)
            invoice = _held_by(page, key)
            if invoice is not None:
                return self._remember(key, page, invoice)
            growth = (page.count or 0) - (place.count or 0) if self._newest_first else 0
            side = _side(page.invoices, key)
            moved = place.row + growth
            if window.start <= moved < window.end or (side and (moved - row) * side < 0):
                moved = row + side * window.size
            if moved == row or moved < 0:
                break
            row = moved
        return None

    def _by_order(self, key: InvoiceId, first: WindowPage) -> tuple[bool, Invoice | None]:
        """Search between the first row and ``count`` by the order of the ids; also say whether there is one."""
        names = _names(first.invoices, key)
        direction = direction_of(names) if len(names) > 1 else None
        if direction is None or first.count is None or type(names[0]) is not type(key):
            return False, None
        self._newest_first = direction(2, 1)
        size = len(first.invoices)  # what the server gives; it may be fewer than asked for
        low, high = first.end, first.count
        low_number, high_number = rank(names[-1])[1], None
        wanted = rank(key)[1]
        halved = True
        for _ in range(_MOST_REQUESTS):
            if low >= high:
                break
            between = high - low
            guess = (low + high) // 2
            if halved:
                guess = _guess(low, high, low_number, high_number, wanted, self._newest_first)
            page = self._ask(Window(guess // size * size, size))
            invoice = _held_by(page, key)
            if invoice is not None:
                return True, self._remember(key, page, invoice)
            names = _names(page.invoices, key)
            side = _side(page.invoices, key)
            if not names:
                high = page.window.start
            elif side < 0:
                high, high_number = page.window.start, rank(names[0])[1]
            elif side > 0:
                low, low_number = page.end, rank(names[-1])[1]
            else:
                break  # its place is on this page, and it is not there
            halved = high - low <= between // 2
        return True, None

    def _by_reading_all(self, key: InvoiceId) -> Invoice | None:
        with read_list(self._source) as reading:
            for row, invoice in enumerate(reading):
                if invoice.answers_to(key):
                    self._places[key] = _Place(row, None)
                    self._misses.pop(key, None)
                    return invoice
            self._misses[key] = _Miss(reading.evidence.count_last)
        self._places.pop(key, None)
        return None


def _held_by(page: WindowPage, key: InvoiceId) -> Invoice | None:
    return next((invoice for invoice in page.invoices if invoice.answers_to(key)), None)


def _names(invoices: Sequence[Invoice], key: InvoiceId) -> list[InvoiceId]:
    """The values to compare ``key`` with: the ids of the invoices, or their numbers if ``key`` is such a number."""
    if isinstance(key, str) and invoices and isinstance(invoices[0].key, int):
        return [match_key(str(invoice.raw.get("invoice_number"))) for invoice in invoices]
    return [invoice.key for invoice in invoices]


def _side(invoices: Sequence[Invoice], key: InvoiceId) -> int:
    """On which side of these rows ``key`` must stand: -1 before, 1 behind, 0 among them or not to be said."""
    names = _names(invoices, key)
    direction = direction_of(names) if len(names) > 1 else None
    if direction is None:
        return 0
    if direction(rank(key), rank(names[0])):
        return -1
    return 1 if direction(rank(names[-1]), rank(key)) else 0


def _around(row: int, cap: int) -> Window:
    """The window that has ``row`` as far from its edges as can be: the list may move a little and it is still in."""
    windows = [Window(row // size * size, size) for size in range(1, cap + 1)]
    return max(windows, key=lambda window: min(row - window.start, window.end - 1 - row))


def _guess(low: int, high: int, low_number: int, high_number: int | None, wanted: int, newest_first: bool) -> int:
    """The row where ``wanted`` should stand, judging by the numbers in the ids; the middle where they don't say."""
    if high_number is None:  # nothing known of the far end: ids mostly count by one
        row = low + (low_number - wanted if newest_first else wanted - low_number)
    elif high_number == low_number:
        row = high
    else:
        row = low + (high - low) * (wanted - low_number) // (high_number - low_number)
    return row if low <= row < high else (low + high) // 2
