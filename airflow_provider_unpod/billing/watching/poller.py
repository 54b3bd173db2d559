"""The polls of one wait in a worker. A few invoices are searched; for many the list is read once and then tracked."""

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

#: A search costs a few requests for each invoice, a complete reading one for a hundred invoices of the list.
_FEW = 4


class InvoicePoller:
    """Polls the invoices of one wait, and knows the state of the wait between two polls.

    :param connect: returns a client that belongs to this poller, which closes it; called before the first poll.
    :param max_failures: how many polls in a row may find the API unreachable before the wait ends.
    :ivar failures: how many did so far; set it to continue the count of an earlier poller.
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
        """The decision for the wait; ``None`` if the invoices could not be read and the wait goes on.

        :raises UnpodError: if the wait cannot go on, since the fault does not pass by itself.
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
        """The state of the wait, see :meth:`Condition.report`."""
        return self.condition.report(self._rows, self._seen_at, self._polls, failure=self._failure)

    def check_reachable(self) -> None:
        """:raises UnpodUnreachable: if the last poll could not reach the API."""
        error = self._failure
        if isinstance(error, UnpodUnreachable):
            self._failure = None  # the message begins with it
            raise UnpodUnreachable(ended_by(error, self.failures, self.report()), url=error.url) from error

    def close(self) -> None:
        """Close the connections that are kept open between polls."""
        self._reader = None
        if self._client is not None:
            client, self._client = self._client, None
            client.close()

    def _survive(self, error: UnpodError) -> None:
        """:raises UnpodError: if this failure ends the wait."""
        if isinstance(error, UnpodUnreachable):
            self.failures += 1
            self.close()  # somebody may mend the connection before the next poll
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
        """The wanted invoices that exist, by key."""
        keys, certain = self.condition.keys, self.condition.on_missing == "fail"
        if self._reader is None:
            self._client = self._client or self._connect()
            self._reader = InvoiceFinder(self._client) if len(keys) <= _FEW else Tracker(self._client)
        if isinstance(self._reader, Tracker):
            return self._reader.poll(Wanted(keys, dict.fromkeys(keys, 0) if certain else {})).rows
        found = ((key, self._reader.find(key, conclusive=certain)) for key in keys)
        return {key: invoice for key, invoice in found if invoice is not None}
