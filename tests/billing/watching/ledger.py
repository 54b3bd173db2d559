"""A changing list of invoices with changing statuses, and a clock that tests set."""

from __future__ import annotations

import random
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.billing.errors import UnpodUnavailable
from airflow_provider_unpod.billing.watching.allowance import Allowance
from airflow_provider_unpod.billing.watching.subscriptions import Snapshot, Wanted
from airflow_provider_unpod.billing.watching.watch import ListWatch
from tests.billing.reading.moving_list import NEWEST, OLDEST, MovingList, row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow_provider_unpod.billing.client import Page
    from airflow_provider_unpod.billing.invoice import InvoiceId

EVERYTHING = Wanted(everything=True)


class Ledger(MovingList):
    """A list of invoices. Initially all except ``settled`` are pending.

    ``broken_after`` requests, the server is down until it is set to ``None``.
    """

    def __init__(
        self, rows: int, order: str = NEWEST, *, settled: Callable[[int], bool] = lambda number: False, **options: Any
    ) -> None:
        self.status: dict[InvoiceId, str] = {number: "paid" for number in range(rows) if settled(number)}
        self.broken_after: int | None = None
        options.setdefault("make_row", lambda number: row(number, self.status_of(number)))
        super().__init__(rows, order, **options)

    @classmethod
    def of(cls, ids: Sequence[int], order: str = NEWEST, **options: Any) -> Ledger:
        """Return a list with these ids, given from the oldest to the newest."""
        ledger = cls(0, order, **options)
        ledger.ids, ledger.next_id = list(ids if order == OLDEST else reversed(ids)), ids[-1] + 1
        return ledger

    def status_of(self, number: int) -> str:
        return self.status.get(number, "pending")

    def statuses(self) -> dict[int, str]:
        return {number: self.status_of(number) for number in self.ids}

    def get_page(self, page: int, page_size: int, cancellation: object = None) -> Page:
        if self.broken_after is not None:
            if self.broken_after == 0:
                raise UnpodUnavailable("down")
            self.broken_after -= 1
        return super().get_page(page, page_size)

    def cost(self) -> int:
        """Return the number of requests since the last call."""
        number = len(self.requests)
        self.requests.clear()
        return number


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Polls:
    """Polls of a list, one each ``interval`` seconds."""

    def __init__(self, ledger: Ledger, *, interval: float = 60.0, daily: int = 3_333) -> None:
        self.ledger, self.interval, self.clock = ledger, interval, Clock()
        self.allowance = Allowance(daily, clock=self.clock)
        self.watch = ListWatch(ledger, self.allowance)

    def __call__(self, wanted: Wanted = EVERYTHING, **options: Any) -> Snapshot:
        """Poll the list. It must not be postponed."""
        seen = self.maybe(wanted, **options)
        assert isinstance(seen, Snapshot)
        return seen

    def maybe(self, wanted: Wanted = EVERYTHING, **options: Any) -> Any:
        """Poll the list, and return what the poll returns."""
        try:
            return self.watch.poll(wanted, **options)
        finally:
            self.clock.now += self.interval


def gaps(number: int, largest: Callable[[random.Random], int], seed: int = 1) -> list[int]:
    """Return this many rising ids with random gaps."""
    chance = random.Random(seed)
    return list(accumulate(largest(chance) for _ in range(number)))
