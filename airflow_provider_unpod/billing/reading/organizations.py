"""Reads the complete list of organizations, with the same checks as one pass over the invoices."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from airflow_provider_unpod.billing.client import Page
from airflow_provider_unpod.billing.errors import UnpodListUnstable
from airflow_provider_unpod.billing.reading.evidence import SINGLE_PASS, Evidence
from airflow_provider_unpod.billing.reading.fetcher import Fetcher
from airflow_provider_unpod.billing.reading.passes import Pass

if TYPE_CHECKING:
    from airflow_provider_unpod.billing.client import UnpodClient
    from airflow_provider_unpod.billing.http.cancellation import Cancellation
    from airflow_provider_unpod.billing.invoice import Invoice


def read_organizations(client: UnpodClient) -> list[dict[str, Any]]:
    """List the organizations that the client's token may access. ``domain_handle`` is the ``Org-Handle`` of each.

    :raises UnpodListUnstable: if the list may be incomplete.
    :raises UnpodError: if a request fails, as in :meth:`UnpodClient.get_organizations`.
    """
    source = _Organizations(client)
    only = Pass(Fetcher(source, source.max_concurrency), Evidence(SINGLE_PASS), source.page_size)
    found = [row.content for page in only.pages() for row in cast("list[_Row]", page)]
    if only.flaw:
        raise UnpodListUnstable(f"Try again: the list of organizations may be incomplete, because {only.flaw}.")
    return found


@dataclass(frozen=True)
class _Row:
    """An organization with the attributes of an invoice that a pass uses."""

    content: dict[str, Any]
    key: str
    invoice_date = None


class _Organizations:
    """Adapts the organizations endpoint to a source of pages."""

    page_size = 100
    max_concurrency = 1

    def __init__(self, client: UnpodClient) -> None:
        self._client = client

    def get_page(self, page: int, page_size: int, cancellation: Cancellation | None = None) -> Page:
        found = self._client.get_organizations(page, page_size)
        if found is None:
            return Page([], None, past_end=True)
        rows = [_Row(row, json.dumps(row, sort_keys=True, default=str)) for row in found[0]]
        return Page(cast("list[Invoice]", rows), found[1])
