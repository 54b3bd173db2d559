"""Looks made by a worker: for few invoices it searches, for many it reads the list once and then tracks it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_unpod.billing.watching.finder import InvoiceFinder
from airflow_provider_unpod.billing.watching.tracker import Tracker, Wanted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_unpod.billing.client import UnpodClient
    from airflow_provider_unpod.billing.invoice import Invoice, InvoiceId
    from airflow_provider_unpod.billing.watching.condition import Condition

#: A search costs a few requests for each invoice, a complete reading one for a hundred invoices of the list.
_FEW = 4


class InvoicePoller:
    """Sees the invoices of one wait, again and again.

    :param client: the looker's own: :meth:`close` closes it.
    """

    def __init__(self, client: UnpodClient, condition: Condition) -> None:
        self._client = client
        self._keys = condition.keys
        self._certain = condition.on_missing == "fail"
        self._reader = InvoiceFinder(client) if len(self._keys) <= _FEW else Tracker(client)

    def poll(self) -> Mapping[InvoiceId, Invoice]:
        """The invoices that are there, by key.

        :raises UnpodError: if the list could not be looked at.
        """
        keys, reader = self._keys, self._reader
        if isinstance(reader, Tracker):
            return reader.poll(Wanted(keys, dict.fromkeys(keys, 0) if self._certain else {})).rows
        found = ((key, reader.find(key, conclusive=self._certain)) for key in keys)
        return {key: invoice for key, invoice in found if invoice is not None}

    def close(self) -> None:
        """Close the connections that are kept open between looks."""
        self._client.close()
