"""Fetches several pages at a time and returns them in order. The number of requests is limited."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from airflow_provider_unpod.billing.errors import UnpodListUnstable
from airflow_provider_unpod.billing.http.cancellation import Cancellation, Cancelled
from airflow_provider_unpod.billing.reading.windows import Window, WindowPage

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_unpod.billing.client import Page

log = logging.getLogger(__name__)

#: Responses faster than this (seconds) are fetched without threads, because switching threads costs more than it saves.
#: Only an API on the same machine is that fast.
SWIFT = 0.003
#: Speed is judged by the fastest of this many latest responses. Others may have been delayed by something else.
_LATEST = 8
#: Seconds between two progress lines in the log. Shorter reads log none.
PROGRESS_INTERVAL = 5.0


class PageSource(Protocol):
    """The source of the pages of a list, such as :class:`~airflow_provider_unpod.billing.client.UnpodClient`."""

    page_size: int
    max_concurrency: int

    def get_page(self, page: int, page_size: int, cancellation: Cancellation | None = None) -> Page: ...


class Fetcher:
    """Fetches windows for one read. Not thread-safe: use it from one thread only.

    Windows are requested ahead by up to ``concurrency`` threads. If the API is very fast, no threads are used, and a
    window is fetched when it is taken. The first failure cancels all requests in flight and is raised to the caller.
    """

    def __init__(self, source: PageSource, concurrency: int) -> None:
        self._source = source
        self._concurrency = concurrency
        self._cancellation = Cancellation()
        self._slots = threading.Semaphore(concurrency)  # for requests of ask() and now()
        self._threads: ThreadPoolExecutor | None = None
        self._ahead: deque[Future[WindowPage] | Window] = deque()
        self._latest: tuple[float, ...] = ()  # durations of the latest responses in seconds
        self._failure: BaseException | None = None
        self._drops = 0  # generation counter: windows requested before the latest drop() are discarded
        self.requests = 0
        self.limit = 0  # the reader raises it when it knows how long the list is

    @property
    def room(self) -> int:
        """The number of windows that may still be requested ahead, up to two for each thread."""
        return max(0, (1 if self._swift else 2 * self._concurrency) - len(self._ahead))

    @property
    def waiting(self) -> int:
        """The number of windows that were requested ahead and not taken yet."""
        return len(self._ahead)

    def now(self, window: Window) -> WindowPage:
        """Fetch one window immediately."""
        self._count()
        return self._fetch(window, self._drops)

    def ask(self, window: Window) -> None:
        """Request a window ahead. :meth:`take` returns it."""
        self._count()
        if self._swift:
            self._ahead.append(window)
            return
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._concurrency, thread_name_prefix="unpod-page")
        self._ahead.append(self._threads.submit(self._fetch, window, self._drops))

    def take(self) -> WindowPage:
        """Return the next window that was requested ahead, in the order of the requests."""
        ahead = self._ahead.popleft()
        return self._fetch(ahead, self._drops) if isinstance(ahead, Window) else ahead.result()

    def drop(self) -> None:
        """Discard all windows requested ahead. Requests that were not sent yet are neither sent nor counted."""
        self._drops += 1
        while self._ahead:
            ahead = self._ahead.pop()
            self.requests -= isinstance(ahead, Window) or ahead.cancel()

    def close(self) -> None:
        """Cancel all requests in flight and wait until the threads have ended."""
        self._cancellation.cancel()
        self._ahead.clear()
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)

    def _count(self) -> None:
        if self.requests >= self.limit:
            raise UnpodListUnstable(
                f"Try again when fewer invoices change: gave up after {self.requests} requests, because the list "
                "changed faster than it could be read."
            )
        self.requests += 1

    @property
    def _swift(self) -> bool:
        return min(self._latest, default=SWIFT) < SWIFT

    def _fetch(self, window: Window, drops: int) -> WindowPage:
        try:
            with self._slots:
                began = time.monotonic()
                page = self._source.get_page(window.page, window.size, self._cancellation)
        except Cancelled:
            if self._failure is not None:
                raise self._failure from None
            raise
        except BaseException as failure:
            if drops == self._drops:  # otherwise the window was discarded, and its failure does not matter
                if self._failure is None:
                    self._failure = failure
                self._cancellation.cancel()
            raise
        # Replaced, not modified: if two threads do this at the same time, only one duration is lost.
        self._latest = (*self._latest[1 - _LATEST :], time.monotonic() - began)
        return WindowPage(window, page)


class Progress:
    """Logs the progress of a long read every few seconds."""

    def __init__(self, source: PageSource, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._clock = clock
        self._began = self._said = clock()

    def report(self, *, pages: int, invoices: int, requests: int, rows_to_go: int | None) -> None:
        """Log the progress, unless the last line is too recent.

        :param rows_to_go: number of rows not read yet. ``None`` if it is unknown.
        """
        now = self._clock()
        if now - self._said < PROGRESS_INTERVAL:
            return
        self._said = now
        elapsed = now - self._began
        parts = [f"{invoices:,} invoices in {pages:,} pages, {requests:,} requests, {elapsed:.0f} s"]
        if rows_to_go is not None and invoices:
            parts.append(f"about {rows_to_go:,} invoices and {elapsed * rows_to_go / invoices:.0f} s to go")
        budget = getattr(self._source, "budget", None)
        if budget is not None:
            parts.append(f"rate limit: {budget}")
        log.info("Reading the invoice list: %s", "; ".join(parts))
