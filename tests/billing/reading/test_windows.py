"""Computation of overlapping windows."""

from __future__ import annotations

from itertools import pairwise, takewhile
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_unpod.billing.reading.windows import (
    Window,
    chain,
    chain_length,
    farthest,
    planned_requests,
)

rows = st.integers(0, 50_000)
caps = st.integers(1, 200)


def test_a_window_has_the_rows_of_its_page_number_and_page_size() -> None:
    assert (Window(0, 100).page, Window(99, 99).page, Window(99, 99).end) == (1, 2, 198)


@given(rows, caps)
def test_farthest_returns_the_window_that_ends_last(row: int, cap: int) -> None:
    best = farthest(row, cap)
    assert best.start <= row < best.end
    assert best.size <= cap
    assert best.start % best.size == 0
    assert best.end == max(row // size * size + size for size in range(1, cap + 1))


@given(st.integers(20, 200), rows)
def test_neighbors_in_a_chain_share_a_row_and_the_last_window_of_a_list_is_short(cap: int, count: int) -> None:
    windows = list(takewhile(lambda window: window.start < count or window.start == 0, chain(0, cap)))
    planned = windows[: chain_length(count, cap)]
    assert all(after_it.start < before.end for before, after_it in pairwise(planned))
    assert planned[-1].end > count
    assert all(window.end <= count for window in planned[:-1])


def test_pages_too_small_to_overlap_are_recognized() -> None:
    assert chain_length(2_000, 4) is None
    assert chain_length(2_000, 20) is not None


def test_the_proof_costs_a_sixth_more_requests_at_most_beyond_5000_invoices() -> None:
    for count in [*range(0, 6_000, 7), *range(6_000, 300_000, 4_999)]:
        plain = max(1, ceil(count / 100))
        limit = 1 if count <= 99 else plain + 1 if count <= 500 else plain * (1.2 if count <= 5_000 else 1.16)
        assert (chain_length(count, 100) or 0) <= limit


def test_the_requests_of_a_list_are_computed_at_once_for_any_count() -> None:
    assert planned_requests(20_000, 100) == chain_length(20_000, 100)
    assert 1.14 <= planned_requests(10**15, 100) / 10**13 <= 1.16
    assert planned_requests(1_000, 3) >= 333
