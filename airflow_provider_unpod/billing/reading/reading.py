"""One complete list out of many pages: the entry to reading, at each level of consistency.

``linked`` (the default) proves that nothing was lost while the list moved, and falls back to ``repeated`` whole passes
where the server does not allow the proof. ``single-pass`` reads every page once and notices what ``count`` and repeated
ids show. See `docs/completeness.md`.
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
    check_consistency,
)
from airflow_provider_unpod.billing.reading.fetcher import Fetcher, PageSource, Progress
from airflow_provider_unpod.billing.reading.linked_read import LinkedRead
from airflow_provider_unpod.billing.reading.passes import repeated_passes, single_pass
from airflow_provider_unpod.billing.reading.selection import Selection
from airflow_provider_unpod.billing.reading.window_links import Unlinkable

if TYPE_CHECKING:
    from types import TracebackType

log = logging.getLogger(__name__)


#: Wants every invoice.
EVERYTHING = Selection()


def read_list(
    source: PageSource,
    selection: Selection = EVERYTHING,
    *,
    consistency: str = LINKED,
    page_size: int | None = None,
    max_concurrency: int | None = None,
) -> Reading:
    """Begin to read the whole billing list; no request is made before the first invoice is asked for.

    :param selection: which of its invoices are yielded; all of them by default.
    :param consistency: ``"linked"`` or ``"single-pass"``.
    :param page_size: rows asked for at a time, at most; the source's own by default.
    :param max_concurrency: requests in flight, at most; the source's own by default.
    :raises UnpodConfigError: if an argument is out of range.
    """
    check_consistency(consistency)
    size = source.page_size if page_size is None else argument_of_reading("page_size", page_size)
    concurrency = source.max_concurrency
    if max_concurrency is not None:
        concurrency = argument_of_reading("max_concurrency", max_concurrency)
    return Reading(source, selection, consistency, size, concurrency)


class Reading(Iterator[Invoice]):
    """The wanted invoices of one complete list, each once, as they come.

    Only a reading that ended without an error is complete: the invoices yielded before an error must not be taken for
    the whole. Close it (or use it in a ``with``) to stop early; requests in flight are then cut.

    :ivar selection: which invoices are wanted. The whole list is read and proved complete, whatever is wanted of it.

    Iteration raises :class:`~airflow_provider_unpod.billing.errors.UnpodListUnstable` where completeness cannot be
    proved, and whatever a request raises.
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
        # Most readings want everything: spare them a call for each invoice.
        self._invoices: Iterator[Invoice] = (
            self._read if selection == EVERYTHING else filter(selection.matches, self._read)
        )

    @property
    def evidence(self) -> Evidence:
        """How completeness was established.

        :raises RuntimeError: before the last invoice was taken.
        """
        if not self._finished:
            raise RuntimeError("The list has not been read to its end, so nothing is known about its completeness.")
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
        """Stop; idempotent."""
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
        """The invoices that each response adds."""
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
        log.info("Reading the list by whole passes, until two agree: %s.", evidence.fallback)
        yield from repeated_passes(fetcher, evidence, page_size, read.links)

    def _report_progress(self) -> None:
        known, invoices = self._evidence.count_last, self._evidence.invoices
        self._progress.report(
            pages=self._evidence.windows,
            invoices=invoices,
            requests=self._fetcher.requests,
            rows_to_go=max(0, known - invoices) if known is not None else None,
        )
