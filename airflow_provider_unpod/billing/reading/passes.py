"""Reading a whole list by plain pages: once, or over and over until nothing changes any more."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_provider_unpod.billing.errors import UnpodListUnstable
from airflow_provider_unpod.billing.reading.order import OrderWitness
from airflow_provider_unpod.billing.reading.windows import Window

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from airflow_provider_unpod.billing.invoice import Invoice, InvoiceId
    from airflow_provider_unpod.billing.reading.evidence import Tally
    from airflow_provider_unpod.billing.reading.fetcher import Fetcher
    from airflow_provider_unpod.billing.reading.window_links import WindowPage

#: Passes before a list counts as unreadable.
MAX_PASSES = 5
#: Pages of one pass where the API gives no `count` to bound it: ten million rows of a hundred a page.
_MAX_PAGES = 100_000


def plain_page_size(first: WindowPage) -> int:
    """The page size that the server uses, as its first answer shows it: it may clamp or ignore the one asked for."""
    rows = len(first.invoices)
    limited = first.short and first.count is not None and rows < first.count
    return rows if rows > first.window.size or (limited and rows) else first.window.size


def single_pass(fetcher: Fetcher, tally: Tally, page_size: int) -> Iterator[Invoice]:
    """Every page once, several at a time.

    :raises UnpodListUnstable: if ``count``, the ids or a page's length show that the list moved. A change that none of
        them shows (one row deleted, another inserted) goes unnoticed.
    """
    seen: set[InvoiceId] = set()
    order = OrderWitness()
    fetcher.limit = 1
    answer = fetcher.now(Window(0, page_size))
    first_count = answer.count
    size = plain_page_size(answer)
    asked = end = size
    while True:
        tally.saw(answer)
        if answer.count != first_count:
            raise _moved(f"`count` went from {first_count} to {answer.count}")
        order.observe(answer.invoices)
        before = len(seen)
        seen.update([invoice.key for invoice in answer.invoices])
        if len(seen) < before + len(answer.invoices):
            raise _moved(f"an invoice of page {answer.window.page} was on an earlier page as well")
        yield from answer.invoices
        tally.invoices = len(seen)
        if first_count is None and not answer.invoices:
            break
        if first_count is not None:
            if len(answer.invoices) < min(size, first_count - answer.window.start):
                raise _moved(f"page {answer.window.page} came with {len(answer.invoices)} rows")
            if end >= first_count:
                break
        fetcher.limit = -(-first_count // size) if first_count is not None else _MAX_PAGES
        while fetcher.room and (asked < first_count if first_count is not None else fetcher.waiting < tally.windows):
            fetcher.ask(Window(asked, size))
            asked += size
        answer = fetcher.take()
        end = answer.window.end
    if first_count is not None and len(seen) != first_count:
        raise _moved(f"`count` is {first_count}, but {len(seen)} invoices came")
    fetcher.drop()
    tally.order, tally.end = order.order, "past" if first_count is None and seen else "short" if seen else "empty"


def _moved(what: str) -> UnpodListUnstable:
    return UnpodListUnstable(
        f"The list moved during a single pass: {what}. Invoices may be missing, so nothing is given out as a whole; "
        'try again, or read with consistency="linked", which copes with a moving list.'
    )


def repeated_passes(
    fetcher: Fetcher, tally: Tally, page_size: int, given_out: Container[InvoiceId]
) -> Iterator[Invoice]:
    """Whole passes, pages strictly one after another, until two successive ones agree.

    They agree if they have the same ids, none of them twice, and one and the same ``count``, if there is one. Passes
    whose pages are fetched side by side would not do: they can agree on the same wrong result.

    :param given_out: ids which the caller gave out already; they are read, but not given out again.
    :raises UnpodListUnstable: if no two of ``MAX_PASSES`` passes agree.
    """
    new: set[InvoiceId] = set()
    before: _Pass | None = None
    for number in range(1, MAX_PASSES + 1):
        tally.passes = number
        current = _Pass(fetcher, tally, page_size)
        for invoice in current.invoices():
            if invoice.key not in new and invoice.key not in given_out:
                new.add(invoice.key)
                yield invoice
        if before is not None and current.agrees_with(before):
            tally.invoices, tally.order, tally.end = len(current.ids), current.order.order, current.end
            return
        before = current
    raise UnpodListUnstable(
        f"No two of {MAX_PASSES} passes over the list agreed: {before.flaw if before and before.flaw else 'it moves'}. "
        "Nothing partial is given out; try again at a quieter time."
    )


class _Pass:
    """One pass over the list."""

    def __init__(self, fetcher: Fetcher, tally: Tally, page_size: int) -> None:
        self._fetcher = fetcher
        self._tally = tally
        self._page_size = page_size
        self._short_inside = False
        self._lengths: list[int] = []
        self._first_count: int | None = None
        self.ids: set[InvoiceId] = set()
        self.counts: set[int | None] = set()
        self.order = OrderWitness()
        self.flaw: str | None = None  # why this pass is no witness, whatever the other says
        self.end = ""

    def invoices(self) -> Iterator[Invoice]:
        start, size = 0, self._page_size
        while not self.end:
            self._fetcher.limit = self._fetcher.requests + 1
            answer = self._fetcher.now(Window(start, size))
            if start == 0:
                size = plain_page_size(answer)
                answer = replace(answer, window=Window(0, size))
            start = answer.window.end
            self._take_in(answer)
            if self.flaw:
                return
            yield from answer.invoices
        if len(self.counts) > 1:
            self.flaw = f"`count` took {len(self.counts)} values during one pass"
        elif self.counts != {None} and not self._short_inside and self.counts != {len(self.ids)}:
            self.flaw = f"`count` says {self.counts}, but {len(self.ids)} invoices came"

    def _take_in(self, answer: WindowPage) -> None:
        self._tally.saw(answer)
        self.order.observe(answer.invoices)
        self.counts.add(answer.count)
        before = len(self.ids)
        self.ids.update([invoice.key for invoice in answer.invoices])
        if len(self.ids) < before + len(answer.invoices):
            self.flaw = f"an invoice of page {answer.window.page} had come before"
        elif answer.window.page > self._most_pages(answer):
            self.flaw = f"it did not end within {answer.window.page} pages"
        elif not answer.invoices and (answer.count is None or answer.window.start >= answer.count):
            self.end = "past" if self.ids else "empty"
        elif answer.count is not None and answer.window.end >= answer.count:
            self.end = "count" if self._short_inside else "short"
        elif answer.short:
            self._short_inside = True
        if answer.count is None and answer.invoices:
            self._lengths.append(len(answer.invoices))
            if len(set(self._lengths[:-1])) > 1 or self._lengths[-1] > self._lengths[0]:
                self.flaw = "pages come short in the middle, and the API gives no `count`"

    def _most_pages(self, answer: WindowPage) -> int:
        """A list that grows as fast as it is read must not be followed for ever."""
        if self._first_count is None:
            self._first_count = answer.count
        return _MAX_PAGES if self._first_count is None else 2 * (self._first_count // answer.window.size + 2)

    def agrees_with(self, other: _Pass) -> bool:
        return not self.flaw and not other.flaw and self.ids == other.ids and self.counts == other.counts
