"""Delivers each snapshot to thousands of waits.

Airflow's shared stream would wake every trigger for every snapshot, all at once: with ten thousand of them nothing else
runs in the triggerer for most of a second. Here the waits are called one after the other, with pauses for the event
loop, and only those that end wake up. The stream itself yields nothing.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakValueDictionary

from airflow_provider_unpod.billing.watching.tracker import Subscriptions

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Hashable

    from airflow_provider_unpod.billing.watching.tracker import Snapshot
    from airflow_provider_unpod.triggers.polling import PollFailure

#: How many waits are called before the event loop gets a turn: a few milliseconds.
_AT_A_TIME = 500
#: How many waits may end at the same time: Airflow needs a fraction of a millisecond for each event.
_ENDING = 20


class Judge(Protocol):
    """Returns the payload of a wait's event if this poll ends the wait, else ``None``."""

    def __call__(self, seen: Snapshot | PollFailure) -> dict[str, Any] | None: ...


class Waits(Subscriptions):
    """The waits that share one poll."""

    def __init__(self) -> None:
        super().__init__()
        #: When one poll ends thousands of waits, they pass their events to Airflow in turn.
        self.few_at_once = asyncio.Semaphore(_ENDING)
        self._waiting: dict[asyncio.Future[dict[str, Any]], Judge] = {}

    async def join(self, judge: Judge) -> dict[str, Any]:
        """The payload that ``judge`` returns for the poll that ends the wait."""
        end: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[end] = judge
        try:
            return await end
        finally:
            self._waiting.pop(end, None)

    async def deliver(self, snapshots: AsyncGenerator[Snapshot | PollFailure, None]) -> None:
        """Pass the results of all polls to all waits, for ever. An exception is raised in the waits, too."""
        try:
            async with aclosing(snapshots):
                async for seen in snapshots:
                    for number, (end, judge) in enumerate(list(self._waiting.items()), 1):
                        if not end.done():
                            _settle(end, judge, seen)
                        if not number % _AT_A_TIME:
                            await asyncio.sleep(0)
        except Exception as error:
            for end in self._waiting:
                if not end.done():
                    end.set_exception(error)
            raise


def _settle(end: asyncio.Future[dict[str, Any]], judge: Judge, seen: Snapshot | PollFailure) -> None:
    """Pass a poll's result to one wait; its exception does not reach the others."""
    try:
        payload = judge(seen)
    except Exception as error:
        end.set_exception(error)
    else:
        if payload is not None:
            end.set_result(payload)


# A wait registers itself before its first poll, so the poll need not learn from Airflow which waits share it.
_shared: WeakValueDictionary[Hashable, Waits] = WeakValueDictionary()


def waits_for(key: Hashable) -> Waits:
    """The waits of all triggers with this key: one object as long as there is one such trigger."""
    waits = _shared.get(key)
    if waits is None:
        waits = _shared[key] = Waits()
    return waits
