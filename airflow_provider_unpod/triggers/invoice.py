"""Triggers that wait for invoices without a worker."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import TriggerEvent

from airflow_provider_unpod.billing.invoice import PAID, InvoiceId
from airflow_provider_unpod.billing.tracking import Interest, Look
from airflow_provider_unpod.billing.waiting import DEFAULT_FAILURE_STATUSES, Condition
from airflow_provider_unpod.triggers.polling import PollingTrigger, Trouble, interest_of, poll

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable

#: Looks in a row that may fail for a reason that does not pass by itself (credentials, for one).
DEFAULT_MAX_FAILURES = 5


class UnpodInvoiceTrigger(PollingTrigger):
    """Fires once, when the invoices have reached their status, cannot reach it any more, or time is up.

    The event is ``{"state": "done", "result": …}``, ``{"state": "failed" | "timeout", "message": …}`` or
    ``{"state": "error", "error": <class in billing.errors>, "message": …, "status": <HTTP status>}``.

    :param deadline: ISO 8601; the first look after it is the last one. ``None``: never.
    :param max_failures: looks in a row that may fail for a reason that does not pass by itself, as invalid
        credentials do; then the wait ends with that error. Outages and rate limits never end it.

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
        poke_interval: float = 60.0,
        deadline: str | None = None,
        max_failures: int = DEFAULT_MAX_FAILURES,
    ) -> None:
        super().__init__(unpod_conn_id=unpod_conn_id, org_handle=org_handle, poke_interval=poke_interval)
        self.condition = Condition.from_arguments(invoice_id, target_status, failure_statuses, wait_for, on_missing)
        self.deadline = None if deadline is None else datetime.fromisoformat(deadline)
        self.max_failures = max_failures

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

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait on a poll of its own: before Airflow 3.3, and where triggers run by themselves."""
        interest = Interest()
        stream = poll(interest, self.unpod_conn_id, self.org_handle, self.poke_interval)
        try:
            async for event in self._wait(stream, interest):
                yield event
        finally:
            await stream.aclose()

    def filter_shared_stream(self, shared_stream: AsyncIterator[Look | Trouble]) -> AsyncIterator[TriggerEvent]:
        """Wait on the poll that it shares with others."""
        return self._wait(shared_stream, interest_of(self.shared_stream_key()))

    async def _wait(
        self, stream: AsyncIterator[Look | Trouble], interest: Interest
    ) -> AsyncGenerator[TriggerEvent, None]:
        condition = self.condition
        certain = condition.on_missing == "fail"
        joined = interest.looks
        interest.add(condition.keys, certain=certain)
        looks = 0
        last: Look | None = None
        began = datetime.now(timezone.utc)
        try:
            async for seen in stream:
                if seen.number <= joined:
                    continue  # it began before this wait was known, and may not have looked for its invoices
                looks += 1
                if isinstance(seen, Look):
                    last = seen
                    decision = condition.decide(seen.rows.get, complete=certain)
                    if decision.state == "done":
                        yield _event({"state": "done", "result": decision.result})
                        return
                    if decision.state == "failed":
                        yield _event({"state": "failed", "message": self._report(last, seen, looks, began)})
                        return
                elif seen.failures >= self.max_failures:
                    yield _event(
                        {
                            "state": "error",
                            "error": type(seen.error).__name__,
                            "status": seen.error.status,
                            "message": self._report(last, seen, looks, began),
                        }
                    )
                    return
                if self.deadline is not None and seen.at >= self.deadline:
                    yield _event({"state": "timeout", "message": self._report(last, seen, looks, began)})
                    return
        finally:
            interest.remove(condition.keys)

    def _report(self, last: Look | None, seen: Look | Trouble, looks: int, began: datetime) -> str:
        text = self.condition.report(last.rows if last else None, last.at if last else None, looks, began)
        return f"{text} The last look failed: {seen.error}" if isinstance(seen, Trouble) else text


def _event(payload: dict[str, Any]) -> TriggerEvent:
    return TriggerEvent(payload)  # type: ignore[no-untyped-call]  # Airflow's own constructor has no types
