"""Triggers that wait for invoices without a worker."""

from __future__ import annotations

import asyncio
import functools
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import TriggerEvent

from airflow_provider_unpod.billing.arguments import choice_of, invoice_ids_of, statuses_of, whole_number_of
from airflow_provider_unpod.billing.errors import UnpodBadAnswer
from airflow_provider_unpod.billing.invoice import PAID, InvoiceId
from airflow_provider_unpod.billing.watching.condition import DEFAULT_FAILURE_STATUSES, Condition
from airflow_provider_unpod.billing.watching.history import History, Transition
from airflow_provider_unpod.billing.watching.tracker import Snapshot, Subscriptions
from airflow_provider_unpod.triggers.events import Journal, PolledEvent, events_on, polled_events, producer
from airflow_provider_unpod.triggers.polling import PollFailure, PollingTrigger, PollKey, poll, poll_key_of
from airflow_provider_unpod.triggers.waits import Waits, waits_for

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Hashable, Iterable
    from datetime import timedelta

#: Looks in a row that may fail for a reason that does not pass by itself (credentials, for one).
DEFAULT_MAX_FAILURES = 5

#: Seconds. A scheduler that hears of the deferral only when the task is queued again takes it for killed and fails it
#: ("finished with state success, but the task instance's state attribute is queued"); it may be seconds behind.
_SETTLING = 5.0


