"""Finds one invoice in few requests, although the list can only be read page by page.

A finder first tries the page where the invoice was before. Then it searches by the order of the ids, if the list has
one. If both fail, it reads the whole list. Only a complete read proves that an invoice does not exist.
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

#: Most requests of one search by order. Bisecting 200,000 invoices takes eleven, guessing from the ids only a few.
_MOST_REQUESTS = 16
#: Most requests near the previous place of an invoice.
_MOST_REQUESTS_NEARBY = 3


@dataclass(frozen=True, slots=True)
class _Place:
    """The place of an invoice: its row, and the ``count`` of the response that contained it."""

    row: int
    count: int | None


@dataclass(slots=True)
class _Miss:
    """A complete read that did not contain an invoice: its last ``count``, and the number of polls since."""

    count: int | None
    polls: int = 0


class InvoiceFinder:
    """Finds invoices by id and remembers their places. Not thread-safe. Use one object for all polls of a wait.

    :param source: client that requests the pages.
    """

    def __init__(self, source: PageSource) -> None:
        self._source = source
        self._places: dict[InvoiceId, _Place] = {}
        self._newest_first = True  # corrected by the first list that shows an order
        self._misses: dict[InvoiceId, _Miss] = {}

    def find(self, invoice_id: InvoiceId, *, conclusive: bool = True) -> Invoice | None:
        """Return the current invoice, or ``None`` if it is not in the list.

        :param invoice_id: ``id`` or ``invoice_number`` of the invoice. ``101`` and ``"101"`` are the same.
        :param conclusive: whether ``None`` requires a complete read now. Pass ``False`` to wait for an invoice to
            appear: after a complete read without the invoice, the next nine polls also return ``None`` if a search by
            order does not find it or ``count`` has not changed.
        :raises UnpodListUnstable: if the list could not be read completely.
        :raises UnpodError: if a request fails.
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
        """Return whether the last complete read, which did not contain the invoice, may still be relied on.

        This is not a proof: an invoice may be inserted out of order, or replace another one.
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
        """Try the previous page, then the page to which new invoices have moved it, then the next one by id."""
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
        """Search by the order of the ids. Return whether the list has such an order, and the invoice if found."""
        names = _names(first.invoices, key)
        direction = direction_of(names) if len(names) > 1 else None
        if direction is None or first.count is None or type(names[0]) is not type(key):
            return False, None
        self._newest_first = direction(2, 1)
        size = len(first.invoices)  # the server may limit pages to fewer rows than requested
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
                break  # the invoice would be on this page if it existed
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
    """Return the values to compare ``key`` with: ids, or invoice numbers if ``key`` is an invoice number."""
    if isinstance(key, str) and invoices and isinstance(invoices[0].key, int):
        return [match_key(str(invoice.raw.get("invoice_number"))) for invoice in invoices]
    return [invoice.key for invoice in invoices]


def _side(invoices: Sequence[Invoice], key: InvoiceId) -> int:
    """Return the side of these rows on which ``key`` must be: -1 before, 1 after, 0 among them or unknown."""
    names = _names(invoices, key)
    direction = direction_of(names) if len(names) > 1 else None
    if direction is None:
        return 0
    if direction(rank(key), rank(names[0])):
        return -1
    return 1 if direction(rank(names[-1]), rank(key)) else 0


def _around(row: int, cap: int) -> Window:
    """Return the window with ``row`` closest to its middle, so that small shifts of the list do not matter."""
    windows = [Window(row // size * size, size) for size in range(1, cap + 1)]
    return max(windows, key=lambda window: min(row - window.start, window.end - 1 - row))


def _guess(low: int, high: int, low_number: int, high_number: int | None, wanted: int, newest_first: bool) -> int:
    """Guess the row of ``wanted`` from the numbers in the ids. Return the middle if they do not help."""
    if high_number is None:  # the far end is unknown: assume that ids count by one
        row = low + (low_number - wanted if newest_first else wanted - low_number)
    elif high_number == low_number:
        row = high
    else:
        row = low + (high - low) * (wanted - low_number) // (high_number - low_number)
    return row if low <= row < high else (low + high) // 2
