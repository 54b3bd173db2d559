"""Reads a whole list page by page: once, or repeatedly until two passes in a row agree.

A pass ends with an empty page or a 404 after the last row. A list that fits into one short response, with as many rows
as its ``count``, needs no second request.
"""

from __future__ import annotations

from itertools import count as numbers
from typing import TYPE_CHECKING

from airflow_provider_unpod.billing.errors import UnpodListUnstable, short_repr
from airflow_provider_unpod.billing.reading.evidence import PAST, SHORT
from airflow_provider_unpod.billing.reading.order import OrderWitness
from airflow_provider_unpod.billing.reading.windows import MAX_PAGES, Window, ends_list

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from airflow_provider_unpod.billing.invoice import Invoice, InvoiceId
    from airflow_provider_unpod.billing.reading.evidence import Evidence
    from airflow_provider_unpod.billing.reading.fetcher import Fetcher
    from airflow_provider_unpod.billing.reading.windows import WindowPage

#: Most passes before the read gives up.
MAX_PASSES = 5


def single_pass(fetcher: Fetcher, evidence: Evidence, page_size: int) -> Iterator[list[Invoice]]:
    """Read every page once, several at a time, and yield the invoices of each.

    :raises UnpodListUnstable: if ``count``, the ids, the length of a page or the end show that the list changed or that
        the server omits rows. Some changes go unnoticed, such as a deletion together with an insertion.
    """
    only = Pass(fetcher, evidence, page_size)
    yield from only.pages(side_by_side=True)
    if only.flaw:
        raise UnpodListUnstable(
            f'Read with consistency="linked", invoices may be missing: in a single pass, {only.flaw}.'
        )


def repeated_passes(
    fetcher: Fetcher, evidence: Evidence, page_size: int, known: Container[InvoiceId]
) -> Iterator[list[Invoice]]:
    """Read the whole list until two passes in a row agree, and yield the new invoices of each page.

    Two passes agree if they have the same ids and the same ``count``, and neither has a flaw. Pages are read one after
    another: two passes with parallel requests could agree on the same wrong result.

    :param known: ids that the caller has yielded already. They are not yielded again.
    :raises UnpodListUnstable: if no two of ``MAX_PASSES`` passes agree, or two in a row have the same flaw.
    """
    new: set[InvoiceId] = set()
    before: Pass | None = None
    for number in range(1, MAX_PASSES + 1):
        evidence.passes = number
        # The reason for the fallback may be that rows and `count` disagree, so one response is not enough.
        current = Pass(fetcher, evidence, page_size, one_response_is_enough=False)
        for page in current.pages():
            fresh = [invoice for invoice in page if invoice.key not in new and invoice.key not in known]
            new.update([invoice.key for invoice in fresh])
            yield fresh
        if before is not None and current.agrees_with(before):
            return
        if before is not None and current.flaw and current.flaw == before.flaw:
            raise UnpodListUnstable(
                "Trying again is unlikely to help, the server does not list its invoices reliably: in two passes in a "
                f"row, {current.flaw}. Invoices may be missing."
            )
        before = current
    raise UnpodListUnstable(
        f"Try again when fewer invoices change: invoices may be missing, because no two of {MAX_PASSES} passes over "
        f"the list agreed. In the last pass, {current.flaw or 'the list had other invoices'}."
    )


