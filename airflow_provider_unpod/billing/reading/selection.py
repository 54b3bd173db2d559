"""Selects invoices of a complete list, because the API has no filters."""

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
    """Statuses and a half-open span of invoice dates; ``None`` leaves a side open."""

    #: In the form in which they are compared, see ``Invoice.status_key``.
    statuses: frozenset[str] | None = None
    #: The first moment that belongs to the span; aware, UTC.
    invoice_date_from: datetime | None = None
    #: The first moment after the span; aware, UTC.
    invoice_date_to: datetime | None = None

    @classmethod
    def from_arguments(
        cls,
        statuses: str | Iterable[str] | None = None,
        invoice_date_from: str | date | None = None,
        invoice_date_to: str | date | None = None,
        timezone: str = "UTC",
    ) -> Selection:
        """Make a selection from what users write.

        :param statuses: one status or several, in any case; as a text also with commas between, or a rendered list.
        :param invoice_date_from: ISO 8601 text, ``date`` or ``datetime``; inclusive.
        :param invoice_date_to: the same; exclusive.
        :param timezone: IANA name of the time zone of dates that name none.
        :raises UnpodConfigError: naming the argument that is invalid, or if the span is empty.
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
        """The same, ready for JSON; moments are ISO 8601 in UTC."""
        return {
            "statuses": None if self.statuses is None else sorted(self.statuses),
            "invoice_date_from": self.invoice_date_from and self.invoice_date_from.isoformat(),
            "invoice_date_to": self.invoice_date_to and self.invoice_date_to.isoformat(),
        }

    def matches(self, invoice: Invoice) -> bool:
        """Say whether ``invoice`` is selected.

        :raises UnpodBadAnswer: if that depends on a date which the invoice does not have.
        """
        if self.statuses is not None and invoice.status_key not in self.statuses:
            return False
        first, end = self.invoice_date_from, self.invoice_date_to
        if first is None and end is None:
            return True
        moment = invoice.invoice_date
        if moment is None:
            # Leaving it out would look right and be wrong.
            raise UnpodBadAnswer(
                f"Invoice {short_repr(invoice.invoice_id)} has no `invoice_date`, so it cannot be selected by date."
            )
        return (first is None or moment >= first) and (end is None or moment < end)
