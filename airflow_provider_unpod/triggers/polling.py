"""Polls the invoices of an organization, once for all triggers with the same key.

From Airflow 3.3 on, triggers with the same ``shared_stream_key`` share one stream. Before 3.3, each trigger runs its
own stream. The triggerer's event loop is never blocked: connections are looked up asynchronously, and requests run in
a thread.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from airflow.providers.common.compat.connection import get_async_connection
from asgiref.sync import sync_to_async

from airflow_provider_unpod.billing.arguments import org_handle_of, seconds_of, text_of
from airflow_provider_unpod.billing.errors import UnpodConfigError, UnpodError, UnpodUnreachable
from airflow_provider_unpod.billing.http.retry import POLL_RETRY
from airflow_provider_unpod.billing.watching.subscriptions import (
    TRANSIENT,
    Postponed,
    Snapshot,
    Subscriptions,
    Wanted,
)

try:
    from airflow.triggers.base import BaseEventTrigger
except ImportError:  # Airflow 2.11 has no event triggers
    from airflow.triggers.base import BaseTrigger as BaseEventTrigger  # type: ignore[assignment]  # one or the other

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
    from datetime import timedelta

    from airflow_provider_unpod.billing.client import UnpodClient
    from airflow_provider_unpod.billing.watching.allowance import Allowance
    from airflow_provider_unpod.billing.watching.watch import ListWatch

log = logging.getLogger(__name__)

#: Longest pause after failed polls: the smaller of this many seconds and this many intervals.
_LONGEST_BACKOFF, _BACKOFF_INTERVALS = 300.0, 10
#: Shortest interval in seconds. An interval of 0 would keep a CPU and the API busy.
_SHORTEST_INTERVAL = 0.05

_T = TypeVar("_T")
#: The result of a poll.
Seen: TypeAlias = "Snapshot | Postponed | PollFailure"
#: Connection id, organization handle (``None`` for the connection's), and seconds between two polls.
PollKey: TypeAlias = tuple[str, "str | None", float]


def poll_key_of(kwargs: Mapping[str, Any]) -> PollKey:
    """Return the key of a trigger's poll from its serialized arguments."""
    return kwargs["unpod_conn_id"], kwargs["org_handle"], kwargs["poke_interval"]


@dataclass(frozen=True, slots=True)
class PollFailure:
    """A poll that failed.

    :ivar number: number of the poll, as in a snapshot.
    :ivar failures: number of polls in a row, including this one, that failed with an error that is not transient. 0 if
        the error of this poll is transient.
    """

    number: int
    at: datetime
    error: UnpodError
    failures: int


class PollingTrigger(BaseEventTrigger):
    """A trigger that uses a poll, which it may share with other triggers.

    :param unpod_conn_id: id of the connection. Airflow stores only this id with the trigger, not the connection.
    :param org_handle: organization handle. ``None`` uses the connection's.
    :param poke_interval: seconds between two polls, or a ``timedelta``.
    :raises UnpodConfigError: if an argument is invalid.
    """

    def __init__(self, *, unpod_conn_id: str, org_handle: str | None, poke_interval: float | timedelta) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's own has no types
        self.unpod_conn_id = text_of(unpod_conn_id, "unpod_conn_id")
        self.org_handle = org_handle_of(org_handle)
        self.poke_interval = seconds_of(poke_interval, "poke_interval")

    @property
    def connection(self) -> PollKey:
        """The key of the poll."""
        return self.unpod_conn_id, self.org_handle, self.poke_interval


async def poll(subscriptions: Subscriptions, connection: PollKey) -> AsyncGenerator[Seen, None]:
    """Poll the list forever and yield each result. A failed poll is yielded as well and raises nothing."""
    unpod_conn_id, org_handle, poke_interval = connection
    poller = _Poller(unpod_conn_id, org_handle)
    interval = max(poke_interval, _SHORTEST_INTERVAL)
    in_a_row = 0
    try:
        while True:
            began = time.monotonic()
            seen = await poller.poll(subscriptions.begin(), subscriptions.polls)
            in_a_row = in_a_row + 1 if isinstance(seen, PollFailure) else 0
            yield seen
            pause = interval
            if in_a_row > 1:
                longest = max(interval, min(_LONGEST_BACKOFF, interval * _BACKOFF_INTERVALS))
                pause = min(longest, interval * 2 ** min(in_a_row - 1, 16)) * random.uniform(0.9, 1.1)  # noqa: S311
            await _pause(max(0.0, began + pause - time.monotonic()))
    finally:
        poller.close()


