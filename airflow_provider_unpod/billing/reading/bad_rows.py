"""Reports all invalid rows of a list in one error, so that users do not find them one failed run at a time."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_provider_unpod.billing.errors import UnpodBadAnswer, UnpodBadRows, UnpodError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from airflow_provider_unpod.billing.invoice import Invoice
    from airflow_provider_unpod.billing.reading.fetcher import PageSource

log = logging.getLogger(__name__)

#: Most pages to read in search of more invalid rows.
_MAX_PAGES = 100


def valid(invoices: Iterable[Invoice], check: Callable[[Invoice], object]) -> Iterator[Invoice]:
    """Yield the invoices that pass ``check``, and collect those that raise ``UnpodBadAnswer``.

    :raises UnpodBadRows: after the last invoice, or after twenty invalid ones, if there are any.
    """
    faults: list[str] = []
    for invoice in invoices:
        fault = _fault_of(invoice, check)
        if fault is None:
            yield invoice
            continue
        faults.append(fault)
        if len(faults) == UnpodBadRows.MOST:
            break
    if faults:
        raise UnpodBadRows.of(faults)


@contextmanager
def all_named(source: PageSource) -> Iterator[None]:
    """Add the invalid rows of other pages to the error of a read in this block.

    It makes one request per page, up to 100, until twenty rows are known. A page that cannot be read ends the search.

    :param source: the source of the read, still open.
    :raises UnpodBadRows: in place of that of the read.
    """
    try:
        yield
    except UnpodBadRows as error:
        raise _all_bad_rows(source, error) from None


def _all_bad_rows(source: PageSource, first: UnpodBadRows) -> UnpodBadRows:
    log.info("The list has invalid rows. Reading up to %d pages to name all of them.", _MAX_PAGES)
    rows = dict.fromkeys(first.rows)
    for page in range(1, _MAX_PAGES + 1):
        found = _bad_rows_of(source, page)
        if found is None or len(rows) >= UnpodBadRows.MOST:
            break
        rows.update(dict.fromkeys(found))
    return UnpodBadRows.of(list(rows))


def _fault_of(invoice: Invoice, check: Callable[[Invoice], object]) -> str | None:
    try:
        check(invoice)
    except UnpodBadAnswer as error:
        return error.message
    return None


def _bad_rows_of(source: PageSource, page: int) -> tuple[str, ...] | None:
    """Return the invalid rows of a page. ``None`` if the page is empty or cannot be read."""
    try:
        return () if source.get_page(page, source.page_size).invoices else None
    except UnpodBadRows as error:
        return error.rows
    except UnpodError:
        return None
