"""Renders an export as one HTML file for people in finance. It is self-contained, without scripts and network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.billing.moments import parse_moment
from airflow_provider_unpod.web.figures import BUCKETS, MOST_OVERDUE, Sum, figures_of
from airflow_provider_unpod.web.rendering import hash_of, render, source

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from decimal import Decimal

    from airflow_provider_unpod.export.reconciliation import Summary

#: Explanations of the consistency in the manifest.
_COMPLETENESS = {
    "linked": "Complete: overlapping pages prove that no invoice is missing, even if the list changed meanwhile.",
    "repeated": "Complete: the whole list was read twice in a row, with the same invoices.",
    "single-pass": "Not proved complete: every page was read once. Changes during the read may have been missed.",
}
_CHART_WIDTH = 640
#: Most months of a chart, so that it fits on a printed page. The table below it has all months.
_CHART_MONTHS = 24
#: Most files to list. The manifest has all.
_MOST_FILES = 500
_SELECTION = ("statuses", "invoice_date_from", "invoice_date_to")


@dataclass(frozen=True)
class Bar:
    """One month of a chart: label, exact amount, number of invoices, and width of the bar (0 to ``_CHART_WIDTH``)."""

    label: str
    amount: Decimal
    count: int
    width: int


@dataclass(frozen=True)
class Table:
    """The totals in one currency. A cell is ``None`` if the month has no invoices of the status.

    :param statuses: the columns. A currency has only columns for its own statuses.
    :param rows: month, cells in the order of ``statuses``, total of the month.
    :param totals: total of each status.
    :param total: total of all invoices.
    """

    statuses: list[str]
    rows: list[tuple[str, list[Sum | None], Sum]]
    totals: list[Sum]
    total: Sum

    @classmethod
    def of(cls, months: Mapping[str, Mapping[str, Sum]]) -> Table:
        """Arrange the sums of a currency, by month and status."""
        statuses = sorted({status for cells in months.values() for status in cells})
        rows = [
            (month, [cells.get(status) for status in statuses], _added_up(cells.values()))
            for month, cells in sorted(months.items())
        ]
        columns = zip(*(cells for _, cells, _ in rows), strict=True)
        totals = [_added_up(cell for cell in column if cell is not None) for column in columns]
        return cls(statuses, rows, totals, _added_up(totals))

    @property
    def bars(self) -> list[Bar]:
        """The chart: the newest months."""
        months = [(month, total) for month, _, total in self.rows][-_CHART_MONTHS:]
        longest = max(abs(total.amount) for _, total in months)
        return [
            Bar(month, amount, count, int(abs(amount) * _CHART_WIDTH / longest) if longest else 0)
            for month, (count, amount) in months
        ]


def render_report(
    manifest: Mapping[str, Any],
    records: Iterable[Mapping[str, Any]],
    *,
    fingerprint: str | None = None,
    since: Mapping[str, Any] | None = None,
    since_summary: Summary | None = None,
    reconciliation: Mapping[str, Any] | None = None,
) -> bytes:
    """Render an export as HTML. Memory use does not depend on the number of invoices.

    :param manifest: content of the manifest.
    :param records: records of the export.
    :param fingerprint: SHA-256 of the manifest, if known.
    :param since: manifest of an earlier export to compare with.
    :param since_summary: the differences between the two exports.
    :param reconciliation: content of a ``reconciliation.json``.
    """
    from airflow_provider_unpod.billing.arguments import zone_of

    as_of = parse_moment(manifest["read_at"])
    zone = zone_of(manifest.get("business_timezone") or "UTC", "business_timezone")
    figures = figures_of(records, as_of=as_of, zone=zone)
    style = source("report.css")
    html = render(
        "report.html",
        style=style,
        # The page has a policy of its own. This one is for a report that is opened as a file.
        policy=f"default-src 'none'; style-src '{hash_of(style)}'; form-action 'none'; base-uri 'none'",
        manifest=manifest,
        selection={name: (manifest.get("selection") or {}).get(name) for name in _SELECTION},
        completeness=_COMPLETENESS[manifest["evidence"]["consistency"]],
        figures=figures,
        files=manifest["files"][:_MOST_FILES],
        tables={currency: Table.of(months) for currency, months in sorted(figures.months.items())},
        chart_width=_CHART_WIDTH,
        buckets=BUCKETS,
        most_overdue=MOST_OVERDUE,
        fingerprint=fingerprint,
        since=since,
        since_summary=None if since_summary is None else since_summary.as_dict(),
        reconciliation=reconciliation,
    )
    return html.encode()


def _added_up(sums: Iterable[Sum]) -> Sum:
    total = Sum()
    for each in sums:
        total = total.plus(each.amount, each.invoices)
    return total
