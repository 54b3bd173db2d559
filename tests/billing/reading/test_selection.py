"""Selections accept many forms of arguments, and select the right invoices."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_unpod.billing.errors import UnpodBadAnswer, UnpodConfigError
from airflow_provider_unpod.billing.invoice import Invoice
from airflow_provider_unpod.billing.reading.selection import Selection

UTC = timezone.utc


def invoice(status: str = "paid", invoice_date: str | None = "2026-02-01T00:00:00Z") -> Invoice:
    return Invoice({"id": 1, "amount": "1.00", "currency": "USD", "status": status, "invoice_date": invoice_date})


def test_without_arguments_every_invoice_is_selected_even_without_a_date() -> None:
    assert Selection.from_arguments().matches(invoice(status="odd", invoice_date=None))


@pytest.mark.parametrize(
    "statuses",
    ["paid", ["paid"], ("Paid",), {"paid", "failed"}, " failed, PAID ", "['paid', 'Failed']", iter(["paid"])],
)
def test_one_status_or_several_are_accepted_ignoring_case(statuses: object) -> None:
    selection = Selection.from_arguments(statuses=statuses)  # type: ignore[arg-type]  # the point of the test
    assert selection.matches(invoice("paid"))
    assert selection.matches(invoice("PAID"))
    assert selection.matches(invoice(" Paid\t"))
    assert not selection.matches(invoice("pending"))


@pytest.mark.parametrize(
    "statuses",
    ["", [], "[]", " ", ["paid", ""], 7, [7], ["paid", None], "paid,,failed", {"paid": 1}, "None", "null", "['paid'"],
)
def test_invalid_statuses_are_refused(statuses: object) -> None:
    with pytest.raises(UnpodConfigError, match="statuses"):
        Selection.from_arguments(statuses=statuses)  # type: ignore[arg-type]  # the point of the test


@pytest.mark.parametrize(
    ("first", "end"),
    [
        ("2026-02-01", "2026-03-01"),
        ("20260201", "20260301"),
        ("2026-02-01T00:00:00Z", "2026-03-01 00:00:00+00:00"),
        ("2026-02-01T01:00:00+01:00", "2026-02-28T19:00:00-05:00"),
        (date(2026, 2, 1), date(2026, 3, 1)),
        (datetime(2026, 2, 1), datetime(2026, 3, 1, tzinfo=UTC)),  # noqa: DTZ001  # a naive one is the point
    ],
)
def test_the_end_of_the_selected_dates_is_exclusive_in_every_form(first: object, end: object) -> None:
    february = Selection.from_arguments(invoice_date_from=first, invoice_date_to=end)  # type: ignore[arg-type]
    assert february.matches(invoice(invoice_date="2026-02-01T00:00:00Z"))
    assert february.matches(invoice(invoice_date="2026-02-28T23:59:59.999999Z"))
    assert not february.matches(invoice(invoice_date="2026-01-31T23:59:59.999999Z"))
    assert not february.matches(invoice(invoice_date="2026-03-01T00:00:00Z"))


def test_naive_dates_are_in_the_time_zone_and_kept_in_utc() -> None:
    kolkata = Selection.from_arguments(
        invoice_date_from="2026-02-01", invoice_date_to="2026-03-01", timezone="Asia/Kolkata"
    )
    assert kolkata.invoice_date_from == datetime(2026, 1, 31, 18, 30, tzinfo=UTC)
    assert kolkata.matches(invoice(invoice_date="2026-01-31T18:30:00Z"))
    assert not kolkata.matches(invoice(invoice_date="2026-02-28T18:30:00Z"))
    assert kolkata.invoice_date_from.utcoffset() == timedelta(0)


def test_a_day_with_23_hours_ends_where_the_next_begins() -> None:
    day = Selection.from_arguments(
        invoice_date_from="2026-03-29", invoice_date_to="2026-03-30", timezone="Europe/Berlin"
    )
    assert day.invoice_date_from is not None
    assert day.invoice_date_to is not None
    assert day.invoice_date_to - day.invoice_date_from == timedelta(hours=23)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "now",
        "yesterday",
        "2026",
        "2026-02",
        "12:00",
        "P1D",
        "2026-13-01",
        "None",
        "2026-02-30",
        7,
        b"x",
        "2026-02-01/P1D",
    ],
)
@pytest.mark.parametrize("name", ["invoice_date_from", "invoice_date_to"])
def test_an_invalid_date_is_refused_by_the_name_of_its_argument(name: str, value: object) -> None:
    with pytest.raises(UnpodConfigError, match=f"`{name}`"):
        Selection.from_arguments(**{name: value})  # type: ignore[arg-type]  # the point of the test


@pytest.mark.parametrize(
    "written",
    ["2026-11-01", " 20261101 ", 20261101, date(2026, 11, 1), datetime(2026, 11, 1), datetime(2026, 11, 1, fold=1)],  # noqa: DTZ001
)
def test_a_midnight_that_occurs_twice_means_the_first_in_every_form(written: object) -> None:
    november = Selection.from_arguments(invoice_date_from=written, timezone="America/Havana")  # type: ignore[arg-type]
    assert november.invoice_date_from == datetime(2026, 11, 1, 4, tzinfo=UTC)
    row = invoice(invoice_date="2026-11-01T04:00:00Z")
    assert november.matches(row)
    assert row.invoice_month(ZoneInfo("America/Havana")) == "2026-11"


@pytest.mark.parametrize("written", ["0001-01-01", date(1, 1, 1), datetime(1, 1, 1), 10101])  # noqa: DTZ001
def test_a_date_outside_the_calendar_is_refused_by_the_name_of_its_argument(written: object) -> None:
    with pytest.raises(UnpodConfigError, match="`invoice_date_from` must be a full date"):
        Selection.from_arguments(invoice_date_from=written, timezone="Asia/Kolkata")  # type: ignore[arg-type]


def test_an_empty_date_range_is_refused() -> None:
    for end in ("2026-02-01", "2026-01-01"):
        with pytest.raises(UnpodConfigError, match="before"):
            Selection.from_arguments(invoice_date_from="2026-02-01", invoice_date_to=end)


@pytest.mark.parametrize("name", ["Mars/Olympus", "", None, 7])
def test_an_unknown_time_zone_is_refused(name: object) -> None:
    with pytest.raises(UnpodConfigError, match="`timezone` must be an IANA time zone"):
        Selection.from_arguments(timezone=name)  # type: ignore[arg-type]  # the point of the test


def test_an_invoice_without_a_date_is_not_silently_omitted_from_selected_dates() -> None:
    with pytest.raises(UnpodBadAnswer, match="invoice_date"):
        Selection.from_arguments(invoice_date_from="2026-02-01").matches(invoice(invoice_date=None))


def test_a_selection_from_the_fields_of_another_is_equal() -> None:
    first = Selection.from_arguments(["paid", "failed"], "2026-02-01", "2026-03-01", "America/New_York")
    assert Selection.from_arguments(first.statuses, first.invoice_date_from, first.invoice_date_to) == first


@pytest.mark.slow
@given(
    moment=st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2090, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    cuts=st.lists(
        st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2090, 1, 1), timezones=st.timezones()),  # noqa: DTZ001
        min_size=1,
        max_size=4,
        unique_by=lambda cut: cut.astimezone(UTC),
    ),
)
def test_adjacent_date_ranges_select_every_invoice_exactly_once(moment: datetime, cuts: list[datetime]) -> None:
    edges = [None, *sorted(cuts, key=lambda cut: cut.astimezone(UTC)), None]
    row = invoice(invoice_date=moment.isoformat())
    spans = [Selection.from_arguments(invoice_date_from=first, invoice_date_to=end) for first, end in pairwise(edges)]
    assert sum(span.matches(row) for span in spans) == 1
