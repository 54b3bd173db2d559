"""Reads one complete list from many pages, at the chosen level of consistency.

``linked`` (the default) proves that no invoice is missing although the list changes. If the server does not allow this
proof, the read falls back to ``repeated`` passes. ``single-pass`` reads every page once and checks only ``count`` and
repeated ids. See `docs/completeness.md`.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from airflow_provider_unpod.billing.http.settings import argument_of_reading
from airflow_provider_unpod.billing.invoice import Invoice
from airflow_provider_unpod.billing.reading.evidence import (
    LINKED,
    REPEATED,
    SINGLE_PASS,
    Evidence,
    consistency_of,
)
from airflow_provider_unpod.billing.reading.fetcher import Fetcher, PageSource, Progress
from airflow_provider_unpod.billing.reading.linked_read import LinkedRead
from airflow_provider_unpod.billing.reading.passes import repeated_passes, single_pass
from airflow_provider_unpod.billing.reading.selection import Selection
from airflow_provider_unpod.billing.reading.window_links import Unlinkable

if TYPE_CHECKING:
    from types import TracebackType

log = logging.getLogger(__name__)


#: Selects every invoice.
EVERYTHING = Selection()


def read_list(
    source: PageSource,
    selection: Selection = EVERYTHING,
    *,
    consistency: str = LINKED,
    page_size: int | None = None,
    max_concurrency: int | None = None,
) -> Reading:
    """Start to read the whole billing list. The first request is made when the first invoice is taken.

    :param selection: the invoices to yield. Default: all.
    :param consistency: ``"linked"`` or ``"single-pass"``.
    :param page_size: most rows per page. Default: that of ``source``.
    :param max_concurrency: most requests in flight. Default: that of ``source``.
    :raises UnpodConfigError: if an argument is invalid.
    """
    consistency_of(consistency, "consistency")
    size = source.page_size if page_size is None else argument_of_reading(page_size, "page_size")
    concurrency = source.max_concurrency
    if max_concurrency is not None:
        concurrency = argument_of_reading(max_concurrency, "max_concurrency")
    return Reading(source, selection, consistency, size, concurrency)


class Reading(Iterator[Invoice]):
    """An iterator over the selected invoices of one list, each once.

    The result is complete only if the iteration ends without an error. It raises
    :class:`~airflow_provider_unpod.billing.errors.UnpodListUnstable` if completeness cannot be proved, and the errors
    of requests. To stop early, close it or use it in a ``with`` statement; this cancels all requests in flight.

    :ivar selection: the invoices to yield. The whole list is read and proved complete, even if few are selected.
    """

    def __init__(
        self, source: PageSource, selection: Selection, consistency: str, page_size: int, max_concurrency: int
    ) -> None:
        self.selection = selection
        self._fetcher = Fetcher(source, max_concurrency)
        self._progress = Progress(source)
        self._evidence = Evidence(consistency)
        self._finished = False
        self._read = self._read_list(page_size)
        # Most reads select everything. They are spared a call for each invoice.
        self._invoices: Iterator[Invoice] = (
            self._read if selection == EVERYTHING else filter(selection.matches, self._read)
        )

    @property
    def evidence(self) -> Evidence:
        """The evidence that the list is complete.

        :raises RuntimeError: if the list has not been read to the end.
        """
        if not self._finished:
            raise RuntimeError("Read the list to the end first: until then there is no evidence of its completeness.")
        return self._evidence

    def __next__(self) -> Invoice:
        return next(self._invoices)

    def __enter__(self) -> Reading:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the read. It may be called more than once."""
        self._read.close()
        self._fetcher.close()

    def _read_list(self, page_size: int) -> Generator[Invoice, None, None]:
        evidence = self._evidence
        try:
            for fresh in self._pages(page_size):
                evidence.added(len(fresh))
                self._report_progress()
                yield from fresh
            evidence.requests = self._fetcher.requests
            self._finished = True
        finally:
            self._fetcher.close()

    def _pages(self, page_size: int) -> Iterator[list[Invoice]]:
        """Yield the new invoices of each response."""
        fetcher, evidence = self._fetcher, self._evidence
        if evidence.consistency == SINGLE_PASS:
            yield from single_pass(fetcher, evidence, page_size)
            return
        read = LinkedRead(fetcher, evidence, page_size)
        try:
            yield from read.pages()
            return
        except Unlinkable as reason:
            evidence.consistency, evidence.fallback = REPEATED, str(reason)
        fetcher.drop()
        log.info("Reading the whole list repeatedly until two passes agree: %s.", evidence.fallback)
        yield from repeated_passes(fetcher, evidence, page_size, read.links)

    def _report_progress(self) -> None:
        known, invoices = self._evidence.count_last, self._evidence.invoices
        self._progress.report(
            pages=self._evidence.windows,
            invoices=invoices,
            requests=self._fetcher.requests,
            rows_to_go=max(0, known - invoices) if known is not None else None,
        )
