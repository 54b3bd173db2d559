"""Counts the polls in a row that found the API unreachable, across all reschedules of one try."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_unpod.sensors.invoice import UnpodInvoiceSensor

_KEY = "airflow_provider_unpod.failures"
#: Longer than the interval between two polls of any sensible sensor.
_RETENTION = timedelta(days=30)


class FailureCount:
    """Stores the count between two polls.

    In poke mode, the process keeps the count. In reschedule mode, each poll is a process of its own. Airflow 3.3 keeps
    the count in the task's state store. Earlier versions cannot store it, so the first such poll ends the try.

    :ivar most: number of such polls in a row that ends the wait.
    """

    def __init__(self, sensor: UnpodInvoiceSensor, context: Context) -> None:
        in_turns = sensor.reschedule and not sensor.deferrable
        self._store = context.get("task_state_store") if in_turns else None
        self._try = getattr(context.get("ti"), "try_number", None)
        self._stored = 0
        self.most = 1 if in_turns and self._store is None else sensor.max_failures

    def load(self) -> int:
        """Return the count that the previous poll of this try has stored. 0 for the first poll."""
        kept = None if self._store is None else self._store.get(_KEY)
        if isinstance(kept, dict) and kept.get("try") == self._try:
            self._stored = int(str(kept["failures"]))
        return self._stored

    def store(self, failures: int) -> None:
        """Store the count for the next poll, if it has changed."""
        if self._store is not None and failures != self._stored:
            self._store.set(_KEY, {"try": self._try, "failures": failures}, retention=_RETENTION)
            self._stored = failures
