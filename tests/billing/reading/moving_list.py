"""An in-memory billing list that changes while it is read, and a pool that runs requests in any order.

Both are deterministic, so that failures can be reproduced.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from airflow_provider_unpod.billing.client import Page
from airflow_provider_unpod.billing.invoice import Invoice

NEWEST, OLDEST, SHUFFLED = "newest first", "oldest first", "shuffled"


def row(number: int, status: str = "pending", date: str | None = None) -> dict[str, Any]:
    day = date or f"20{10 + number // 40000 % 80:02}-{number // 2800 % 12 + 1:02}-{number // 100 % 28 + 1:02}"
    return {
        "id": number,
        "amount": f"{number}.00",
        "currency": "USD",
        "status": status,
        "invoice_date": f"{day}T{number // 60 % 24:02}:{number % 60:02}:00Z",
    }


class MovingList:
    """A server's list. ``world(list)`` runs before each request is answered, and ``between(list)`` between the reading
    of the rows and that of ``count``; both may change anything.

    :param cap: most rows of a page. With ``ignore_page_size``, every page has this many.
    :param hidden_rows: rows that the server drops after slicing.
    :param counts: value of ``count``: ``"right"``, only ``"visible"`` rows, ``"null"``, or a constant number.
    :param past_end: page past the end: ``"404"``, ``"200"`` and empty, or the ``"last"`` or ``"first"`` page.
    """

    def __init__(
        self,
        rows: int,
        order: str = NEWEST,
        *,
        seed: int = 0,
        cap: int = 100,
        ignore_page_size: bool = False,
        hidden_rows: Callable[[int], bool] = lambda number: False,
        counts: str | int = "right",
        past_end: str = "404",
        world: Callable[[MovingList], None] = lambda moving: None,
        between: Callable[[MovingList], None] = lambda moving: None,
        make_row: Callable[[int], dict[str, Any]] = row,
        page_size: int = 100,
        max_concurrency: int = 4,
    ) -> None:
        self.random = random.Random(seed)
        self.order = order
        self.next_id = rows
        self.ids = list(range(rows))
        if order == NEWEST:
            self.ids.reverse()
        elif order == SHUFFLED:
            self.random.shuffle(self.ids)
        self.at_first = set(self.ids)
        self.gone: set[int] = set()
        self.cap = cap
        self.ignore_page_size = ignore_page_size
        self.hidden_rows = hidden_rows
        self.counts = counts
        self.past_end = past_end
        self.world = world
        self.between = between
        self.make_row = make_row
        self.page_size = page_size
        self.max_concurrency = max_concurrency
        self.requests: list[tuple[int, int]] = []
        self.responses: list[Page] = []
        self.longest, self.smallest_cap = rows, cap

    # -- what a world does

    def insert(self) -> None:
        number, self.next_id = self.next_id, self.next_id + 1
        if self.order == NEWEST:
            self.ids.insert(0, number)
        elif self.order == OLDEST:
            self.ids.append(number)
        else:
            self.ids.insert(self.random.randrange(len(self.ids) + 1), number)

    def delete(self, position: int | None = None) -> None:
        if self.ids:
            position = self.random.randrange(len(self.ids)) if position is None else position
            self.gone.add(self.ids.pop(position))

    def move(self, where: int | None = None, to: int | None = None) -> None:
        """Break the promise of a fixed order."""
        if self.ids:
            number = self.ids.pop(self.random.randrange(len(self.ids)) if where is None else where)
            self.ids.insert(self.random.randrange(len(self.ids) + 1) if to is None else to, number)

    @property
    def stable(self) -> set[int]:
        """The visible ids that existed during the whole read."""
        return {number for number in self.at_first - self.gone if not self.hidden_rows(number)}

    # -- what a client sees

    def get_page(self, page: int, page_size: int, cancellation: object = None) -> Page:
        self.requests.append((page, page_size))
        self.world(self)
        self.longest, self.smallest_cap = max(self.longest, len(self.ids)), min(self.smallest_cap, self.cap)
        size = self.cap if self.ignore_page_size else min(page_size, self.cap)
        ids = self.ids[(page - 1) * size : page * size]
        past = page > 1 and not ids
        if past and self.past_end in ("last", "first"):
            ids = self.ids[(len(self.ids) - 1) // size * size :] if self.past_end == "last" else self.ids[:size]
        invoices = [Invoice(self.make_row(number)) for number in ids if not self.hidden_rows(number)]
        self.between(self)
        beyond = past and self.past_end == "404"
        self.responses.append(Page([], None, True) if beyond else Page(invoices, self._count(), False))
        return self.responses[-1]

    def _count(self) -> int | None:
        if self.counts == "right":
            return len(self.ids)
        if self.counts == "visible":
            return sum(not self.hidden_rows(number) for number in self.ids)
        return self.counts if isinstance(self.counts, int) else None


class ScramblingPool:
    """Replaces the thread pool. It runs requests in any order, but before their results are needed."""

    chooser = random.Random(0)

    def __init__(self, max_workers: int, thread_name_prefix: str = "") -> None:
        self.width = max_workers
        self.queue: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = []

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = _Demanded(self)
        self.queue.append((future, function, arguments))
        return future

    def run_one(self) -> None:
        # Of the first `width` in the queue, as that many threads would.
        future, function, arguments = self.queue.pop(self.chooser.randrange(min(self.width, len(self.queue))))
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function(*arguments))
            except BaseException as error:
                future.set_exception(error)

    def shutdown(self, wait: bool = True, cancel_futures: bool = False) -> None:
        self.queue.clear()


class _Demanded(Future[Any]):
    def __init__(self, pool: ScramblingPool) -> None:
        super().__init__()
        self._pool = pool

    def result(self, timeout: float | None = None) -> Any:
        while not self.done():
            self._pool.run_one()
        return super().result(timeout)
