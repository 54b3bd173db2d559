"""The report of an export: exact figures, escaped values, no external resources."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from decimal import Decimal
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_unpod.billing.invoice import Invoice
from airflow_provider_unpod.export import read_export
from airflow_provider_unpod.web.figures import (
    EARLIER,
    MOST_CURRENCIES,
    MOST_MONTHS,
    MOST_OVERDUE,
    MOST_STATUSES,
    OTHER_STATUSES,
    figures_of,
)
from airflow_provider_unpod.web.rendering import REPORT_STYLE_HASHES, hash_of, source
from airflow_provider_unpod.web.report import Table, render_report
from tests.export.support import row
from tests.loading.support import full

if TYPE_CHECKING:
    from pathlib import Path

AS_OF = datetime(2026, 6, 30, tzinfo=timezone.utc)
VOID = {"meta", "br", "rect"}


class Outline(HTMLParser):
    """Fails on tags that are not closed, and collects all of them with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def report_of(folder: Path, found: list[dict[str, Any]], **about: Any) -> str:
    full(found, folder, **about)
    export = read_export(str(folder))
    return render_report(export.manifest, export, fingerprint=export.manifest_sha256).decode()


def test_totals_by_currency_month_and_status_are_exact() -> None:
    figures = figures_of(
        [
            row(1, amount="12345678901234567.89", currency="usd", status="Paid", invoice_date="2026-02-01T00:00:00Z"),
            row(2, amount="0.01", currency="USD", status="paid", invoice_date="2026-02-28T00:00:00Z"),
            row(3, amount="5", currency="JPY", status="pending", invoice_date="soon"),
        ],
        as_of=AS_OF,
    )

    assert figures.months["USD"]["2026-02"]["paid"] == (2, Decimal("12345678901234567.90"))
    assert figures.months["JPY"]["no date"]["pending"] == (1, Decimal(5))


@pytest.mark.parametrize(
    ("due", "bucket"),
    [
        ("2026-06-30T00:00:00Z", "not due yet"),
        ("2026-06-29T00:00:00Z", "1 to 30 days"),
        ("2026-05-31T00:00:00Z", "1 to 30 days"),
        ("2026-05-30T00:00:00Z", "31 to 60 days"),
        ("2026-04-01T00:00:00Z", "61 to 90 days"),
        ("2026-03-31T00:00:00Z", "over 90 days"),
    ],
)
def test_open_invoices_are_aged_from_their_due_date(due: str, bucket: str) -> None:
    figures = figures_of([row(1, status="pending", due_date=due, amount="10")], as_of=AS_OF)

    assert {name: one.amount for name, one in figures.ageing.popitem()[1].items() if one.invoices} == {bucket: 10}


def test_a_due_date_that_the_api_does_not_give_is_assumed_and_says_so(tmp_path: Path) -> None:
    html = report_of(tmp_path, [row(1, status="pending", invoice_date="2020-01-01T00:00:00Z")])

    assert "2020-01-08 (assumed)" in html
    assert "seven days after" in html


def test_closed_invoices_are_neither_open_nor_overdue() -> None:
    rows = [row(number, status=status) for number, status in enumerate(("paid", "cancelled", "refunded"), 1)]

    figures = figures_of(rows, as_of=AS_OF)

    assert (figures.ageing, figures.overdue) == ({}, [])


def test_of_many_overdue_invoices_the_longest_overdue_are_listed_and_all_are_counted() -> None:
    rows = (
        row(n, status="pending", due_date=f"20{10 + n % 15:02d}-01-01T00:00:00Z") for n in range(1, MOST_OVERDUE + 50)
    )

    figures = figures_of(rows, as_of=AS_OF)

    assert (len(figures.overdue), figures.overdue_count) == (MOST_OVERDUE, MOST_OVERDUE + 49)
    assert figures.overdue[0].due.year == 2010


def test_texts_of_the_api_and_of_users_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&"
    html = report_of(
        tmp_path,
        [row(1, currency=evil, status=evil, id=None, invoice_number=evil, due_date="2020-01-01T00:00:00Z")],
        organization=evil,
        source=evil,
    )

    outline = Outline(html)
    assert "script" not in {tag for tag, _ in outline.found}
    assert not any(name.startswith("on") for _, attributes in outline.found for name in attributes)


