"""Triggers that wait for invoices without occupying a worker."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import TriggerEvent

from airflow_provider_unpod.billing.arguments import choice_of, invoice_ids_of, moment_of, statuses_of, whole_number_of
from airflow_provider_unpod.billing.invoice import PAID, InvoiceId
from airflow_provider_unpod.billing.watching.condition import (
    DEFAULT_FAILURE_STATUSES,
    DEFAULT_MAX_FAILURES,
    Condition,
)
from airflow_provider_unpod.billing.watching.subscriptions import Subscriptions
from airflow_provider_unpod.triggers.events import Journal, PolledEvent, Watcher, events_on, polled_events, producer
from airflow_provider_unpod.triggers.polling import PollingTrigger, PollKey, poll, poll_key_of
from airflow_provider_unpod.triggers.waits import Wait, Waits, waits_for

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Hashable, Iterable
    from datetime import timedelta

    from airflow_provider_unpod.billing.watching.history import Transition

#: Shortest time (seconds) from the deferral to the event. If the event arrives before the scheduler has processed the
#: deferral, the scheduler fails the task as killed ("finished with state success, but the task instance's state
#: attribute is queued"). A worker may report it ``[workers] min_heartbeat_interval`` (5 s) late, because its supervisor
#: may miss the end of the task and looks again then. The scheduler's loop takes some time, too.
_SETTLING = 10.0


class UnpodInvoiceTrigger(PollingTrigger):
    """Fires once: when the invoices reach the status, can no longer reach it, or the deadline has passed.

    The event is ``{"state": "done", "result": …}``, ``{"state": "failed", "message": …}``,
    ``{"state": "timeout", "message": …, "incomplete": <whether a complete read might find more>}`` or
    ``{"state": "error", "error": <class in billing.errors>, "message": …, "status": <HTTP status>}``.

    :param invoice_id: an invoice id or number, or several.
    :param target_status: status to wait for, ignoring case.
    :param failure_statuses: statuses that end the wait as failed, ignoring case. They must not include the target.
    :param wait_for: ``"all"`` or ``"any"`` of the invoices.
    :param on_missing: ``"wait"`` for an invoice that does not exist yet, or ``"fail"`` as soon as a complete read of
        the list proves that it does not exist.
    :param unpod_conn_id: id of a connection of type ``unpod``.
    :param org_handle: organization handle. Default: the ``login`` of the connection.
    :param poke_interval: seconds between two polls, or a ``timedelta``.
    :param deadline: ISO 8601 string, in UTC if it has no offset. The first poll that ends after it is the last one.
        Default: no deadline.
    :param max_failures: number of polls in a row that may fail with an error that is not transient, such as invalid
        credentials, before the wait fails; at least 1, default 5. Timeouts, 429 and 5xx do not count. If waits share a
        poll, failures before this wait joined also count.
    :param failures: number of such polls in a row before the first poll of this trigger, by the sensor's worker.
        Default: 0.
    :raises UnpodConfigError: if an argument is invalid.
    """

    #: Airflow runs the trigger in a triggerer that serves the queue of the deferred task.
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
        failures: int = 0,
    ) -> None:
        super().__init__(unpod_conn_id=unpod_conn_id, org_handle=org_handle, poke_interval=poke_interval)
        self.condition = Condition.from_arguments(invoice_id, target_status, failure_statuses, wait_for, on_missing)
        self.deadline = None if deadline is None else moment_of(deadline, "deadline", timezone.utc)
        self.max_failures = whole_number_of(max_failures, "max_failures")
        self.failures = whole_number_of(failures, "failures", least=0)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments. Airflow stores and logs them, so they contain no secret."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                **self.condition.as_arguments(),
                "unpod_conn_id": self.unpod_conn_id,
                "org_handle": self.org_handle,
                "poke_interval": self.poke_interval,
                "deadline": None if self.deadline is None else self.deadline.isoformat(),
                "max_failures": self.max_failures,
                "failures": self.failures,
            },
        )

    def shared_stream_key(self) -> Hashable:
        """Return the key of the poll. Triggers with the same key share one poll."""
        return _waits_on(self.connection)

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncGenerator[None, None]:
        """Run the poll shared by all triggers with this key. Yields nothing: ``Waits`` delivers the results.

        :param kwargs: the serialized arguments of one of these triggers.
        """
        connection = poll_key_of(kwargs)
        await waits_for(_waits_on(connection)).deliver(poll(waits_for(_waits_on(connection)), connection))
        yield  # never reached, but Airflow expects a generator

    def filter_shared_stream(self, shared_stream: AsyncIterator[None]) -> AsyncIterator[TriggerEvent]:
        """Wait for the shared poll to reach the condition."""
        return self._wait(waits_for(self.shared_stream_key()))

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait with a poll of its own. Airflow calls this before 3.3, and when it runs the trigger alone."""
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
        wait = Wait(self.condition, self.deadline, self.max_failures, failures=self.failures, joined=waits.polls)
        keys = self.condition.keys
        waits.add(keys, certain=self.condition.on_missing == "fail")
        try:
            payload = await waits.join(wait)
            await asyncio.sleep(self._hold_back(wait.began))
            async with waits.few_at_once:
                yield _event(payload)
        finally:
            waits.remove(keys)

    def _hold_back(self, began: datetime) -> float:
        """Return the seconds that Airflow may still need to record the deferral of the task."""
        if getattr(self, "task_instance", None) is None:
            return 0.0
        return max(0.0, _SETTLING - (datetime.now(timezone.utc) - began).total_seconds())


