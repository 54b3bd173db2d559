"""An invoice is found in few requests, and reported missing only after a complete read."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_unpod.billing.errors import UnpodListUnstable
from airflow_provider_unpod.billing.watching.finder import InvoiceFinder
from airflow_provider_unpod.billing.watching.tracker import Tracker, Wanted
from tests.billing.reading.moving_list import NEWEST, OLDEST, SHUFFLED, MovingList, row

MANY = 200_000


def numbered(number: int) -> dict[str, Any]:
    return {name: value for name, value in row(number).items() if name != "id"} | {"invoice_number": f"INV-{number:05}"}


def with_gaps(number: int) -> dict[str, Any]:
    return row(number) | {"id": number * 7 + number % 5}


@pytest.fixture(scope="module")
def large() -> dict[str, MovingList]:
    return {order: MovingList(MANY, order) for order in (NEWEST, OLDEST)}


@pytest.mark.parametrize("order", [NEWEST, OLDEST])
@pytest.mark.parametrize(
    ("make_row", "named"),
    [(row, int), (with_gaps, lambda number: number * 7 + number % 5), (numbered, lambda number: f"INV-{number:05}")],
)
def test_an_invoice_among_200_000_is_found_in_at_most_twelve_requests_and_found_again_in_one(
    large: dict[str, MovingList], order: str, make_row: Any, named: Any
) -> None:
    listed = large[order]
    listed.make_row = make_row
    for number in [0, 1, MANY - 1, *random.Random(1).sample(range(MANY), 40)]:
        finder = InvoiceFinder(listed)
        listed.requests.clear()
        found = finder.find(named(number))
        assert found is not None
        assert found.invoice_id == named(number)
        assert len(listed.requests) <= 12
        listed.requests.clear()
        assert finder.find(str(named(number))) == found
        assert len(listed.requests) == 1


@pytest.mark.parametrize("order", [NEWEST, OLDEST])
@pytest.mark.parametrize("between", [1, 20, 150, 1_000])
def test_while_the_list_moves_an_invoice_is_found_again_in_at_most_three_requests(order: str, between: int) -> None:
    moving = MovingList(20_000, order)
    finder = InvoiceFinder(moving)
    assert finder.find(9_000)
    for _ in range(20):
        for _ in range(between):
            moving.insert()
        moving.requests.clear()
        assert finder.find(9_000)
        assert len(moving.requests) <= 3


@pytest.mark.parametrize("order", [NEWEST, OLDEST, SHUFFLED])
@pytest.mark.parametrize("count", [0, 1, 60, 730])
def test_an_invoice_that_does_not_exist_is_reported_missing_after_a_complete_read(order: str, count: int) -> None:
    listed = MovingList(count, order)
    finder = InvoiceFinder(listed)
    assert finder.find(10**6) is None
    assert {number for page, size in listed.requests for number in range((page - 1) * size, page * size)} >= set(
        range(count)
    )


def test_a_wait_for_an_invoice_to_appear_does_not_need_a_complete_read_at_each_poll() -> None:
    for order in (NEWEST, SHUFFLED):
        listed = MovingList(3_000, order)
        finder = InvoiceFinder(listed)
        assert finder.find(3_000, conclusive=False) is None
        listed.requests.clear()
        assert finder.find(3_000, conclusive=False) is None
        assert len(listed.requests) <= 12
        listed.insert()
        assert finder.find(3_000, conclusive=False) is not None


@pytest.mark.parametrize(
    ("listed", "change"),
    [
        pytest.param(MovingList(350, OLDEST, counts="null"), lambda ids: ids.append(350), id="no count"),
        pytest.param(MovingList(350, NEWEST), lambda ids: ids.insert(300, 350), id="out of order"),
        pytest.param(MovingList(350, SHUFFLED), lambda ids: ids.__setitem__(200, 350), id="one came, one went"),
    ],
)
def test_an_invoice_that_appears_where_nothing_shows_it_is_found_within_ten_polls(
    listed: MovingList, change: Any
) -> None:
    finder = InvoiceFinder(listed)
    assert finder.find(350, conclusive=False) is None
    change(listed.ids)
    assert any(finder.find(350, conclusive=False) for _ in range(10))


def test_an_id_never_finds_another_invoice_whose_number_looks_like_it() -> None:
    def numbered_otherwise(number: int) -> dict[str, Any]:
        return row(number, "paid" if number == 151 else "pending") | {"invoice_number": str(number - 50)}

    listed = MovingList(300, make_row=numbered_otherwise)
    for wanted in (101, "101"):
        found = InvoiceFinder(listed).find(wanted)
        assert found is not None
        assert (found.invoice_id, found.status) == (101, "pending")
    assert Tracker(listed).poll(Wanted({101})).rows[101].invoice_id == 101
    listed.ids.remove(101)
    assert InvoiceFinder(listed).find(101) is None
    assert Tracker(listed).poll(Wanted({101})).rows == {}


def test_an_invoice_is_found_by_its_number_if_rows_have_both_a_number_and_an_id() -> None:
    listed = MovingList(2_500, make_row=lambda number: row(number) | {"invoice_number": f"INV-{number:05}"})
    found = InvoiceFinder(listed).find("INV-01234")
    assert found is not None
    assert found.invoice_id == 1_234
    assert len(listed.requests) <= 12


def test_an_invoice_that_moved_anywhere_in_the_list_is_found_again() -> None:
    listed = MovingList(2_000, SHUFFLED)
    finder = InvoiceFinder(listed)
    assert finder.find(77)
    listed.random.shuffle(listed.ids)
    found = finder.find(77)
    assert found is not None
    assert found.key == 77


def test_a_full_first_page_is_not_the_whole_list_even_if_count_decreases_to_its_length() -> None:
    """101 invoices. One is deleted between the rows of page 1 and its `count`. The last one always exists."""

    def one_goes(moving: MovingList) -> None:
        if len(moving.requests) == 1:
            moving.delete(0)

    moving = MovingList(101, SHUFFLED, between=one_goes)
    last = moving.ids[-1]
    found = InvoiceFinder(moving).find(last)
    assert found is not None
    assert found.key == last


@settings(max_examples=300, deadline=None)
@given(
    rows=st.one_of(st.integers(0, 400), st.sampled_from([101, 102, 103])),
    order=st.sampled_from([NEWEST, OLDEST, SHUFFLED]),
    wanted=st.integers(0, 420),
    steps=st.lists(st.sampled_from("idfs."), max_size=40),
    gaps=st.lists(st.sampled_from("idf."), max_size=40),
    page_size=st.sampled_from([15, 100]),
)
def test_an_invoice_that_always_exists_is_never_reported_missing(
    rows: int, order: str, wanted: int, steps: list[str], gaps: list[str], page_size: int
) -> None:
    """Also if ``count`` is from another time than the rows."""

    def change(moving: MovingList, step: str) -> None:
        if step == "i":
            moving.insert()
        elif step in "df" and moving.ids:
            position = 0 if step == "f" else moving.random.randrange(len(moving.ids))
            if moving.ids[position] != wanted:
                moving.delete(position)

    before, between = iter(steps), iter(gaps)
    moving = MovingList(
        rows,
        order,
        world=lambda moving: change(moving, next(before, ".")),
        between=lambda moving: change(moving, next(between, ".")),
        cap=page_size,
        page_size=page_size,
    )
    finder = InvoiceFinder(moving)
    for _ in range(3):
        try:
            found = finder.find(wanted)
        except UnpodListUnstable:
            continue  # an honest answer, too, while every request sees another list
        if wanted in moving.stable:
            assert found is not None
            assert found.key == wanted
