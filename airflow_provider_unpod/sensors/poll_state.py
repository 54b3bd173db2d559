"""What a sensor keeps between two polls, across all reschedules of one try."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.task_boundary import storable

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_unpod.billing.watching.poller import InvoicePoller
    from airflow_provider_unpod.sensors.invoice import UnpodInvoiceSensor

_KEY = "airflow_provider_unpod.poll"
#: Longer than the interval between two polls of any sensible sensor.
_RETENTION = timedelta(days=30)


class PollState:
    """The number of polls in a row that found the API unreachable, and where the invoices are.

    In poke mode, the process keeps them. In reschedule mode, each poll is a process of its own. Airflow 3.3 keeps them
    in the task's state store. Earlier versions cannot, so the first unreachable poll ends the try, and each poll
    searches for the invoices again.

    :ivar most_failures: number of such polls in a row that ends the wait.
    """

    def __init__(self, sensor: UnpodInvoiceSensor, context: Context) -> None:
        in_turns = sensor.reschedule and not sensor.deferrable
        self._store = context.get("task_state_store") if in_turns else None
        self._try = getattr(context.get("ti"), "try_number", None)
        self._stored: dict[str, Any] = {"try": self._try, "failures": 0, "memory": None}
        self.most_failures = 1 if in_turns and self._store is None else sensor.max_failures

    def load(self) -> tuple[int, dict[str, Any] | None]:
        """Return what the previous poll of this try has stored: failures and memory."""
        kept = None if self._store is None else self._store.get(_KEY)
        if isinstance(kept, dict) and kept.get("try") == self._try:
            self._stored = kept
        return int(self._stored["failures"]), self._stored["memory"]

    def store(self, poller: InvoicePoller) -> None:
        """Store both for the next poll, if they have changed."""
        if self._store is None:
            return
        state = storable({"try": self._try, "failures": poller.failures, "memory": poller.memory()})
        if state != self._stored:
            self._store.set(_KEY, state, retention=_RETENTION)
            self._stored = state