def _waits_on(connection: PollKey) -> Hashable:
    return ("airflow_provider_unpod: wait", *connection)


def _sorted_keys(invoice_ids: InvoiceId | Iterable[InvoiceId]) -> tuple[InvoiceId, ...]:
    return tuple(sorted(invoice_ids_of(invoice_ids, "invoice_ids"), key=lambda key: (type(key).__name__, key)))


def _event(payload: dict[str, Any]) -> TriggerEvent:
    return TriggerEvent(payload)  # type: ignore[no-untyped-call]  # Airflow's constructor has no types


class UnpodInvoiceEventTrigger(PollingTrigger):
    """Fires when invoices change their status, with all changes of one poll in one event. For ``AssetWatcher``.

    The event is ``{"transitions": [{"key", "invoice_id", "from", "to", "invoice", "seen_at"}, …]}``. In a task,
    :func:`~airflow_provider_unpod.transitions.transitions_of` returns all transitions that started its run.

    From Airflow 3.3 on, the trigger stores its reports with the asset. No change is lost when the triggerer restarts,
    and a repetition after a crash has the same ``key``. Before 3.3, a restart is like the first start.

    :param unpod_conn_id: id of a connection of type ``unpod``.
    :param org_handle: organization handle. Default: the ``login`` of the connection.
    :param to_statuses: report only changes to these statuses, one or several, ignoring case. Default: all.
    :param invoice_ids: report only these invoices, one id or several. Default: all.
    :param poke_interval: seconds between two polls, or a ``timedelta``. Default: 60. A settled invoice that changes
        again (a refund) is noticed when its part of the list is read again in turn, unless ``invoice_ids`` names it.
    :param on_first_start: existing invoices to report on the first start: ``"nothing"`` (default) or ``"all"``.
    :raises UnpodConfigError: if an argument is invalid.
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
        # Normalized and sorted, because Airflow and the journal identify a trigger by its serialized arguments.
        self.to_statuses = None if to_statuses is None else statuses_of(to_statuses, "to_statuses")
        self.invoice_ids = None if invoice_ids is None else _sorted_keys(invoice_ids)
        self.on_first_start = on_first_start

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments. Airflow stores and logs them, so they contain no secret."""
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
        """Return the key of the poll. Triggers with the same key share one poll."""
        return events_on(self.connection)

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> Any:
        """Return the poll shared by all triggers with this key.

        :param kwargs: the serialized arguments of one of these triggers.
        """
        return producer(poll_key_of(kwargs))

    def filter_shared_stream(self, shared_stream: AsyncIterator[PolledEvent]) -> AsyncIterator[TriggerEvent]:
        """Report the changes that the shared poll finds."""
        return self._watch(shared_stream, waits_for(self.shared_stream_key()))

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Report changes with a poll of its own. Airflow before 3.3 calls this. It does not confirm events."""
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
        identity = [self.unpod_conn_id, self.org_handle, self.to_statuses, self.invoice_ids]
        watcher = Watcher(
            subscriptions,
            Journal(getattr(self, "asset_state_store", None), identity),
            invoice_ids=self.invoice_ids,
            reports=self._reports,
            silent_start=self.on_first_start == "nothing",
        )
        async with aclosing(watcher.watch(stream)) as found:
            async for transitions in found:
                yield _event({"transitions": transitions})

    def _reports(self, transition: Transition) -> bool:
        return self.to_statuses is None or transition.invoice.status_key in self.to_statuses
