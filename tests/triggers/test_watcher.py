"""A watcher reports each change once although its poll starts anew or an invoice is out of order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

from airflow_provider_unpod.billing.invoice import InvoiceId
from airflow_provider_unpod.billing.watching.allowance import Allowance
from airflow_provider_unpod.billing.watching.subscriptions import Subscriptions
from airflow_provider_unpod.billing.watching.watch import ListWatch
from airflow_provider_unpod.triggers.events import Journal, PolledEvent, Watcher
from tests.billing.watching.ledger import Ledger


class Store:
    """Airflow's state store of an asset."""

    def __init__(self) -> None:
        self._by_name = {"asset": self}
        self._kept: dict[str, str] = {}

    async def aget(self, key: str) -> Any:
        return json.loads(self._kept[key]) if key in self._kept else None

    async def aset(self, key: str, value: Any) -> None:
        self._kept[key] = json.dumps(value)


def told(ledger: Ledger, store: Store, ids: tuple[InvoiceId, ...] | None, *, fails_every: int = 0) -> list[str]:
    """Return the keys that a watcher reports in 30 polls. At the 10th, invoice 15 is paid."""
    subscriptions = Subscriptions()
    journal = Journal(store, ids)
    watcher = Watcher(subscriptions, journal, invoice_ids=ids, reports=lambda one: True, silent_start=True)

    async def polls() -> AsyncGenerator[PolledEvent, None]:
        watch = None
        for number in range(30):
            if number == 10:
                ledger.status[15] = "paid"
            wanted = subscriptions.begin()
            if fails_every and number % fails_every == 1:
                watch = None  # as after a refused token
                continue
            watch = watch or ListWatch(ledger, Allowance(10**6, saved=10**6))
            yield (event := PolledEvent(watch.poll(wanted, number=subscriptions.polls)))
            for commit in event.commits:
                await commit()

    async def collect() -> list[str]:
        return [one["key"] async for event in watcher.watch(polls()) for one in event]

    return asyncio.run(collect())


def test_a_change_is_reported_although_every_second_poll_starts_anew() -> None:
    assert told(Ledger(50), Store(), None, fails_every=2) == ["15:pending:paid:1"]


def test_a_watched_invoice_out_of_order_is_not_reported_as_new_at_the_start_and_after_a_restart() -> None:
    ledger, store = Ledger(500), Store()
    ledger.ids.remove(15)
    ledger.ids.insert(150, 15)
    assert told(ledger, store, (15, 300)) == ["15:pending:paid:1"]
    assert told(ledger, store, (15, 300)) == []