def test_a_report_loads_no_resources_and_runs_no_scripts(tmp_path: Path) -> None:
    html = report_of(tmp_path, [row(1), row(2), row(3)])

    assert not {"script", "link", "img", "iframe", "object", "a"} & {tag for tag, _ in Outline(html).found}
    assert re.findall(r"url\(|@import|https?://", html) == []


def test_the_report_is_accessible_to_screen_readers(tmp_path: Path) -> None:
    found = Outline(report_of(tmp_path, [row(1), row(2), row(3)])).found

    assert ("html", {"lang": "en", "id": "dark"}) in found
    assert [tag for tag, _ in found if tag == "h1"] == ["h1"]
    assert all(attributes.get("aria-label") for tag, attributes in found if tag == "svg")
    assert all(attributes.get("scope") for tag, attributes in found if tag == "th")
    tags = [tag for tag, _ in found]
    assert tags.count("table") == tags.count("caption") == 6
    assert [tag for tag in tags if re.fullmatch("h[1-6]", tag)][:4] == ["h1", "h2", "h2", "h3"]


def test_names_in_right_to_left_scripts_do_not_reorder_the_text_around_them(tmp_path: Path) -> None:
    html = report_of(tmp_path, [row(1, currency="ر.س", status="معلق")], organization="شركة")

    assert "<h1>Invoices of <bdi>شركة</bdi></h1>" in html
    for name in ("معلق", "ر.س"):
        assert f"<bdi>{Invoice(row(1, currency=name, status=name)).status_key}</bdi>" in html.lower()


def test_each_month_and_each_status_has_a_total() -> None:
    found = [
        row(1, amount="0.1", status="paid", invoice_date="2026-02-01"),
        row(2, amount="0.2", status="pending", invoice_date="2026-02-01"),
        row(3, amount="0.3", status="pending", invoice_date="2026-03-01"),
    ]
    months = figures_of([one | {"currency": "USD"} for one in found], as_of=AS_OF).months["USD"]

    table = Table.of(months)

    assert table.statuses == ["paid", "pending"]
    assert [(month, total) for month, _, total in table.rows] == [
        ("2026-02", (2, Decimal("0.3"))),
        ("2026-03", (1, Decimal("0.3"))),
    ]
    assert table.rows[1][1] == [None, (1, Decimal("0.3"))]
    assert table.totals == [(1, Decimal("0.1")), (2, Decimal("0.5"))]
    assert table.total == (3, Decimal("0.6"))


def test_a_chart_shows_the_newest_two_years_and_says_so(tmp_path: Path) -> None:
    months = [f"{year}-{month:02d}" for year in (2023, 2024, 2025) for month in range(1, 13)]

    html = report_of(tmp_path, [row(n, currency="USD", invoice_date=f"{one}-15") for n, one in enumerate(months, 1)])

    assert re.findall(r'<text x="0" y="\d+">(.+)</text>', html) == months[-24:]
    assert "The chart shows the newest 24 months." in html


@pytest.mark.parametrize(
    ("selection", "contents"),
    [
        ({}, "All invoices"),
        ({"statuses": ["paid", "failed"]}, "Invoices with status paid or failed"),
        ({"invoice_date_from": "2026-10-01T00:00:00Z"}, "Invoices dated from 2026-10-01 00:00 UTC"),
        (
            {"invoice_date_from": "2026-10-01T00:00:00Z", "invoice_date_to": "2026-11-01T00:00:00Z"},
            "Invoices dated from 2026-10-01 00:00 UTC to before 2026-11-01 00:00 UTC",
        ),
        (
            {"invoice_date_to": "2026-11-01T00:00:00Z", "statuses": ["paid"]},
            "Invoices dated before 2026-11-01 00:00 UTC with status paid",
        ),
    ],
)
def test_a_report_says_in_one_sentence_which_invoices_it_contains(
    tmp_path: Path, selection: dict[str, Any], contents: str
) -> None:
    html = report_of(tmp_path, [row(1)], selection=selection)

    (found,) = re.findall(r"<dt>Contents</dt><dd>(.*?)</dd>", html, re.DOTALL)
    assert " ".join(found.split()) == contents


