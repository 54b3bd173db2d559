"""The poll of event triggers, and a journal of their reports that survives a restart of the triggerer."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.billing.watching.history import History
from airflow_provider_unpod.billing.watching.subscriptions import Snapshot
from airflow_provider_unpod.task_boundary import storable
from airflow_provider_unpod.triggers.polling import poll
from airflow_provider_unpod.triggers.waits import waits_for

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Hashable, Iterable

    from airflow_provider_unpod.billing.invoice import InvoiceId
    from airflow_provider_unpod.billing.watching.history import Transition
    from airflow_provider_unpod.billing.watching.subscriptions import Subscriptions
    from airflow_provider_unpod.triggers.polling import PollKey, Seen

log = logging.getLogger(__name__)


@dataclass(slots=True)
class PolledEvent:
    """A poll result, and callbacks to run when Airflow has stored every event made from it."""

    seen: Seen
    commits: list[Callable[[], Awaitable[None]]] = field(default_factory=list)


def events_on(connection: PollKey) -> Hashable:
    """Return the key of the poll that all event triggers of a connection share."""
    return ("airflow_provider_unpod: events", *connection)


async def polled_events(subscriptions: Subscriptions, connection: PollKey) -> AsyncGenerator[PolledEvent, None]:
    """Poll forever and yield each result."""
    async for seen in poll(subscriptions, connection):
        yield PolledEvent(seen)


def producer(connection: PollKey) -> Any:
    """Return the same poll as a ``SharedStreamProducer``, to which Airflow reports the events that it has stored.

    Their transitions can then be removed from the :class:`Journal`.
    """
    from airflow.triggers.shared_stream import SharedStreamProducer

    class Producer(SharedStreamProducer):
        async def open_stream(self) -> AsyncGenerator[tuple[PolledEvent, PolledEvent], None]:
            async for event in polled_events(waits_for(events_on(connection)), connection):
                yield event, event

        async def advance(self, batch: Any) -> None:
            for event, outcome in batch:
                if outcome.failed:
                    continue  # Airflow does not report which event failed, so all are emitted again after a restart
                for commit in event.commits:
                    await commit()

    return Producer()


class Journal:
    """The changes that a trigger has reported, stored with each of its assets (Airflow 3.3 or later).

    The journal is written twice: with the event before it goes to Airflow, and without it when Airflow has stored it.
    After a crash in between, the same event is emitted again, even if its transitions have been reverted since: a
    consumer may have received the first event.

    :param accessors: Airflow's ``asset_state_store`` of the trigger. ``None`` if there is none.
    :param identity: the trigger's arguments as JSON values. They keep watchers of the same asset apart.
    """

    def __init__(self, accessors: Any, identity: object) -> None:
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
        self._key = f"airflow_provider_unpod.history.{digest}"
        # A trigger may serve several assets. Airflow has their names only here. `load` relies on their order.
        by_name = getattr(accessors, "_by_name", {})
        self._accessors = [by_name[name] for name in sorted(by_name)]
        self._writing = asyncio.Lock()
        self._unconfirmed: list[dict[str, Any]] = []
        self.history = History()

    async def load(self) -> list[dict[str, Any]] | None:
        """Return the transitions to emit again after a restart. ``None`` on the first start."""
        # The last accessor is written last. If a crash interrupted a write, it has the older state, which leads to a
        # repetition but not to a loss.
        for accessor in reversed(self._accessors):
            kept = await accessor.aget(self._key)
            if isinstance(kept, dict):
                try:
                    self.history = History.load(kept["history"])
                    self._unconfirmed = list(kept["unconfirmed"])
                except (KeyError, TypeError, ValueError) as error:
                    log.warning("The stored state of this watcher is invalid, so it starts from scratch: %s", error)
                    return None
                return list(self._unconfirmed)
        return None

    async def record(self, transitions: list[dict[str, Any]]) -> None:
        """Store transitions before they are emitted, together with the current ``history``."""
        if self._accessors:  # without a store there are no confirmations, and the list would grow
            self._unconfirmed += transitions
        await self._write()

    async def confirm(self, transitions: list[dict[str, Any]]) -> None:
        """Remove transitions whose event Airflow has stored."""
        stored = {one["key"] for one in transitions}
        self._unconfirmed = [one for one in self._unconfirmed if one["key"] not in stored]
        await self._write()

    async def _write(self) -> None:
        """Store the journal. Errors are only logged, since they would end the watcher. The next write tries again."""
        if not self._accessors:
            return
        try:
            async with self._writing:
                unconfirmed, history = list(self._unconfirmed), self.history.copy()
                kept = {"history": await asyncio.to_thread(history.dump), "unconfirmed": unconfirmed}
                for accessor in self._accessors:
                    await accessor.aset(self._key, kept)
        except Exception as error:
            log.warning("The state of this watcher could not be stored; the next change tries again: %s", error)


class Watcher:
    """Turns the snapshots of a poll into the transitions that one event trigger emits.

    The first snapshot has the statuses of all invoices, but not the rows of those that changed while no triggerer ran.
    The next poll reads these *missed* invoices and reports them.

    :param invoice_ids: the :func:`~airflow_provider_unpod.billing.invoice.match_key` of each invoice to report.
        ``None`` means all.
    :param reports: returns whether to report a transition. Others are recorded but not reported.
    :param silent_start: whether existing invoices count as reported on the very first start.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        journal: Journal,
        *,
        invoice_ids: tuple[InvoiceId, ...] | None,
        reports: Callable[[Transition], bool],
        silent_start: bool,
    ) -> None:
        self._subscriptions = subscriptions
        self._journal = journal
        self._invoice_ids = invoice_ids
        self._reports = reports
        self._silent_start = silent_start
        self._missed: set[InvoiceId] = set()
        #: Number of the poll that was running when the missed invoices were added. The next poll reads them.
        self._missed_since = 0
        self._started = False
        self._emit_again: list[dict[str, Any]] = []

    async def watch(self, stream: AsyncIterator[PolledEvent]) -> AsyncGenerator[list[dict[str, Any]], None]:
        """Yield the transitions to emit, one list for each snapshot that has any."""
        keys, everything = self._invoice_ids or (), self._invoice_ids is None
        running = self._subscriptions.polls
        # Absence is proved, because an invoice out of order must not be reported as new when it is found.
        self._subscriptions.add(keys, certain=True, everything=everything)
        try:
            async for event in stream:
                snapshot = event.seen
                if not isinstance(snapshot, Snapshot) or snapshot.number <= running:
                    continue  # a poll that was already running may not include this watcher's invoices
                transitions = await self._take(snapshot) if self._started else []
                if not self._started or snapshot.first:
                    await self._catch_up(snapshot)
                if transitions:
                    event.commits.append(functools.partial(self._journal.confirm, transitions))
                    yield transitions
        finally:
            self._subscriptions.remove(self._missed)
            self._subscriptions.remove(keys, everything=everything)

    async def _catch_up(self, snapshot: Snapshot) -> None:
        """Compare the first snapshot of a poll with the statuses that were reported last."""
        statuses = self._statuses(snapshot)
        if not self._started:
            self._emit_again = await self._restore(statuses)
            self._started = True
        missed = self._journal.history.news_in(statuses) - self._missed
        self._subscriptions.add(missed)
        self._missed |= missed
        self._missed_since = self._subscriptions.polls

    async def _restore(self, statuses: dict[InvoiceId, str]) -> list[dict[str, Any]]:
        """Load the journal. Return the transitions that must be emitted again."""
        again = await self._journal.load()
        if again is None:
            self._journal.history = History(statuses if self._silent_start else None)
            await self._journal.record([])
            return []
        self._journal.history.keep_only(statuses)
        return again

    async def _take(self, snapshot: Snapshot) -> list[dict[str, Any]]:
        """Return the transitions to emit for a snapshot."""
        changed = snapshot.changed if self._invoice_ids is None else ()
        found = self._observe(snapshot, {*(self._invoice_ids or ()), *self._missed, *changed})
        transitions = [storable(one.as_dict()) for one in found if self._reports(one)]
        if found:
            await self._journal.record(transitions)
        if snapshot.number <= self._missed_since:
            return transitions
        self._forget_missed(snapshot)
        # Repetitions are emitted together with new transitions. If two events follow each other, Airflow starts a run
        # with the first and keeps the second until another event arrives.
        again, self._emit_again = self._emit_again, []
        return again + transitions

    def _forget_missed(self, snapshot: Snapshot) -> None:
        """Unsubscribe from missed invoices that were read or no longer exist."""
        missing = self._missed - snapshot.rows.keys()
        left = missing & snapshot.statuses().keys() if missing else missing
        self._subscriptions.remove(self._missed - left)
        self._missed = left

    def _observe(self, snapshot: Snapshot, keys: Iterable[InvoiceId]) -> list[Transition]:
        history = self._journal.history
        seen = (history.observe(snapshot.rows[key], snapshot.at) for key in keys if key in snapshot.rows)
        return sorted((one for one in seen if one is not None), key=lambda one: str(one.invoice.key))

    def _statuses(self, snapshot: Snapshot) -> dict[InvoiceId, str]:
        """Return the statuses of all invoices that this watcher reports."""
        if self._invoice_ids is None:
            return snapshot.statuses()
        found = (snapshot.rows[key] for key in self._invoice_ids if key in snapshot.rows)
        return {invoice.key: invoice.status_key for invoice in found}
