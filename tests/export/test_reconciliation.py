"""A reconciliation reports every difference once, and its bridges are exact."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_unpod.export.reconciliation import OUTCOMES, Difference, Entry, Summary, reconcile


def entry(
    key: str, amount: str = "10.00", currency: str = "USD", day: date | None = None, status: str | None = None
) -> Entry:
    return Entry(key, Decimal(amount), currency, day, status)


def compare(here: list[Entry], there: list[Entry], **options: object) -> tuple[dict[str, tuple[str, ...]], Summary]:
    """Return the differences by key, and the summary."""
    reconciliation = reconcile(here, there, **options)  # type: ignore[arg-type]  # of the tests' own making
    return {one.key: one.outcomes for one in reconciliation}, reconciliation.summary


def test_equal_lists_in_any_order_agree() -> None:
    differences, summary = compare([entry("1"), entry("2"), entry("10")], [entry("10"), entry("2"), entry("1")])

    assert differences == {}
    assert summary.agrees
    assert summary.counts["matched"] == 3


def test_an_error_of_a_query_on_another_database_is_not_blamed_on_the_temporary_folder() -> None:
    def entries_of_broken_query() -> Iterator[Entry]:
        yield entry("1")
        raise sqlite3.OperationalError("disk I/O error")

    with pytest.raises(sqlite3.OperationalError, match="disk I/O error"):
        list(reconcile([], entries_of_broken_query()))


def test_every_kind_of_difference_is_named() -> None:
    here = [
        entry("gone"),
        entry("amount", "10.00"),
        entry("currency", "10.00", "USD"),
        entry("status", status="paid"),
        entry("date", day=date(2026, 2, 1)),
        entry("two", "1.00", status="paid"),
    ]
    there = [
        entry("new"),
        entry("amount", "10.01"),
        entry("currency", "10.00", "EUR"),
        entry("status", status="pending"),
        entry("date", day=date(2026, 2, 2)),
        entry("two", "2.00", status="failed"),
    ]

    differences, summary = compare(here, there)

    assert differences == {
        "gone": ("only_here",),
        "new": ("only_there",),
        "amount": ("amount",),
        "currency": ("currency",),
        "status": ("status",),
        "date": ("date",),
        "two": ("amount", "status"),
    }
    assert not summary.agrees


def test_the_bridge_of_a_currency_leads_from_the_total_here_to_the_total_there() -> None:
    here = [entry("1", "100"), entry("2", "50"), entry("3", "7"), entry("4", "1", "EUR")]
    there = [entry("1", "100"), entry("2", "51.50"), entry("4", "1", "USD"), entry("5", "20")]

    _, summary = compare(here, there)

    assert summary.as_dict()["bridges"] == {
        "EUR": {
            "here": "1", "only_here": "0", "only_there": "0", "currency": "-1", "amount": "0",
            "within_tolerance": "0", "there": "0",
        },
        "USD": {
            "here": "157", "only_here": "-7", "only_there": "20", "currency": "1", "amount": "1.50",
            "within_tolerance": "0", "there": "172.50",
        },
    }  # fmt: skip


def test_amounts_are_compared_by_value_and_to_the_last_digit() -> None:
    differences, _ = compare(
        [entry("same", "10"), entry("differs", "12345678901234567.890000001")],
        [entry("same", "10.00"), entry("differs", "12345678901234567.890000002")],
    )

    assert differences == {"differs": ("amount",)}


def test_a_tolerance_applies_only_to_its_currency_and_is_a_step_of_the_bridge() -> None:
    here = [entry("1", "10.00"), entry("2", "10.00", "EUR")]
    there = [entry("1", "10.01"), entry("2", "10.01", "EUR")]

    differences, summary = compare(here, there, tolerance={"USD": Decimal("0.01")})

    assert differences == {"2": ("amount",)}
    assert summary.bridges["USD"]["within_tolerance"] == Decimal("0.01")


def test_dates_may_differ_by_the_window_and_no_more() -> None:
    here = [entry("1", day=date(2026, 1, 31)), entry("2", day=date(2026, 1, 31))]
    there = [entry("1", day=date(2026, 2, 2)), entry("2", day=date(2026, 2, 3))]

    differences, _ = compare(here, there, date_window=2)

    assert differences == {"2": ("date",)}


def test_a_field_that_one_side_lacks_is_not_compared() -> None:
    differences, _ = compare([entry("1", day=date(2026, 1, 1), status="paid")], [entry("1")])

    assert differences == {}


def test_an_id_that_one_side_has_twice_is_reported_but_not_added_up() -> None:
    reconciliation = reconcile(
        [entry("1", "10"), entry("1", "10"), entry("2", "5")], [entry("1", "10"), entry("2", "5")]
    )

    assert list(reconciliation) == [
        Difference("1", ("duplicate",), (entry("1", "10"), entry("1", "10")), (entry("1", "10"),))
    ]
    assert reconciliation.summary.bridges["USD"]["here"] == reconciliation.summary.bridges["USD"]["there"] == 5


def test_if_one_side_is_a_part_of_the_list_only_its_invoices_are_compared() -> None:
    differences, summary = compare([entry("1"), entry("2")], [entry("1"), entry("3")], here_is_part=True)

    assert differences == {"2": ("only_here",)}
    assert summary.counts["not_compared"] == 1
    assert summary.bridges["USD"]["there"] == 10


def test_there_is_no_summary_before_the_end() -> None:
    reconciliation = reconcile([entry("1")], [])

    with pytest.raises(RuntimeError, match="Take all differences first"):
        _ = reconciliation.summary


ENTRIES = st.lists(
    st.builds(
        Entry,
        st.sampled_from("123456789"),
        st.decimals(-(10**18), 10**18, allow_nan=False, allow_infinity=False, places=3),
        st.sampled_from(["USD", "EUR", "JPY"]),
        st.none() | st.dates(date(2026, 1, 1), date(2026, 1, 5)),
        st.none() | st.sampled_from(["paid", "pending"]),
    ),
    max_size=12,
)


@given(ENTRIES, ENTRIES)
def test_for_any_two_lists_every_id_is_counted_and_the_bridges_add_up(here: list[Entry], there: list[Entry]) -> None:
    differences, summary = compare(here, there)

    ids = {one.key for one in (*here, *there)}
    assert len(differences) + summary.counts["matched"] == len(ids)
    assert set(summary.counts) == set(OUTCOMES)
    for bridge in summary.bridges.values():
        *steps, end = bridge.values()
        assert sum(steps) == end


@given(ENTRIES)
def test_a_list_without_duplicates_agrees_with_itself(entries: list[Entry]) -> None:
    once = list({one.key: one for one in entries}.values())

    differences, summary = compare(once, once[::-1])

    assert differences == {}
    assert summary.agrees
