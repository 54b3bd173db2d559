"""Pages, several at a time, handed out in the order asked for; bounded in number, and quick to stop."""

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

#: A response that comes within so many seconds is not worth a thread: several take turns at the interpreter, which
#: costs more than it saves. An API on the same machine is as quick as that, one across a network hardly ever.
SWIFT = 0.003
#: Speed is judged by the fastest of the last so many responses; the others may have been delayed by something else.
_LATEST = 8
#: Seconds between two lines of progress; reads shorter than this say nothing.
PROGRESS_INTERVAL = 5.0


class PageSource(Protocol):
    """What a list is read from; :class:`~airflow_provider_unpod.billing.client.UnpodClient` is one."""

    page_size: int
    max_concurrency: int

    def get_page(self, page: int, page_size: int, cancellation: Cancellation | None = None) -> Page: ...


class Fetcher:
    """Fetches windows for one read. Not thread-safe: one consumer, many requests.

    Windows asked for ahead are fetched by up to ``concurrency`` threads, which start with the first such request; where
    the API responds at once, a window is fetched when it is taken. The first failure cuts all requests in flight, and
    is raised to the consumer.
    """

    def __init__(self, source: PageSource, concurrency: int) -> None:
        self._source = source
        self._concurrency = concurrency
        self._cancellation = Cancellation()
        self._slots = threading.Semaphore(concurrency)  # shared by requests ahead and requests right now
        self._threads: ThreadPoolExecutor | None = None
        self._ahead: deque[Future[WindowPage] | Window] = deque()
        self._latest: tuple[float, ...] = ()  # seconds that responses took
        self._failure: BaseException | None = None
        self._drops = 0  # generation counter: windows asked for before the latest drop() are not needed
        self.requests = 0
        self.limit = 0  # the reader raises it as it learns how long the list is

    @property
    def room(self) -> int:
        """How many more windows may be asked for ahead: twice the threads, so that none waits for a slow response."""
        return max(0, (1 if self._swift else 2 * self._concurrency) - len(self._ahead))

    @property
    def waiting(self) -> int:
        """How many windows were asked for ahead and not taken yet."""
        return len(self._ahead)

    def now(self, window: Window) -> WindowPage:
        """Fetch one window by itself."""
        self._count()
        return self._fetch(window, self._drops)

    def ask(self, window: Window) -> None:
        """Ask for a window ahead of its :meth:`take`."""
        self._count()
        if self._swift:
            self._ahead.append(window)
            return
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._concurrency, thread_name_prefix="unpod-page")
        self._ahead.append(self._threads.submit(self._fetch, window, self._drops))

    def take(self) -> WindowPage:
        """The next of the windows asked for ahead, in the order of asking."""
        ahead = self._ahead.popleft()
        return self._fetch(ahead, self._drops) if isinstance(ahead, Window) else ahead.result()

    def drop(self) -> None:
        """Forget what was asked for ahead; what has not been sent yet is not sent (and not counted)."""
        self._drops += 1
        while self._ahead:
            ahead = self._ahead.pop()
            self.requests -= isinstance(ahead, Window) or ahead.cancel()

    def close(self) -> None:
        """Cut what is in flight and wait for the threads, which then end at once."""
        self._cancellation.cancel()
        self._ahead.clear()
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)

    def _count(self) -> None:
        if self.requests >= self.limit:
            raise UnpodListUnstable(
                f"Try again at a quieter time: gave up after {self.requests} requests for one list, which moved faster "
                "than it could be read."
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
            if drops == self._drops:  # else it is not needed any more, and its failure does not matter
                if self._failure is None:
                    self._failure = failure
                self._cancellation.cancel()
            raise
        # Replaced, not changed: threads that do so at the same time lose one of their times, and nothing else.
        self._latest = (*self._latest[1 - _LATEST :], time.monotonic() - began)
        return WindowPage(window, page)


class Progress:
    """One line of log every few seconds of a long read."""

    def __init__(self, source: PageSource, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._clock = clock
        self._began = self._said = clock()

    def report(self, *, pages: int, invoices: int, requests: int, rows_to_go: int | None) -> None:
        """Say how far the read has got, if it is time to.

        :param rows_to_go: rows not read yet, ``None`` where the API does not say.
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
