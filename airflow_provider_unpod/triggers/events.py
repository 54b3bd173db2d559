"""The poll of event triggers, and the record of what each has reported, which survives a restart of the triggerer."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.billing.watching.history import History
from airflow_provider_unpod.task_boundary import storable
from airflow_provider_unpod.triggers.polling import PollFailure, poll
from airflow_provider_unpod.triggers.waits import waits_for

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Hashable, Iterable

    from airflow_provider_unpod.billing.invoice import InvoiceId
    from airflow_provider_unpod.billing.watching.history import Transition
    from airflow_provider_unpod.billing.watching.tracker import Snapshot, Subscriptions
    from airflow_provider_unpod.triggers.polling import PollKey

log = logging.getLogger(__name__)


@dataclass(slots=True)
class PolledEvent:
    """The result of one poll, and callbacks to run once Airflow has stored every event made from it."""

    seen: Snapshot | PollFailure
    commits: list[Callable[[], Awaitable[None]]] = field(default_factory=list)


def events_on(connection: PollKey) -> Hashable:
    """The key of the poll that event triggers of one connection share."""
    return ("airflow_provider_unpod: events", *connection)


async def polled_events(subscriptions: Subscriptions, connection: PollKey) -> AsyncGenerator[PolledEvent, None]:
    """The results of the poll of event triggers, for ever."""
    async for seen in poll(subscriptions, connection):
        yield PolledEvent(seen)


def producer(connection: PollKey) -> Any:
    """The same poll as a ``SharedStreamProducer``: Airflow reports to it which events are in its database.

    Only then may their transitions be dropped from the :class:`Journal`.
    """
    from airflow.triggers.shared_stream import SharedStreamProducer

    class Producer(SharedStreamProducer):
        async def open_stream(self) -> AsyncGenerator[tuple[PolledEvent, PolledEvent], None]:
            async for event in polled_events(waits_for(events_on(connection)), connection):
                yield event, event

        async def advance(self, batch: Any) -> None:
            for event, outcome in batch:
                if outcome.failed:
                    continue  # Airflow does not say which trigger's event failed: all emit theirs again after a restart
                for commit in event.commits:
                    await commit()

    return Producer()


class Journal:
    """The changes that a trigger has reported, in the state store of each asset that it serves (Airflow 3.3 or later).

    Written before an event is given to Airflow, with the event in it, and again when Airflow has stored the event.
    After a crash in between the event is emitted again as it was: its transitions may have been undone since, and
    the consumers of the first event must see that, too.

    :param accessors: Airflow's ``asset_state_store`` of the trigger; ``None`` where there is none.
    :param identity: JSON-ready arguments that decide what the trigger reports; watchers of one asset that report
        different things share its store.
    """

    def __init__(self, accessors: Any, identity: object) -> None:
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
        self._key = f"airflow_provider_unpod.history.{digest}"
        # A trigger may serve several assets and does not learn which; Airflow keeps their names only here.
        # Always in the same order, see `load`.
        by_name = getattr(accessors, "_by_name", {})
        self._accessors = [by_name[name] for name in sorted(by_name)]
        self._writing = asyncio.Lock()
        self._unconfirmed: list[dict[str, Any]] = []
        self.history = History()

    async def load(self) -> list[dict[str, Any]] | None:
        """The transitions to emit again after a restart; ``None`` on the first start."""
        # The last accessor is written last: if a crash cut a write short it has the older state, and emitting twice
        # is allowed.
        for accessor in reversed(self._accessors):
            kept = await accessor.aget(self._key)
            if isinstance(kept, dict):
                try:
                    self.history = History.load(kept["history"])
                    self._unconfirmed = list(kept["unconfirmed"])
                except (KeyError, TypeError, ValueError) as error:
                    log.warning("The stored state of this watcher is unreadable, so it starts anew: %s", error)
                    return None
                return list(self._unconfirmed)
        return None

    async def record(self, transitions: list[dict[str, Any]]) -> None:
        """Store the transitions that are about to be emitted, together with the current ``history``."""
        if self._accessors:  # without a store nobody confirms, and this would only grow
            self._unconfirmed += transitions
        await self._write()

    async def confirm(self, transitions: list[dict[str, Any]]) -> None:
        """Drop transitions whose event Airflow has stored."""
        stored = {one["key"] for one in transitions}
        self._unconfirmed = [one for one in self._unconfirmed if one["key"] not in stored]
        await self._write()

    async def _write(self) -> None:
        """Never raises, since that would end the watcher. The next write contains what this one could not store."""
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

    The first snapshot shows the statuses of all invoices but not the rows of those that changed while no triggerer
    ran. The next poll reads these *missed* invoices, wherever they are in the list, and they are reported then.

    :param invoice_ids: report these invoices only, as :func:`~airflow_provider_unpod.billing.invoice.match_key`
        gives them; ``None``: all.
    :param reports: whether a transition is of interest; the others are only remembered.
    :param silent_start: on the very first start, treat the existing invoices as reported.
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
        #: The poll that was running when the missed invoices were subscribed to; the one after it reads them.
        self._missed_since = 0
        self._started = False
        self._emit_again: list[dict[str, Any]] = []

    async def watch(self, stream: AsyncIterator[PolledEvent]) -> AsyncGenerator[list[dict[str, Any]], None]:
        """The transitions to emit, one list for each snapshot that has some."""
        keys, everything = self._invoice_ids or (), self._invoice_ids is None
        running = self._subscriptions.polls
        self._subscriptions.add(keys, everything=everything)
        try:
            async for event in stream:
                snapshot = event.seen
                if isinstance(snapshot, PollFailure) or snapshot.number <= running:
                    continue  # a poll that was running may not have read what this watcher subscribed to
                if not self._started or snapshot.first:
                    await self._catch_up(snapshot)
                elif transitions := await self._take(snapshot):
                    event.commits.append(functools.partial(self._journal.confirm, transitions))
                    yield transitions
        finally:
            self._subscriptions.remove(self._missed)
            self._subscriptions.remove(keys, everything=everything)

    async def _catch_up(self, snapshot: Snapshot) -> None:
        """Compare a snapshot that knows nothing of the time before it with what was reported last."""
        statuses = self._statuses(snapshot)
        if not self._started:
            self._emit_again = await self._restore(statuses)
            self._started = True
        missed = self._journal.history.news_in(statuses) - self._missed
        self._subscriptions.add(missed)
        self._missed |= missed
        self._missed_since = self._subscriptions.polls

    async def _restore(self, statuses: dict[InvoiceId, str]) -> list[dict[str, Any]]:
        """Load what was reported before; the transitions that must be emitted again."""
        again = await self._journal.load()
        if again is None:
            self._journal.history = History(statuses if self._silent_start else None)
            await self._journal.record([])
            return []
        self._journal.history.keep_only(statuses)
        return again

    async def _take(self, snapshot: Snapshot) -> list[dict[str, Any]]:
        """The payload to emit for a snapshot."""
        changed = snapshot.changed if self._invoice_ids is None else ()
        found = self._observe(snapshot, {*(self._invoice_ids or ()), *self._missed, *changed})
        transitions = [storable(one.as_dict()) for one in found if self._reports(one)]
        if found:
            await self._journal.record(transitions)
        if snapshot.number <= self._missed_since:
            return transitions
        self._forget_missed(snapshot)
        # Repetitions go out with the news: of two events in a row Airflow starts a run with the first, and leaves the
        # other for the next event, whenever that comes.
        again, self._emit_again = self._emit_again, []
        return again + transitions

    def _forget_missed(self, snapshot: Snapshot) -> None:
        """Unsubscribe from the missed invoices that were read, or are gone; the next poll reads the whole list."""
        missing = self._missed - snapshot.rows.keys()
        left = missing & snapshot.statuses().keys() if missing else missing
        self._subscriptions.remove(self._missed - left)
        self._missed = left

    def _observe(self, snapshot: Snapshot, keys: Iterable[InvoiceId]) -> list[Transition]:
        history = self._journal.history
        seen = (history.observe(snapshot.rows[key], snapshot.at) for key in keys if key in snapshot.rows)
        return sorted((one for one in seen if one is not None), key=lambda one: str(one.invoice.key))

    def _statuses(self, snapshot: Snapshot) -> dict[InvoiceId, str]:
        """The statuses of all invoices that this watcher reports."""
        if self._invoice_ids is None:
            return snapshot.statuses()
        found = (snapshot.rows[key] for key in self._invoice_ids if key in snapshot.rows)
        return {invoice.key: invoice.status_key for invoice in found}
