"""Delivers each snapshot to thousands of waits.

Airflow's shared stream would wake every trigger for every snapshot, all at once: with ten thousand of them nothing else
runs in the triggerer for most of a second. Here the waits are called one after the other, with pauses for the event
loop, and only those that end wake up. The stream itself yields nothing.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakValueDictionary

from airflow_provider_unpod.billing.errors import UnpodBadAnswer, UnpodError
from airflow_provider_unpod.billing.watching.condition import Condition, ended_by
from airflow_provider_unpod.billing.watching.tracker import Subscriptions
from airflow_provider_unpod.task_boundary import storable
from airflow_provider_unpod.triggers.polling import PollFailure

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Hashable

    from airflow_provider_unpod.billing.watching.tracker import Snapshot

#: How many waits are called before the event loop gets a turn: a few milliseconds.
_AT_A_TIME = 200
#: How many waits may end at the same time: Airflow needs a fraction of a millisecond for each event.
_ENDING = 20


class Judge(Protocol):
    """Returns the payload of a wait's event if this poll ends the wait, else ``None``."""

    def __call__(self, seen: Snapshot | PollFailure) -> dict[str, Any] | None: ...


class Wait:
    """Judges the results of a poll for one wait, and remembers what the message at its end needs.

    :param deadline: the first result after it ends the wait; ``None``: never.
    :param max_failures: so many failures in a row that do not pass by themselves end the wait.
    :param joined: the number of the poll that was running when the wait subscribed: it may not have read its invoices.
    """

    __slots__ = ("_condition", "_deadline", "_joined", "_last", "_max_failures", "_polls", "began")

    def __init__(self, condition: Condition, deadline: datetime | None, max_failures: int, *, joined: int) -> None:
        self.began = datetime.now(timezone.utc)
        self._condition = condition
        self._deadline = deadline
        self._max_failures = max_failures
        self._joined = joined
        self._polls = 0
        self._last: Snapshot | None = None

    def __call__(self, seen: Snapshot | PollFailure) -> dict[str, Any] | None:
        """The storable payload of the event, if this poll ends the wait."""
        if seen.number <= self._joined:
            return None
        self._polls += 1
        over = self._deadline is not None and seen.at >= self._deadline
        payload = self._of_failure(seen, over) if isinstance(seen, PollFailure) else self._of_snapshot(seen)
        if payload is None and over:
            failure = seen.error if isinstance(seen, PollFailure) else None
            payload = {"state": "timeout", "message": self._report(failure)}
        # Made storable here, and not when the event is passed on: here the event loop gets its turns.
        return None if payload is None else storable(payload)

    def _of_snapshot(self, snapshot: Snapshot) -> dict[str, Any] | None:
        self._last = snapshot
        try:
            decision = self._condition.decide(snapshot.rows)
        except UnpodBadAnswer as error:  # a row that cannot become a record
            return _error(error, error.message)
        if decision.state == "done":
            return {"state": "done", "result": decision.result}
        return {"state": "failed", "message": self._report()} if decision.state == "failed" else None

    def _of_failure(self, seen: PollFailure, over: bool) -> dict[str, Any] | None:
        # At the deadline, too: a wrong token or an unknown host must not look like a late payment.
        if seen.failures >= self._max_failures or (seen.failures and over):
            return _error(seen.error, ended_by(seen.error, seen.failures, self._report()))
        return None

    def _report(self, failure: Exception | None = None) -> str:
        rows, at = (None, None) if self._last is None else (self._last.rows, self._last.at)
        return self._condition.report(rows, at, self._polls, self.began, failure)


def _error(error: UnpodError, message: str) -> dict[str, Any]:
    return {"state": "error", "error": type(error).__name__, "status": error.status, "message": message}


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
