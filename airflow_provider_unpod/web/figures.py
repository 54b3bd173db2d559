"""Computes the figures of a report in one pass over the records. They are exact, and memory use is limited."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from datetime import datetime, timezone, tzinfo
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_unpod.billing.errors import UnpodBadAnswer
from airflow_provider_unpod.billing.invoice import CANCELLED, PAID, REFUNDED, Invoice
from airflow_provider_unpod.export.totals import EXACT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Statuses of invoices that are no longer open.
CLOSED = frozenset({PAID, CANCELLED, REFUNDED})
NO_MONTH = "no date"
#: Names for the sums of older months and of further statuses, which are not shown one by one. Invoices in further
#: currencies are only counted. These limits keep a report small, whatever the API sends.
EARLIER, OTHER_STATUSES = "earlier", "other statuses"
MOST_MONTHS, MOST_STATUSES, MOST_CURRENCIES = 120, 12, 30
#: Age groups of receivables, in days past the due date.
BUCKETS = ("not due yet", "1 to 30 days", "31 to 60 days", "61 to 90 days", "over 90 days", "no date")
#: Most overdue invoices to list one by one, longest overdue first. The rest is counted.
MOST_OVERDUE = 200


class Sum(NamedTuple):
    """A number of invoices and their total amount in one currency."""

    invoices: int = 0
    amount: Decimal = Decimal(0)

    def plus(self, amount: Decimal, invoices: int = 1) -> Sum:
        return Sum(self.invoices + invoices, EXACT.add(self.amount, amount))


class Overdue(NamedTuple):
    """An open invoice past its due date. ``assumed`` is true if the date was computed from the usual payment term."""

    days: int
    invoice_id: str
    amount: Decimal
    currency: str
    status: str
    due: datetime
    assumed: bool


@dataclass
class Figures:
    """The figures of a report that are not in the manifest.

    :param as_of: time for which due dates are evaluated: when the list was read.
    :param months: sums by currency, month and status.
    :param statuses: all statuses in ``months``.
    :param not_shown: number of invoices in further currencies, which are not part of any sum.
    :param ageing: sums of open invoices by currency and age group.
    :param overdue: overdue invoices, longest overdue first, at most ``MOST_OVERDUE``.
    :param overdue_count: number of all overdue invoices.
    :param assumed: whether any due date was assumed.
    """

    as_of: datetime
    months: dict[str, dict[str, dict[str, Sum]]] = field(default_factory=dict)
    statuses: set[str] = field(default_factory=set)
    not_shown: int = 0
    ageing: dict[str, dict[str, Sum]] = field(default_factory=dict)
    overdue: list[Overdue] = field(default_factory=list)
    overdue_count: int = 0
    assumed: bool = False


def figures_of(records: Iterable[Mapping[str, Any]], *, as_of: datetime, zone: tzinfo = timezone.utc) -> Figures:
    """Add up the records of an export.

    :param zone: time zone of the months.
    """
    figures = Figures(as_of)
    longest: list[tuple[int, str, Overdue]] = []
    for record in records:
        invoice = Invoice(record)
        currency, status = invoice.currency_code, invoice.status_key
        if currency not in figures.months and len(figures.months) == MOST_CURRENCIES:
            figures.not_shown += 1
            continue
        _add(figures, invoice, _month(invoice, zone))
        if status in CLOSED:
            continue
        due, assumed = _due(invoice)
        days = None if due is None else (as_of - due).days
        bucket = _bucket(days)
        ages = figures.ageing.setdefault(currency, dict.fromkeys(BUCKETS, Sum()))
        ages[bucket] = ages[bucket].plus(invoice.amount)
        figures.assumed = figures.assumed or assumed
        if due is not None and days is not None and days > 0:
            figures.overdue_count += 1
            one = Overdue(days, str(invoice.invoice_id), invoice.amount, currency, status, due, assumed)
            push = heapq.heappushpop if len(longest) == MOST_OVERDUE else heapq.heappush
            push(longest, (days, one.invoice_id, one))
    figures.overdue = [one for _, _, one in sorted(longest, key=lambda item: (-item[0], item[1]))]
    return figures


def _add(figures: Figures, invoice: Invoice, month: str) -> None:
    status = invoice.status_key
    if status not in figures.statuses and len(figures.statuses) >= MOST_STATUSES:
        status = OTHER_STATUSES
    figures.statuses.add(status)
    months = figures.months.setdefault(invoice.currency_code, {})
    cells = months.setdefault(month, {})
    cells[status] = cells.get(status, Sum()).plus(invoice.amount)
    dated = months.keys() - {NO_MONTH, EARLIER}
    if len(dated) > MOST_MONTHS:
        earlier = months.setdefault(EARLIER, {})
        for status, cell in months.pop(min(dated)).items():
            earlier[status] = earlier.get(status, Sum()).plus(cell.amount, cell.invoices)


def _month(invoice: Invoice, zone: tzinfo) -> str:
    try:
        return invoice.invoice_month(zone) or NO_MONTH
    except UnpodBadAnswer:
        return NO_MONTH


def _due(invoice: Invoice) -> tuple[datetime | None, bool]:
    """Return the due date, and whether it was assumed from the date of the invoice."""
    try:
        return invoice.expected_payment_by, invoice.due_date is None
    except UnpodBadAnswer:
        return None, False


def _bucket(days: int | None) -> str:
    if days is None:
        return BUCKETS[5]
    return BUCKETS[0 if days <= 0 else min(4, 1 + (days - 1) // 30)]