class UnpodInvoiceTrigger(PollingTrigger):
    """Fires once, when the invoices have reached their status, cannot reach it any more, or time is up.

    The event is ``{"state": "done", "result": …}``, ``{"state": "failed" | "timeout", "message": …}`` or
    ``{"state": "error", "error": <class in billing.errors>, "message": …, "status": <HTTP status>}``.

    :param deadline: ISO 8601; the first look after it is the last one. ``None``: never.
    :param max_failures: looks in a row, of the poll that waits share, that may fail for a reason that does not pass by
        itself, as invalid credentials do; then the wait ends with that error. Outages and rate limits never end it.

    The other parameters are those of :class:`~airflow_provider_unpod.sensors.invoice.UnpodInvoiceSensor`.

    :raises UnpodConfigError: for arguments that make no sense.
    """

    #: A deferred task's trigger, not a watcher's: it goes where the task's queue says.
    supports_triggerer_queue = True

    def __init__(
        self,
        *,
        invoice_id: InvoiceId | Iterable[InvoiceId],
        target_status: str = PAID,
        failure_statuses: Iterable[str] = DEFAULT_FAILURE_STATUSES,
        wait_for: str = "all",
        on_missing: str = "wait",
        unpod_conn_id: str = "unpod_default",
        org_handle: str | None = None,
        poke_interval: float | timedelta = 60.0,
        deadline: str | None = None,
        max_failures: int = DEFAULT_MAX_FAILURES,
    ) -> None:
        super().__init__(unpod_conn_id=unpod_conn_id, org_handle=org_handle, poke_interval=poke_interval)
        self.condition = Condition.from_arguments(invoice_id, target_status, failure_statuses, wait_for, on_missing)
        self.deadline = None if deadline is None else datetime.fromisoformat(deadline)
        self.max_failures = whole_number_of(max_failures, "max_failures")

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """What Airflow stores and logs: ids and numbers, no secret."""
        condition = self.condition
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "invoice_id": condition.invoice_ids[0] if condition.single else list(condition.invoice_ids),
                "target_status": condition.target_status,
                "failure_statuses": list(condition.failure_statuses),
                "wait_for": condition.wait_for,
                "on_missing": condition.on_missing,
                "unpod_conn_id": self.unpod_conn_id,
                "org_handle": self.org_handle,
                "poke_interval": self.poke_interval,
                "deadline": None if self.deadline is None else self.deadline.isoformat(),
                "max_failures": self.max_failures,
            },
        )

    def shared_stream_key(self) -> Hashable:
        """Everything that the poll depends on, and nothing else."""
        return _waits_on(self.connection)

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncGenerator[None, None]:
        """The poll of all triggers of one key; ``kwargs`` are those of any of them. It has its own way to tell them."""
        connection = poll_key_of(kwargs)
        await waits_for(_waits_on(connection)).deliver(poll(waits_for(_waits_on(connection)), connection))
        yield  # what makes this a stream, as Airflow wants it; the line before never ends

    def filter_shared_stream(self, shared_stream: AsyncIterator[None]) -> AsyncIterator[TriggerEvent]:
        """Wait on the poll that it shares with others."""
        return self._wait(waits_for(self.shared_stream_key()))

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait on a poll of its own: before Airflow 3.3, and where triggers run by themselves."""
        waits = Waits()
        events = self._wait(waits)
        polling = asyncio.ensure_future(waits.deliver(poll(waits, self.connection)))
        try:
            async for event in events:
                yield event
        finally:
            polling.cancel()
            await asyncio.wait([polling])

    async def _wait(self, waits: Waits) -> AsyncGenerator[TriggerEvent, None]:
        began = datetime.now(timezone.utc)
        keys = self.condition.keys
        joined, polls = waits.polls, 0
        last: Snapshot | None = None

        def judge(seen: Snapshot | PollFailure) -> dict[str, Any] | None:
            nonlocal polls, last
            if seen.number <= joined:
                return None  # it began before this wait was known, and may not have looked for its invoices
            polls += 1
            try:
                payload = self._payload(seen, last, polls, began)
            except UnpodBadAnswer as error:  # of a row that cannot become a record
                payload = {"state": "error", "error": type(error).__name__, "status": None, "message": error.message}
            if isinstance(seen, Snapshot):
                last = seen
            return payload

        waits.add(keys, certain=self.condition.on_missing == "fail")
        try:
            payload = await waits.join(judge)
            await asyncio.sleep(self._hold_back(began))
            async with waits.few_at_once:
                yield _event(payload)
        finally:
            waits.remove(keys)

    def _hold_back(self, began: datetime) -> float:
        """How many seconds Airflow still needs to take note that its task is deferred."""
        if getattr(self, "task_instance", None) is None:
            return 0.0
        return max(0.0, _SETTLING - (datetime.now(timezone.utc) - began).total_seconds())

    def _payload(
        self, seen: Snapshot | PollFailure, last: Snapshot | None, polls: int, began: datetime
    ) -> dict[str, Any] | None:
        """The event, if this look ends the wait; ``last`` is the one before it that succeeded."""
        if isinstance(seen, Snapshot):
            last = seen
            decision = self.condition.decide(seen.rows)
            if decision.state == "done":
                return {"state": "done", "result": decision.result}
            if decision.state == "failed":
                return {"state": "failed", "message": self._report(last, seen, polls, began)}
        elif seen.failures >= self.max_failures:
            error, status = type(seen.error).__name__, seen.error.status
            message = self._report(last, seen, polls, began)
            return {"state": "error", "error": error, "status": status, "message": message}
        if self.deadline is not None and seen.at >= self.deadline:
            return {"state": "timeout", "message": self._report(last, seen, polls, began)}
        return None

    def _report(self, last: Snapshot | None, seen: Snapshot | PollFailure, polls: int, began: datetime) -> str:
        trouble = seen.error if isinstance(seen, PollFailure) else None
        return self.condition.report(last.rows if last else None, last.at if last else None, polls, began, trouble)


def _waits_on(connection: PollKey) -> Hashable:
    return ("airflow_provider_unpod: wait", *connection)


def _sorted_keys(invoice_ids: InvoiceId | Iterable[InvoiceId]) -> tuple[InvoiceId, ...]:
    return tuple(sorted(invoice_ids_of(invoice_ids, "invoice_ids"), key=lambda key: (type(key).__name__, key)))


def _event(payload: dict[str, Any]) -> TriggerEvent:
    return TriggerEvent(payload)  # type: ignore[no-untyped-call]  # Airflow's own constructor has no types


class UnpodInvoiceEventTrigger(PollingTrigger):
    """For ``AssetWatcher``: fires when invoices change their status, with a list of all changes of one look.

    The event is ``{"transitions": [{"key", "invoice_id", "from", "to", "invoice", "seen_at"}, …]}``;
    :func:`~airflow_provider_unpod.transitions.transitions_of` gives a task what it was started by.

    From Airflow 3.3 on, what was told is kept with the asset: nothing is lost when the triggerer restarts, and what is
    told twice after a crash has the same ``key``. Before 3.3 a restart begins anew, as at the first start.

    :param to_statuses: tell only of changes to these, one status or several, in any case; ``None``: of all.
    :param invoice_ids: tell only of these, one or several; ``None``: of all.
    :param poke_interval: seconds between two looks, or a ``timedelta``. Changes of invoices that were settled (a
        refund) are seen by the regular complete reading, every tenth look or less often in long lists, unless
        ``invoice_ids`` names them.
    :param on_first_start: what to tell of the invoices that are there when the trigger runs for the first time:
        ``"nothing"`` or ``"all"``.
    :raises UnpodConfigError: for arguments that make no sense.
    """

    def __init__(
        self,
        *,
        unpod_conn_id: str = "unpod_default",
        org_handle: str | None = None,
        to_statuses: str | Iterable[str] | None = None,
        invoice_ids: InvoiceId | Iterable[InvoiceId] | None = None,
        poke_interval: float | timedelta = 60.0,
        on_first_start: str = "nothing",
    ) -> None:
        super().__init__(unpod_conn_id=unpod_conn_id, org_handle=org_handle, poke_interval=poke_interval)
        choice_of(on_first_start, "on_first_start", ("nothing", "all"))
        # In one order and one spelling each, whatever the process: to Airflow another one is another trigger, and what
        # this one has told is kept under both.
        self.to_statuses = None if to_statuses is None else statuses_of(to_statuses, "to_statuses")
        self.invoice_ids = None if invoice_ids is None else _sorted_keys(invoice_ids)
        self.on_first_start = on_first_start

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """What Airflow stores and logs: ids and numbers, no secret."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "unpod_conn_id": self.unpod_conn_id,
                "org_handle": self.org_handle,
                "to_statuses": None if self.to_statuses is None else list(self.to_statuses),
                "invoice_ids": None if self.invoice_ids is None else list(self.invoice_ids),
                "poke_interval": self.poke_interval,
                "on_first_start": self.on_first_start,
            },
        )

    def shared_stream_key(self) -> Hashable:
        """Everything that the poll depends on, and nothing else."""
        return events_on(self.connection)

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> Any:
        """The poll of all triggers of one key; ``kwargs`` are those of any of them."""
        return producer(poll_key_of(kwargs))

    def filter_shared_stream(self, shared_stream: AsyncIterator[PolledEvent]) -> AsyncIterator[TriggerEvent]:
        """Watch on the poll that it shares with others."""
        return self._watch(shared_stream, waits_for(self.shared_stream_key()))

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Watch on a poll of its own, which nobody tells what is stored: before Airflow 3.3."""
        subscriptions = Subscriptions()
        stream = polled_events(subscriptions, self.connection)
        try:
            async for event in self._watch(stream, subscriptions):
                yield event
        finally:
            await stream.aclose()

    async def _watch(
        self, stream: AsyncIterator[PolledEvent], subscriptions: Subscriptions
    ) -> AsyncGenerator[TriggerEvent, None]:
        everything = self.invoice_ids is None
        keys = self.invoice_ids or ()
        joined = asked = subscriptions.polls
        subscriptions.add(keys, everything=everything)
        journal = Journal(
            getattr(self, "asset_state_store", None),
            [self.unpod_conn_id, self.org_handle, self.to_statuses, self.invoice_ids],
        )
        begun = False
        news: set[InvoiceId] = set()
        again: list[dict[str, Any]] = []
        try:
            async for event in stream:
                snapshot = event.seen
                if isinstance(snapshot, PollFailure) or snapshot.number <= joined:
                    continue
                if not begun or snapshot.first:
                    statuses = self._statuses(snapshot)
                    if not begun:
                        again = await self._begin(journal, statuses)
                    # What happened while nobody looked: the next look reads these invoices, wherever they stand.
                    more = journal.history.news_in(statuses) - news
                    subscriptions.add(more)
                    news |= more
                    asked = subscriptions.polls
                    begun = True
                    continue
                found = self._observe(
                    snapshot, {*keys, *news, *(snapshot.changed if everything else ())}, journal.history
                )
                told = [one.as_dict() for one in found if self._reports(one)]
                if found:
                    await journal.tell(told)
                if snapshot.number > asked:
                    # One that was not found has moved far; the next look reads everything.
                    missing = news - snapshot.rows.keys()
                    left = missing & snapshot.statuses().keys() if missing else missing
                    subscriptions.remove(news - left)
                    news = left
                    # What must be told again goes out with the news: of two events in a row Airflow starts a run with
                    # the first, and leaves the other for the next event, whenever that comes.
                    told, again = again + told, []
                if told:
                    event.commits.append(functools.partial(journal.confirm, told))
                    yield _event({"transitions": told})
        finally:
            subscriptions.remove(news)
            subscriptions.remove(keys, everything=everything)

    def _reports(self, transition: Transition) -> bool:
        return self.to_statuses is None or transition.invoice.status.lower() in self.to_statuses

    def _statuses(self, snapshot: Snapshot) -> dict[InvoiceId, str]:
        """The statuses of all invoices that this trigger is about."""
        if self.invoice_ids is None:
            return snapshot.statuses()
        return {snapshot.rows[key].key: snapshot.rows[key].status for key in self.invoice_ids if key in snapshot.rows}

    async def _begin(self, journal: Journal, statuses: dict[InvoiceId, str]) -> list[dict[str, Any]]:
        """Take up what was told before; what must be told again."""
        again = await journal.load()
        if again is None:
            journal.history = History(statuses if self.on_first_start == "nothing" else None)
            await journal.tell([])
            return []
        journal.history.keep_only(statuses)
        return again

    def _observe(self, snapshot: Snapshot, keys: Iterable[InvoiceId], history: History) -> list[Transition]:
        seen = (history.observe(snapshot.rows[key], snapshot.at) for key in keys if key in snapshot.rows)
        return sorted((one for one in seen if one is not None), key=lambda one: str(one.invoice.key))
