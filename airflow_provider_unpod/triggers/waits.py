"""Handing looks round to thousands of waits.

Airflow's shared stream would wake every trigger for every look, all in one go: with ten thousand of them nothing else
runs in the triggerer for most of a second. Here a look is shown to the waits one after the other, with pauses for the
event loop, and only those that it ends wake up. So the stream itself stays silent.
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

#: Waits that see a look before others get their turn on the event loop: a few milliseconds.
_AT_A_TIME = 500
#: Waits that may end at once: what Airflow does with an event takes it a fraction of a millisecond.
_ENDING = 20


class Judge(Protocol):
    """What a wait makes of a look: the payload of its event, or ``None`` to go on waiting."""

    def __call__(self, seen: Snapshot | PollFailure) -> dict[str, Any] | None: ...


class Waits(Subscriptions):
    """The waits that share one poll."""

    def __init__(self) -> None:
        super().__init__()
        #: Thousands of waits that end with one look give their events to Airflow in turn.
        self.few_at_once = asyncio.Semaphore(_ENDING)
        self._waiting: dict[asyncio.Future[dict[str, Any]], Judge] = {}

    async def join(self, judge: Judge) -> dict[str, Any]:
        """Wait for the look that ``judge`` finds an end in; the payload it gives."""
        end: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[end] = judge
        try:
            return await end
        finally:
            self._waiting.pop(end, None)

    async def deliver(self, snapshots: AsyncGenerator[Snapshot | PollFailure, None]) -> None:
        """Show all looks to all waits, for ever, and end them. What is raised is raised to the waits as well."""
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
    """Show a look to one wait; what goes wrong there is no business of the others."""
    try:
        payload = judge(seen)
    except Exception as error:
        end.set_exception(error)
    else:
        if payload is not None:
            end.set_result(payload)


# Whoever waits registers before the first look, so the poll needs no word from Airflow about who shares it.
_shared: WeakValueDictionary[Hashable, Waits] = WeakValueDictionary()


def waits_for(key: Hashable) -> Waits:
    """What the triggers of this key want; one object for all of them, while there are any."""
    waits = _shared.get(key)
    if waits is None:
        waits = _shared[key] = Waits()
    return waits
