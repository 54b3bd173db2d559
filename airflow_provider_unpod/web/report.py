"""An export as one HTML file that finance can read: self-contained, without scripts, without network."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.billing.moments import parse_moment
from airflow_provider_unpod.web.figures import BUCKETS, MOST_OVERDUE, Sum, figures_of
from airflow_provider_unpod.web.rendering import render

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_provider_unpod.export.reconciliation import Summary

#: How completely the list was read, in words, by what the manifest says.
_COMPLETENESS = {
    "linked": "Complete: overlapping pages prove that no invoice was lost while the list was read.",
    "repeated": "Complete: two whole readings of the list, one after the other, found the same invoices.",
    "single-pass": "Not proved complete: every page was read once. A change that the count does not show is not seen.",
}
_CHART_WIDTH = 640
#: Files that are shown; the manifest has all.
_MOST_FILES = 500
_SELECTION = ("statuses", "invoice_date_from", "invoice_date_to")


@dataclass(frozen=True)
class Bar:
    """One month of a chart: its label, its exact amount, and how long the bar is (0 to ``_CHART_WIDTH``)."""

    label: str
    amount: Decimal
    count: int
    width: int


def render_report(
    manifest: Mapping[str, Any],
    records: Iterable[Mapping[str, Any]],
    *,
    fingerprint: str | None = None,
    since: Mapping[str, Any] | None = None,
    since_summary: Summary | None = None,
    reconciliation: Mapping[str, Any] | None = None,
) -> bytes:
    """Render an export as HTML.

    Memory is bounded: by the texts of single invoices, not by their number.

    :param manifest: content of the export's manifest.
    :param records: the export's records.
    :param fingerprint: SHA-256 of the manifest, where it is known.
    :param since: manifest of an earlier export, with ``since_summary``: how the two differ.
    :param reconciliation: what a reconciliation found, as ``reconciliation.json`` has it.
    """
    from airflow_provider_unpod.billing.arguments import zone_of

    as_of = parse_moment(manifest["read_at"])
    zone = zone_of(manifest.get("business_timezone") or "UTC", "business_timezone")
    figures = figures_of(records, as_of=as_of, zone=zone)
    html = render(
        "report.html",
        manifest=manifest,
        selection={name: (manifest.get("selection") or {}).get(name) for name in _SELECTION},
        completeness=_COMPLETENESS[manifest["evidence"]["consistency"]],
        figures=figures,
        statuses=sorted(figures.statuses),
        files=manifest["files"][:_MOST_FILES],
        charts={currency: _bars(months) for currency, months in sorted(figures.months.items())},
        chart_width=_CHART_WIDTH,
        buckets=BUCKETS,
        most_overdue=MOST_OVERDUE,
        fingerprint=fingerprint,
        since=since,
        since_summary=None if since_summary is None else since_summary.as_dict(),
        reconciliation=reconciliation,
    )
    return html.encode()


def _bars(months: Mapping[str, Mapping[str, Sum]]) -> list[Bar]:
    totals = {month: _added_up(cells.values()) for month, cells in sorted(months.items())}
    longest = max((abs(total.amount) for total in totals.values()), default=Decimal(0))
    return [
        Bar(month, total.amount, total.invoices, int(abs(total.amount) * _CHART_WIDTH / longest) if longest else 0)
        for month, total in totals.items()
    ]


def _added_up(sums: Iterable[Sum]) -> Sum:
    total = Sum()
    for each in sums:
        total = total.plus(each.amount, each.invoices)
    return total
