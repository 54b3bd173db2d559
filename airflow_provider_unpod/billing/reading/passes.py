"""Reading a whole list by plain pages: once, or over and over until two passes in a row agree.

A pass has one end: an empty page, or a 404, behind the last row. Only a list that one short response holds, with as
many rows as its ``count``, needs no second request.
"""

from __future__ import annotations

from itertools import count as numbers
from typing import TYPE_CHECKING

from airflow_provider_unpod.billing.errors import UnpodListUnstable, short_repr
from airflow_provider_unpod.billing.reading.evidence import PAST, SHORT
from airflow_provider_unpod.billing.reading.order import OrderWitness
from airflow_provider_unpod.billing.reading.windows import Window

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from airflow_provider_unpod.billing.invoice import Invoice, InvoiceId
    from airflow_provider_unpod.billing.reading.evidence import Evidence
    from airflow_provider_unpod.billing.reading.fetcher import Fetcher
    from airflow_provider_unpod.billing.reading.windows import WindowPage

#: Passes before a list counts as unreadable.
MAX_PASSES = 5
#: Pages of one pass: ten million rows of a hundred a page. Where the API gives no `count`, nothing else bounds it.
_MAX_PAGES = 100_000


def single_pass(fetcher: Fetcher, evidence: Evidence, page_size: int) -> Iterator[list[Invoice]]:
    """Every page once, several at a time; yields the invoices of each.

    :raises UnpodListUnstable: if ``count``, the ids, the length of a page or the end show that the list moved, or that
        the server leaves rows out. A change that none of them shows (a deletion and an insertion) goes unnoticed.
    """
    only = Pass(fetcher, evidence, page_size)
    yield from only.pages(side_by_side=True)
    if only.flaw:
        raise UnpodListUnstable(
            f'Read with consistency="linked", which copes with a list that moves: in a single pass {only.flaw}. '
            "Invoices may be missing."
        )


def repeated_passes(
    fetcher: Fetcher, evidence: Evidence, page_size: int, known: Container[InvoiceId]
) -> Iterator[list[Invoice]]:
    """Whole passes, pages strictly one after another, until two successive ones agree; yields what each page adds.

    They agree if they have the same ids and the same ``count``, and neither has a flaw. Passes whose pages are fetched
    side by side would not do: they can agree on the same wrong result.

    :param known: ids which the caller has yielded already; they are read, but not yielded again.
    :raises UnpodListUnstable: if no two of ``MAX_PASSES`` passes agree, or two in a row have the same flaw.
    """
    new: set[InvoiceId] = set()
    before: Pass | None = None
    for number in range(1, MAX_PASSES + 1):
        evidence.passes = number
        current = Pass(fetcher, evidence, page_size)
        for page in current.pages():
            fresh = [invoice for invoice in page if invoice.key not in new and invoice.key not in known]
            new.update([invoice.key for invoice in fresh])
            yield fresh
        if before is not None and current.agrees_with(before):
            return
        if before is not None and current.flaw and current.flaw == before.flaw:
            raise UnpodListUnstable(
                "Trying again is unlikely to help, the server does not list its invoices reliably: in two passes in a "
                f"row {current.flaw}. Invoices may be missing."
            )
        before = current
    raise UnpodListUnstable(
        f"Try again at a quieter time, invoices may be missing: no two of {MAX_PASSES} passes over the list agreed, "
        f"and in the last one {current.flaw or 'other invoices came'}."
    )


