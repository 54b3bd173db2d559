"""Looks made by a worker: for few invoices it searches, for many it reads the list once and then tracks it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_unpod.billing.search import InvoiceFinder
from airflow_provider_unpod.billing.tracking import Tracker, Wanted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_unpod.billing.client import UnpodClient
    from airflow_provider_unpod.billing.invoice import Invoice, InvoiceId
    from airflow_provider_unpod.billing.waiting import Condition

#: A search costs a few requests for each invoice, a complete reading one for a hundred invoices of the list.
_FEW = 4


class Looker:
    """Sees the invoices of one wait, again and again."""

    def __init__(self, client: UnpodClient, condition: Condition) -> None:
        self._condition = condition
        self._certain = condition.on_missing == "fail"
        self._finder = InvoiceFinder(client) if len(condition.keys) <= _FEW else None
        self._tracker = Tracker(client)

    def look(self) -> Mapping[InvoiceId, Invoice]:
        """The invoices that are there, by key.

        :raises UnpodError: if the list could not be looked at.
        """
        keys = self._condition.keys
        if self._finder is None:
            return self._tracker.look(Wanted(keys, dict.fromkeys(keys, 0) if self._certain else {})).rows
        found = ((key, self._finder.find(key, conclusive=self._certain)) for key in keys)
        return {key: invoice for key, invoice in found if invoice is not None}
