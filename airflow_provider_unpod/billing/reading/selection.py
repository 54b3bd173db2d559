"""Filters the invoices of a complete list, because the API has no filters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.billing.arguments import moment_of, statuses_of, zone_of
from airflow_provider_unpod.billing.errors import UnpodBadAnswer, UnpodConfigError, short_repr

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date, datetime

    from airflow_provider_unpod.billing.invoice import Invoice


@dataclass(frozen=True, slots=True)
class Selection:
    """Selected statuses and invoice dates. ``None`` means no restriction.

    :param statuses: statuses as in ``Invoice.status_key``.
    :param invoice_date_from: earliest date, inclusive; aware, UTC.
    :param invoice_date_to: latest date, exclusive; aware, UTC.
    """

    statuses: frozenset[str] | None = None
    invoice_date_from: datetime | None = None
    invoice_date_to: datetime | None = None

    @classmethod
    def from_arguments(
        cls,
        statuses: str | Iterable[str] | None = None,
        invoice_date_from: str | date | None = None,
        invoice_date_to: str | date | None = None,
        timezone: str = "UTC",
    ) -> Selection:
        """Build a selection from the arguments that users write.

        :param statuses: one status or several, ignoring case. A string may be comma-separated or a rendered list.
        :param invoice_date_from: earliest date, inclusive: an ISO 8601 string, ``date`` or ``datetime``.
        :param invoice_date_to: latest date, exclusive: an ISO 8601 string, ``date`` or ``datetime``.
        :param timezone: IANA name of the time zone for dates without an offset.
        :raises UnpodConfigError: if an argument is invalid, or the dates select nothing. The message names it.
        """
        zone = zone_of(timezone, "timezone")
        first = None if invoice_date_from is None else moment_of(invoice_date_from, "invoice_date_from", zone)
        end = None if invoice_date_to is None else moment_of(invoice_date_to, "invoice_date_to", zone)
        if first is not None and end is not None and first >= end:
            # A manual run has data_interval_start == data_interval_end; an empty selection is never what was intended.
            raise UnpodConfigError(
                f"`invoice_date_from` ({first.isoformat()}) must be before `invoice_date_to` ({end.isoformat()}), "
                "which is exclusive."
            )
        wanted = None if statuses is None else frozenset(statuses_of(statuses, "statuses"))
        return cls(wanted, first, end)

    def as_dict(self) -> dict[str, Any]:
        """Return the selection as a dictionary for JSON, with dates in ISO 8601 and UTC."""
        return {
            "statuses": None if self.statuses is None else sorted(self.statuses),
            "invoice_date_from": self.invoice_date_from and self.invoice_date_from.isoformat(),
            "invoice_date_to": self.invoice_date_to and self.invoice_date_to.isoformat(),
        }

    def matches(self, invoice: Invoice) -> bool:
        """Return whether ``invoice`` is selected.

        :raises UnpodBadAnswer: if the selection has dates and the invoice has none.
        """
        if self.statuses is not None and invoice.status_key not in self.statuses:
            return False
        first, end = self.invoice_date_from, self.invoice_date_to
        if first is None and end is None:
            return True
        dated = invoice.invoice_date
        if dated is None:
            # Omitting the invoice would look right and be wrong.
            raise UnpodBadAnswer(
                f"Invoice {short_repr(invoice.invoice_id)} has no `invoice_date`, so it cannot be selected by date."
            )
        return (first is None or dated >= first) and (end is None or dated < end)