class Pass:
    """One pass: pages 1, 2, 3 and so on of one size, up to the end behind the last row.

    :ivar flaw: what was seen that keeps it from being a proof; ``None`` at its end: it is one.
    """

    def __init__(self, fetcher: Fetcher, evidence: Evidence, page_size: int) -> None:
        self.flaw: str | None = None
        self._fetcher = fetcher
        self._evidence = evidence
        self._page_size = page_size
        self._ids: dict[InvoiceId, None] = {}  # in the order of the list
        self._count: int | None = None  # of the first page, and so of all
        self._full = 0  # rows of the first page, and so of all but the last
        self._rows = 0  # of the page before
        self._asked = 1
        self._order = OrderWitness()

    def agrees_with(self, other: Pass) -> bool:
        """Whether both are without a flaw, and saw the same list."""
        flawless = not self.flaw and not other.flaw
        return flawless and self._ids.keys() == other._ids.keys() and self._count == other._count

    def pages(self, *, side_by_side: bool = False) -> Iterator[list[Invoice]]:
        """The invoices of each page, until the end or a flaw."""
        self._fetcher.limit = self._fetcher.requests + _MAX_PAGES
        page = self._fetcher.now(Window(0, self._page_size))
        self._count, self._full = page.count, len(page.invoices)
        self._rows = self._full
        # Without a `count` an empty page 1 may be a page whose rows are all hidden: then page 2 is there.
        while page.invoices or (page.window.page == 1 and page.count is None):
            self._evidence.saw(page)
            self.flaw = self._take_in(page)
            if self.flaw:
                return
            yield page.invoices
            if page.is_whole_list:
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
        if self._count is None:  # the end is unknown: ask ahead no farther than was read already
            return self._fetcher.waiting < self._asked // 2
        return self._asked <= -(-self._count // self._full)  # up to the page behind the last row

    def _take_in(self, page: WindowPage) -> str | None:
        """The flaw that a page shows, if any."""
        number, rows = page.window.page, len(page.invoices)
        if page.count != self._count:
            return f"`count` went from {self._count} to {page.count}"
        before = len(self._ids)
        self._ids.update(dict.fromkeys([invoice.key for invoice in page.invoices]))
        if len(self._ids) < before + rows:
            return _name_two_of_one_number(page.invoices) or f"an invoice of page {number} came twice"
        if self._rows < self._full:
            return f"page {number - 1} came with {self._rows} invoices, page 1 with {self._full}, and more followed"
        if rows > self._full:
            return f"page {number} came with {rows} invoices, page 1 with {self._full}"
        if self._count is not None and len(self._ids) > self._count:
            return f"`count` is {self._count}, but {len(self._ids)} invoices came"
        self._order.observe(page.invoices)
        self._rows = rows
        return None

    def _flaw_of_end(self, page: WindowPage) -> str | None:
        """``page`` is empty; whether that is the end of the list."""
        if not page.past_end and page.count != self._count:
            return f"`count` went from {self._count} to {page.count}"
        if self._count is not None:
            return None if len(self._ids) == self._count else f"`count` is {self._count}, but {len(self._ids)} came"
        if not page.past_end and not self._ends_by_empty_pages():
            return f"page {page.window.page} was empty, but pages far behind it were not"
        if self._ids and self._rows == self._full and not self._ends_otherwise_too():
            return f"there was no page {page.window.page}, but pages of another size showed another end"
        return None

    def _ends_by_empty_pages(self) -> bool:
        """Whether a page that is certainly behind the end is empty, too: else an empty page has its rows hidden."""
        far = self._fetch(Window(_MAX_PAGES * self._page_size, self._page_size))
        return not far.invoices and not far.past_end

    def _ends_otherwise_too(self) -> bool:
        """Whether the last rows, read again with a ``page_size`` that does not divide them, come short.

        A gateway's 404 in the middle of the list looks like its end.
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
    """The flaw of a page that has one invoice number in two different rows; ``None`` if it has not.

    The rows of one page are one snapshot, so it is not one invoice that moved or changed.
    """
    by_key: dict[InvoiceId, Invoice] = {}
    for invoice in invoices:
        other = by_key.setdefault(invoice.key, invoice)
        if other != invoice:
            return (
                f"two different rows had the number {short_repr(invoice.invoice_id)}, such as an invoice and its "
                "credit note, which only an `id` could tell apart"
            )
    return None
