"""Delivers each snapshot to thousands of waits.

Airflow's shared stream would wake every trigger for every snapshot. With ten thousand triggers, this would block the
triggerer for most of a second. Here the waits are called one after another, with pauses for the event loop, and only
those that end wake up. The stream itself yields nothing.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakValueDictionary

from airflow_provider_unpod.billing.errors import UnpodBadAnswer, UnpodError
from airflow_provider_unpod.billing.watching.condition import Condition, ended_by
from airflow_provider_unpod.billing.watching.subscriptions import Postponed, Snapshot, Subscriptions
from airflow_provider_unpod.task_boundary import storable
from airflow_provider_unpod.triggers.polling import PollFailure

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Hashable

    from airflow_provider_unpod.triggers.polling import Seen

#: Number of waits to call before a pause for the event loop. They take a few milliseconds.
_AT_A_TIME = 200
#: Number of waits that may end at the same time. Airflow needs a fraction of a millisecond for each event.
_ENDING = 20


class Judge(Protocol):
    """A function that returns the payload of a wait's event if this poll ends the wait, and ``None`` otherwise."""

    def __call__(self, seen: Seen) -> dict[str, Any] | None: ...


class Wait:
    """Decides for one wait whether a poll ends it, and keeps the state for its final message.

    :param deadline: the first poll result after this time ends the wait. ``None`` means no deadline.
    :param max_failures: number of failures in a row, transient ones not counted, that end the wait.
    :param failures: number of such failures in a row before the first poll.
    :param joined: number of the poll that was running when the wait subscribed. It may not include its invoices.
    """

    __slots__ = ("_condition", "_deadline", "_failures", "_joined", "_last", "_max_failures", "_polls", "began")

    def __init__(
        self, condition: Condition, deadline: datetime | None, max_failures: int, *, failures: int, joined: int
    ) -> None:
        self.began = datetime.now(timezone.utc)
        self._condition = condition
        self._deadline = deadline
        self._max_failures = max_failures
        self._failures = failures
        self._joined = joined
        self._polls = 0
        self._last: Snapshot | None = None

    def __call__(self, seen: Seen) -> dict[str, Any] | None:
        """Return the payload of the event if this poll ends the wait. Airflow can store the payload."""
        if seen.number <= self._joined:
            return None
        self._polls += 1
        over = self._deadline is not None and seen.at >= self._deadline
        if isinstance(seen, Snapshot) or (isinstance(seen, PollFailure) and not seen.failures):
            self._failures = 0  # the failures before the first poll are no longer followed by others in a row
        payload = None
        if isinstance(seen, PollFailure):
            payload = self._of_failure(seen, over)
        elif isinstance(seen, Snapshot):
            payload = self._of_snapshot(seen)
        if payload is None and over:
            failure = seen.error if isinstance(seen, PollFailure) else None
            payload = {"state": "timeout", "message": self._report(failure), "incomplete": self._incomplete(seen)}
        # Made storable here rather than when the event is emitted, because here the event loop gets pauses.
        return None if payload is None else storable(payload)

    def _incomplete(self, seen: Seen) -> bool:
        """Return whether a complete read might find more: the list was not read, or an invoice may be out of order."""
        found = set() if self._last is None else self._last.rows.keys()
        return isinstance(seen, Postponed) or not set(self._condition.keys) <= found

    def _of_snapshot(self, snapshot: Snapshot) -> dict[str, Any] | None:
        self._last = snapshot
        try:
            decision = self._condition.decide(snapshot.rows)
        except UnpodBadAnswer as error:  # a row that cannot be converted to a record
            return _error(error, error.message)
        if decision.state == "done":
            return {"state": "done", "result": decision.result}
        return {"state": "failed", "message": self._report()} if decision.state == "failed" else None

    def _of_failure(self, seen: PollFailure, over: bool) -> dict[str, Any] | None:
        # Also at the deadline: a wrong token or an unknown host must not look like a late payment.
        failures = self._failures + seen.failures
        if failures >= self._max_failures or (failures and over):
            return _error(seen.error, ended_by(seen.error, failures, self._report()))
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
        #: Limits how many waits emit their events at the same time.
        self.few_at_once = asyncio.Semaphore(_ENDING)
        self._waiting: dict[asyncio.Future[dict[str, Any]], Judge] = {}

    async def join(self, judge: Judge) -> dict[str, Any]:
        """Wait until ``judge`` returns a payload, and return it."""
        end: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[end] = judge
        try:
            return await end
        finally:
            self._waiting.pop(end, None)

    async def deliver(self, snapshots: AsyncGenerator[Seen, None]) -> None:
        """Pass the result of each poll to all waits, forever. An exception is also raised in the waits."""
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


def _settle(end: asyncio.Future[dict[str, Any]], judge: Judge, seen: Seen) -> None:
    """Pass a poll's result to one wait. An exception ends only this wait."""
    try:
        payload = judge(seen)
    except Exception as error:
        end.set_exception(error)
    else:
        if payload is not None:
            end.set_result(payload)


# A wait registers itself before its first poll, so Airflow need not say which waits share the poll.
_shared: WeakValueDictionary[Hashable, Waits] = WeakValueDictionary()


def waits_for(key: Hashable) -> Waits:
    """Return the waits of all triggers with this key. It is the same object as long as one such trigger exists."""
    waits = _shared.get(key)
    if waits is None:
        waits = _shared[key] = Waits()
    return waits