async def _pause(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def _completed(work: Awaitable[_T], cut: Callable[[], None] = lambda: None) -> _T:
    """Await ``work`` without cancelling it.

    If this coroutine is cancelled, because the last wait has ended, it calls ``cut`` and awaits ``work`` for a second
    more. Then it leaves it running.
    """
    future = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        cut()
        await asyncio.wait([future], timeout=1.0)
        if future.done() and not future.cancelled():
            future.exception()
        raise


class _Poller:
    """Runs the polls and keeps the state between them: client, watch and last failure."""

    def __init__(self, unpod_conn_id: str, org_handle: str | None) -> None:
        self._unpod_conn_id = unpod_conn_id
        self._org_handle = org_handle
        self._watch: ListWatch | None = None
        self._allowance: Allowance | None = None  # kept here, because only polls keep a shared one alive
        self._client: UnpodClient | None = None
        self._logged: str | None = None
        self._failures = 0

    async def poll(self, wanted: Wanted, number: int) -> Seen:
        try:
            if self._watch is None:
                await self._connect()
            poll = await self._poll(wanted, number)
        except UnpodError as error:
            return self._failure(number, error)
        except Exception as error:
            # An exception would end all waits that share this poll.
            log.debug("A poll of the invoices failed unexpectedly.", exc_info=True)
            return self._failure(number, UnpodError(f"{type(error).__name__}: {error}"))
        if isinstance(poll, Postponed):
            return poll  # it says nothing about the failures before
        if self._logged is not None:
            log.info("Polls of the invoices of connection %r succeed again.", self._unpod_conn_id)
        self._logged, self._failures = None, 0
        return poll

    def close(self) -> None:
        """Close the client. This is not a coroutine, because a second cancellation would skip an ``await``."""
        self._watch = None
        if self._client is not None:
            client, self._client = self._client, None
            client.close()

    async def _connect(self) -> None:
        from airflow_provider_unpod.billing.watching.allowance import allowance_for
        from airflow_provider_unpod.billing.watching.watch import ListWatch

        # Airflow before 3.3 matches responses to requests by their order. If a request is cancelled before its response
        # is read, the next one ends the triggerer.
        self._client = await _completed(self._new_client())
        organization = (self._unpod_conn_id, self._client.org_handle)
        self._allowance = allowance_for(organization, self._client.daily_requests)
        self._watch = ListWatch(self._client, self._allowance)

    async def _new_client(self) -> UnpodClient:
        from airflow.providers.common.compat.sdk import AirflowNotFoundException

        from airflow_provider_unpod.hooks.unpod import client_from, why_not_found

        try:
            connection = await get_async_connection(self._unpod_conn_id)
        except AirflowNotFoundException as error:
            raise UnpodConfigError(why_not_found(self._unpod_conn_id)) from error
        # In a thread, because it may import `requests`. In one of asgiref's, because it asks Airflow to mask the
        # secrets: Airflow before 3.3 sends that with `async_to_sync`, which does not find this loop from other threads.
        return await sync_to_async(client_from, thread_sensitive=False)(connection, self._org_handle, POLL_RETRY)

    async def _poll(self, wanted: Wanted, number: int) -> Snapshot | Postponed:
        watch = self._watch
        assert watch is not None
        # A thread cannot be cancelled, but its requests can.
        return await _completed(asyncio.to_thread(watch.poll, wanted, number=number), watch.cancel)

    def _failure(self, number: int, error: UnpodError) -> PollFailure:
        if isinstance(error, TRANSIENT):
            self._failures = 0
        else:
            self._failures += 1
        failure = type(error).__name__ + error.message
        if failure != self._logged:
            log.warning(
                "A poll of the invoices of connection %r failed; the next one tries again: %s",
                self._unpod_conn_id,
                error,
            )
            self._logged = failure
        if error.permanent or isinstance(error, UnpodUnreachable):
            self.close()  # the next poll reads the connection again, in case it has been corrected
        return PollFailure(number, datetime.now(timezone.utc), error, self._failures)