@pytest.mark.parametrize("name", ["report.css", "page.css"])
def test_text_can_be_read_on_every_background_in_light_and_dark(name: str) -> None:
    schemes = re.findall(r"\{ color-scheme: [^}]+\}", source(name))
    assert len(schemes) >= 3
    for scheme in schemes:
        colors = dict(re.findall(r"--(\w+): (#\w+)", scheme))
        texts = colors.keys() & {"text", "muted", "link", "good", "bad"}
        for text in texts:
            for background in colors.keys() & {"back", "band"}:
                # WCAG 2, level AA
                assert contrast(colors[text], colors[background]) >= 4.5, (text, background, scheme)


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colors, as WCAG 2 defines it."""

    def luminance(color: str) -> float:
        digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
        parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_a_report_says_how_complete_it_is_and_names_files_and_fingerprint(tmp_path: Path) -> None:
    html = report_of(tmp_path, [row(1)])

    export = read_export(str(tmp_path))
    assert "Complete: overlapping pages prove" in html
    assert export.manifest_sha256 in html
    assert export.manifest["files"][0]["sha256"] in html


def test_an_empty_export_has_a_report_too(tmp_path: Path) -> None:
    assert "The export has no invoices." in report_of(tmp_path, [])


@pytest.mark.slow
def test_the_size_of_a_report_is_limited_and_its_sums_include_every_invoice(tmp_path: Path) -> None:
    found = [
        row(n, currency=f"C{n % 40:02d}", status=f"s{n % 101}" + "x" * 2000, invoice_date=f"{1000 + n % 2003}-01-01")
        for n in range(1, 20_001)
    ]
    figures = figures_of(found, as_of=AS_OF)

    assert len(figures.months) == MOST_CURRENCIES
    assert len(figures.statuses) == MOST_STATUSES + 1
    assert OTHER_STATUSES in figures.statuses
    assert all(len(months) <= MOST_MONTHS + 1 for months in figures.months.values())
    assert all(max(months) == EARLIER for months in figures.months.values())
    cells = [cell for months in figures.months.values() for cells in months.values() for cell in cells.values()]
    assert sum(cell.invoices for cell in cells) + figures.not_shown == 20_000
    html = report_of(tmp_path, found)
    assert "invoices in further\ncurrencies. The manifest has their totals." in html
    assert len(html) < 8_000_000


def test_the_newest_months_are_listed_in_any_order_of_the_records() -> None:
    months = [f"{year}-{month:02d}" for year in range(2000, 2026) for month in range(1, 13)]
    found = [row(n, currency="USD", amount="1", invoice_date=f"{each}-15") for n, each in enumerate(months, 1)]
    for order in (found, found[::-1], found[::2] + found[1::2]):
        table = figures_of(order, as_of=AS_OF).months["USD"]
        assert sorted(table) == [*months[-MOST_MONTHS:], EARLIER]
        assert sum(cell.invoices for cell in table[EARLIER].values()) == len(months) - MOST_MONTHS


def test_the_bars_of_a_chart_have_exact_amounts(tmp_path: Path) -> None:
    fields = {"currency": "USD", "invoice_date": "2026-01-01"}
    html = report_of(tmp_path, [row(1, amount="1" + "0" * 35, **fields), row(2, amount="0.01", **fields)])

    assert f">{10**35:,}.01</text>" in html


def test_the_page_in_airflow_knows_the_style_sheet() -> None:
    """Otherwise it would show reports without one. Add the new hash, and keep those of released versions."""
    assert hash_of(source("report.css")) in REPORT_STYLE_HASHES


def test_a_report_opened_as_a_file_loads_and_sends_nothing(tmp_path: Path) -> None:
    html = report_of(tmp_path, [row(1)])

    (policy,) = [tag["content"] for name, tag in Outline(html).found if name == "meta" and "http-equiv" in tag]
    (style,) = re.findall("<style>(.*?)</style>", html, re.DOTALL)
    assert policy == f"default-src 'none'; style-src '{hash_of(style)}'; form-action 'none'; base-uri 'none'"
    assert not any("style" in attributes for _, attributes in Outline(html).found)
