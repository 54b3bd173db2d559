"""Which invoices of a complete list are wanted. The API has no filters, so this is the client's work."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, timezone, tzinfo
from typing import TYPE_CHECKING

import pendulum

from airflow_provider_unpod.billing.arguments import statuses_of
from airflow_provider_unpod.billing.errors import UnpodBadAnswer, UnpodConfigError, short_repr

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_unpod.billing.invoice import Invoice

#: A whole date at least, with dashes or without; "2026-02" could mean its first day or all of it.
_BEGINS_WITH_DATE = re.compile(r"(?:\d{4}-\d\d-\d\d|\d{8}(?!\d))[^/]*").fullmatch


@dataclass(frozen=True, slots=True)
class Selection:
    """Statuses and a half-open span of invoice dates; ``None`` leaves a side open."""

    #: In small letters, as they are compared.
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
        timezone: str | tzinfo = "UTC",
    ) -> Selection:
        """A selection from what users write.

        :param statuses: one status or several, in any case; as a text also with commas between, or a rendered list.
        :param invoice_date_from: ISO 8601 text, ``date`` or ``datetime``; the moment itself is wanted.
        :param invoice_date_to: the same; the moment itself is not wanted any more.
        :param timezone: what naive dates are meant in, an IANA name or a ``tzinfo``.
        :raises UnpodConfigError: if one of them makes no sense, or the span can hold nothing.
        """
        zone = _zone(timezone)
        first = _moment(invoice_date_from, "invoice_date_from", zone)
        end = _moment(invoice_date_to, "invoice_date_to", zone)
        if first is not None and end is not None and first >= end:
            # Not an empty result: a run without a data interval gives the same moment twice, and means no such thing.
            raise UnpodConfigError(
                f"`invoice_date_from` ({first.isoformat()}) must be before `invoice_date_to` ({end.isoformat()}), "
                "which is not part of the span itself."
            )
        wanted = None if statuses is None else frozenset(statuses_of(statuses, "statuses"))
        return cls(wanted, first, end)

    def matches(self, invoice: Invoice) -> bool:
        """Whether ``invoice`` is wanted.

        :raises UnpodBadAnswer: if that depends on a date which the invoice does not have.
        """
        if self.statuses is not None and invoice.status.lower() not in self.statuses:
            return False
        first, end = self.invoice_date_from, self.invoice_date_to
        if first is None and end is None:
            return True
        moment = invoice.invoice_date
        if moment is None:
            # Leaving it out would look right and be wrong.
            raise UnpodBadAnswer(
                f"Invoice {invoice.invoice_id!r} has no `invoice_date`, so it cannot be selected by date."
            )
        return (first is None or moment >= first) and (end is None or moment < end)


def _moment(value: str | date | None, name: str, zone: tzinfo) -> datetime | None:
    if value is None:
        return None
    try:
        if isinstance(value, str) and _BEGINS_WITH_DATE(value.strip()):
            # Typed as anything, because a text may be a time or a duration too.
            parsed: object = pendulum.parse(value.strip(), tz=zone)
            if isinstance(parsed, datetime):
                return _utc(parsed, zone)
        elif isinstance(value, datetime):
            return _utc(value, zone)
        elif isinstance(value, date):
            return _utc(datetime(value.year, value.month, value.day, tzinfo=zone), zone)
    except (ValueError, OverflowError):
        pass
    raise UnpodConfigError(
        f"`{name}` must be a date or a moment, such as `2026-02-01` or `2026-02-01T00:00:00Z`; got {short_repr(value)}."
    )


def _utc(moment: datetime, zone: tzinfo) -> datetime:
    aware = moment.replace(tzinfo=zone) if moment.tzinfo is None else moment
    # A plain datetime: it goes into manifests and comparisons, where pendulum's own class only costs.
    return datetime.fromisoformat(aware.astimezone(timezone.utc).isoformat())


def _zone(name: str | tzinfo) -> tzinfo:
    if isinstance(name, tzinfo):
        return name
    try:
        if isinstance(name, str):
            return pendulum.timezone(name)
    except (ValueError, OSError):
        pass
    raise UnpodConfigError(
        f"The time zone must be an IANA name such as `UTC` or `Europe/Berlin`; got {short_repr(name)}."
    )
