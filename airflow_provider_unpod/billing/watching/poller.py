"""Polls for one wait in a worker."""

from __future__ import annotations

import logging
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.billing.errors import UnpodError, UnpodUnreachable
from airflow_provider_unpod.billing.watching.allowance import Allowance
from airflow_provider_unpod.billing.watching.condition import Decision, ended_by
from airflow_provider_unpod.billing.watching.subscriptions import TRANSIENT, Postponed, Wanted
from airflow_provider_unpod.billing.watching.watch import ListWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_provider_unpod.billing.client import UnpodClient
    from airflow_provider_unpod.billing.invoice import Invoice, InvoiceId
    from airflow_provider_unpod.billing.watching.condition import Condition

log = logging.getLogger(__name__)


class InvoicePoller:
    """Polls the invoices of one wait and keeps the state of the wait between polls.

    :param connect: returns a new client, which this poller closes. Called before the first poll.
    :param max_failures: number of polls in a row that may find the API unreachable before the wait fails.
    :ivar failures: current number of such polls.
    """

    def __init__(self, condition: Condition, connect: Callable[[], UnpodClient], max_failures: int) -> None:
        self.condition = condition
        self.failures = 0
        self._max_failures = max_failures
        self._connect = connect
        self._client: UnpodClient | None = None
        self._memory: dict[str, Any] | None = None
        self._allowance = Allowance()
        self._watch: ListWatch | None = None
        self._postponed = False
        self._rows: Mapping[InvoiceId, Invoice] | None = None
        self._seen_at: datetime | None = None
        self._polls = 0
        self._failure: UnpodError | None = None

    def poll(self, *, last: bool = False) -> Decision | None:
        """Poll once and return the decision. ``None`` if the poll failed and the wait continues.

        :param last: whether no poll follows.
        :raises UnpodError: if the failure ends the wait.
        """
        self._polls += 1
        try:
            rows = self._read(last=last)
        except UnpodError as error:
            self._survive(error)
            return None
        if rows is None:
            return Decision("waiting")
        self._rows, self._seen_at, self._failure, self.failures = rows, datetime.now(timezone.utc), None, 0
        return self.condition.decide(rows)

    @property
    def may_find_more(self) -> bool:
        """Whether ``poll(last=True)`` may find what the polls so far could not.

        It may if the last poll was postponed, or did not find an invoice, which may be out of order.
        """
        missing = self._rows is not None and not self._rows.keys() >= set(self.condition.keys)
        return self._postponed or missing

    def report(self) -> str:
        """Describe the state of the wait, see :meth:`Condition.report`."""
        return self.condition.report(self._rows, self._seen_at, self._polls, failure=self._failure)

    def check_reachable(self) -> None:
        """Raise :class:`UnpodUnreachable` if the last poll could not reach the API."""
        error = self._failure
        if isinstance(error, UnpodUnreachable):
            self._failure = None  # the message already begins with it
            raise UnpodUnreachable(ended_by(error, self.failures, self.report()), url=error.url) from error

    def memory(self) -> dict[str, Any] | None:
        """Return JSON data with which another poller finds the same invoices in fewer requests."""
        if self._watch is None:
            return self._memory
        memory = self._watch.memory()
        return None if memory is None else {**memory, "allowance": self._allowance.balance()}

    def continue_from(self, failures: int, memory: dict[str, Any] | None) -> None:
        """Continue from an earlier poller: its ``failures`` and :meth:`memory`."""
        self.failures, self._memory = failures, memory

    def close(self) -> None:
        """Close the client."""
        self._memory, self._watch = self.memory(), None
        if self._client is not None:
            client, self._client = self._client, None
            client.close()

    def _recalled(self, client: UnpodClient) -> ListWatch | None:
        """Return a watch that continues from the memory. ``None`` if there is none, or another version stored it."""
        if self._memory is None:
            return None
        try:
            self._allowance.continue_from(self._memory["allowance"])
            return ListWatch(client, self._allowance, self._memory)
        except (KeyError, TypeError, ValueError) as error:
            log.info("The stored places of the invoices are of no use, so they are searched again: %r", error)
            return None

    def _survive(self, error: UnpodError) -> None:
        """Record a failed poll. Raise :class:`UnpodError` if it ends the wait."""
        if isinstance(error, UnpodUnreachable):
            self.failures += 1
            self.close()  # the connection may be corrected before the next poll
            if self.failures >= self._max_failures:
                self._failure = error
                self.check_reachable()
        elif isinstance(error, TRANSIENT):
            self.failures = 0
        else:
            raise error
        if type(error) is not type(self._failure):
            log.warning("A poll of the invoices failed; the next one tries again: %s", error)
        self._failure = error

    def _read(self, *, last: bool) -> Mapping[InvoiceId, Invoice] | None:
        """Return the wanted invoices that exist, by key. ``None`` if the poll was postponed."""
        keys, certain = self.condition.keys, self.condition.on_missing == "fail"
        if self._watch is None:
            client = self._client = self._client or self._connect()
            self._allowance = Allowance(client.daily_requests)
            self._watch = self._recalled(client) or ListWatch(client, self._allowance)
        seen = self._watch.poll(Wanted(keys, dict.fromkeys(keys, 0) if certain else {}), last=last)
        self._postponed = isinstance(seen, Postponed)
        if isinstance(seen, Postponed):
            return None
        return seen.rows