class Pass:
    """One pass over the pages 1, 2, 3 and so on, until the end of the list.

    :ivar flaw: reason why the pass proves nothing. ``None`` after the last page means that it is a proof.
    """

    def __init__(
        self, fetcher: Fetcher, evidence: Evidence, page_size: int, *, one_response_is_enough: bool = True
    ) -> None:
        self.flaw: str | None = None
        self._fetcher = fetcher
        self._evidence = evidence
        self._page_size = page_size
        self._one_response_is_enough = one_response_is_enough
        self._ids: dict[InvoiceId, None] = {}  # in list order
        self._count: int | None = None  # `count` of every page
        self._full = 0  # rows of every page but the last
        self._rows = 0  # rows of the previous page
        self._asked = 1
        self._order = OrderWitness()

    def agrees_with(self, other: Pass) -> bool:
        """Return whether both passes read the same list and have no flaw."""
        flawless = not self.flaw and not other.flaw
        return flawless and self._ids.keys() == other._ids.keys() and self._count == other._count

    def pages(self, *, side_by_side: bool = False) -> Iterator[list[Invoice]]:
        """Yield the invoices of each page, until the end or a flaw."""
        self._fetcher.limit = self._fetcher.requests + MAX_PAGES
        page = self._fetcher.now(Window(0, self._page_size))
        self._count, self._full = page.count, len(page.invoices)
        self._rows = self._full
        # Without a `count`, an empty page 1 does not end the list: the server may hide all rows of that page.
        one_is_enough = self._one_response_is_enough and page.count is not None
        while page.invoices or (page.window.page == 1 and not one_is_enough):
            self._evidence.saw(page)
            self.flaw = self._take_in(page)
            if self.flaw:
                return
            yield page.invoices
            if page.is_whole_list and one_is_enough:
                break
            page = self._next(side_by_side)
        else:
            self._evidence.saw(page)
            self.flaw = self._flaw_of_end(page)
        self._fetcher.drop()
        self._evidence.end, self._evidence.order = SHORT if page.is_whole_list else PAST, self._order.order

    def _next(self, side_by_side: bool) -> WindowPage:
        if not side_by_side:
            return self._fetcher.now(self._next_window())
        while not self._fetcher.waiting or (self._fetcher.room and self._more_expected()):
            self._fetcher.ask(self._next_window())
        return self._fetcher.take()

    def _next_window(self) -> Window:
        self._asked += 1
        return Window((self._asked - 1) * self._page_size, self._page_size)

    def _more_expected(self) -> bool:
        if self._count is None:  # the end is unknown: request ahead at most as many pages as were read
            return self._fetcher.waiting < self._asked // 2
        return self._asked <= -(-self._count // self._full)  # up to the page after the last row

    def _take_in(self, page: WindowPage) -> str | None:
        """Record the rows of ``page``. Return the flaw that it shows, if any."""
        number, rows = page.window.page, len(page.invoices)
        if page.count != self._count:
            return f"`count` went from {self._count} to {page.count}"
        before = len(self._ids)
        self._ids.update(dict.fromkeys([invoice.key for invoice in page.invoices]))
        if len(self._ids) < before + rows:
            return self._two_of_one_number(page, before) or f"a row of page {number} was listed twice"
        if self._rows < self._full:
            return f"page {number - 1} had only {self._rows} of {self._full} rows but was not the last"
        if rows > self._full:
            return f"page {number} had {rows} rows, but page 1 only {self._full}"
        if self._count is not None and len(self._ids) > self._count:
            return f"`count` was {self._count}, but the list had {len(self._ids)} rows"
        self._order.observe(page.invoices)
        self._rows = rows
        return None

    def _two_of_one_number(self, page: WindowPage, before: int) -> str | None:
        """Return the flaw if a row of ``page`` has the number of a different row. ``None`` if it does not.

        If the other row was on an earlier page, that page is read again: it still has it, unless the row has moved.

        :param before: number of rows on earlier pages.
        """
        earlier = list(self._ids)[:before]
        repeated = {invoice.key for invoice in page.invoices}.intersection(earlier)
        if not repeated:
            return _name_two_of_one_number(page.invoices)
        start = min(map(earlier.index, repeated)) // self._full * self._page_size
        return _name_two_of_one_number([*self._fetch(Window(start, self._page_size)).invoices, *page.invoices])

    def _flaw_of_end(self, page: WindowPage) -> str | None:
        """Return the flaw if the empty ``page`` is not the end of the list."""
        if not page.past_end and page.count != self._count:
            return f"`count` went from {self._count} to {page.count}"
        if self._count is not None:
            if len(self._ids) == self._count:
                return None
            return f"`count` was {self._count}, but the list had {len(self._ids)} rows"
        if not ends_list(page, self._fetch):
            return f"page {page.window.page} was empty, but a page far after it was not"
        if self._ids and self._rows == self._full and not self._ends_otherwise_too():
            return f"page {page.window.page} did not exist, but pages of another size ended elsewhere"
        return None

    def _ends_otherwise_too(self) -> bool:
        """Return whether pages of another size end at the same row.

        A gateway's 404 in the middle of the list would look like its end. So the last rows are read again with a
        ``page_size`` that does not divide their number, and must fill only a part of the page.
        """
        total = len(self._ids)
        smaller = [size for size in range(2, self._full) if total % size]
        size = max(smaller, key=lambda size: size - total % size, default=0) or next(
            size for size in numbers(self._full + 1) if total % size
        )
        last = self._fetch(Window(total // size * size, size))
        return [invoice.key for invoice in last.invoices] == list(self._ids)[last.window.start :]

    def _fetch(self, window: Window) -> WindowPage:
        page = self._fetcher.now(window)
        self._evidence.saw(page)
        return page


def _name_two_of_one_number(invoices: list[Invoice]) -> str | None:
    """Return the flaw if two different rows have the same invoice number and no ``id``. ``None`` if there are none."""
    by_key: dict[InvoiceId, Invoice] = {}
    for invoice in invoices:
        other = by_key.setdefault(invoice.key, invoice)
        if other != invoice and invoice.raw.get("id") is None:
            return (
                f"two different rows had the number {short_repr(invoice.invoice_id)} and no `id` (an invoice and its "
                "credit note, for example)"
            )
    return None
