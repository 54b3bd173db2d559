"""Polls for one wait in a worker. It searches for a few invoices one by one, and tracks the whole list for many."""

from __future__ import annotations

import logging
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from airflow_provider_unpod.billing.errors import UnpodError, UnpodUnreachable
from airflow_provider_unpod.billing.watching.condition import ended_by
from airflow_provider_unpod.billing.watching.finder import InvoiceFinder
from airflow_provider_unpod.billing.watching.tracker import TRANSIENT, Tracker, Wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_provider_unpod.billing.client import UnpodClient
    from airflow_provider_unpod.billing.invoice import Invoice, InvoiceId
    from airflow_provider_unpod.billing.watching.condition import Condition, Decision

log = logging.getLogger(__name__)

#: Most invoices to search for one by one. A search costs a few requests for each; a complete read costs one per page.
_FEW = 4


class InvoicePoller:
    """Polls the invoices of one wait and keeps the state of the wait between polls.

    :param connect: returns a new client, which this poller closes. Called before the first poll.
    :param max_failures: number of polls in a row that may find the API unreachable before the wait fails.
    :ivar failures: current number of such polls. Set it to continue the count of an earlier poller.
    """

    def __init__(self, condition: Condition, connect: Callable[[], UnpodClient], max_failures: int) -> None:
        self.condition = condition
        self.failures = 0
        self._max_failures = max_failures
        self._connect = connect
        self._client: UnpodClient | None = None
        self._reader: InvoiceFinder | Tracker | None = None
        self._rows: Mapping[InvoiceId, Invoice] | None = None
        self._seen_at: datetime | None = None
        self._polls = 0
        self._failure: UnpodError | None = None

    def poll(self) -> Decision | None:
        """Poll once and return the decision. ``None`` if the poll failed and the wait continues.

        :raises UnpodError: if the failure ends the wait.
        """
        self._polls += 1
        try:
            rows = self._read()
        except UnpodError as error:
            self._survive(error)
            return None
        self._rows, self._seen_at, self._failure, self.failures = rows, datetime.now(timezone.utc), None, 0
        return self.condition.decide(rows)

    def report(self) -> str:
        """Describe the state of the wait, see :meth:`Condition.report`."""
        return self.condition.report(self._rows, self._seen_at, self._polls, failure=self._failure)

    def check_reachable(self) -> None:
        """Raise :class:`UnpodUnreachable` if the last poll could not reach the API."""
        error = self._failure
        if isinstance(error, UnpodUnreachable):
            self._failure = None  # the message already begins with it
            raise UnpodUnreachable(ended_by(error, self.failures, self.report()), url=error.url) from error

    def close(self) -> None:
        """Close the client."""
        self._reader = None
        if self._client is not None:
            client, self._client = self._client, None
            client.close()

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

    def _read(self) -> Mapping[InvoiceId, Invoice]:
        """Return the wanted invoices that exist, by key."""
        keys, certain = self.condition.keys, self.condition.on_missing == "fail"
        if self._reader is None:
            self._client = self._client or self._connect()
            self._reader = InvoiceFinder(self._client) if len(keys) <= _FEW else Tracker(self._client)
        if isinstance(self._reader, Tracker):
            return self._reader.poll(Wanted(keys, dict.fromkeys(keys, 0) if certain else {})).rows
        found = ((key, self._reader.find(key, conclusive=certain)) for key in keys)
        return {key: invoice for key, invoice in found if invoice is not None}
