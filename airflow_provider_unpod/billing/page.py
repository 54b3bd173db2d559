"""One page of the billing list: what a request for invoices gives. Light, as all that triggers import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_unpod.billing.invoice import Invoice


@dataclass(frozen=True, slots=True)
class Page:
    """One page of the billing list."""

    #: In the order of the answer.
    invoices: list[Invoice]
    #: The answer's ``count``; ``None`` where missing or null.
    count: int | None
    #: HTTP 404 on a page > 1 ("Invalid page."); ``invoices`` is then empty.
    past_end: bool = False
