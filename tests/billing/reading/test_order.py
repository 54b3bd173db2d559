"""Detection of the order of a list from its rows."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_unpod.billing.invoice import Invoice, match_key
from airflow_provider_unpod.billing.reading.order import OrderWitness, direction_of


@pytest.mark.parametrize("date", ["soon", "12:30", 7, "0001-01-01T00:00:00+14:00"])
def test_an_invalid_date_is_ignored_if_only_the_order_matters(date: Any) -> None:
    witness = OrderWitness()
    fields = {"amount": "1", "currency": "USD", "status": "paid"}
    witness.observe([Invoice({"id": number, "invoice_date": date, **fields}) for number in (2, 3, 1)])
    assert witness.order == "assumed"


@given(st.lists(st.integers(10**15, 10**25), unique=True, min_size=2))
def test_integer_ids_of_any_length_are_ordered_by_value(numbers: list[int]) -> None:
    keys = [match_key(number) for number in numbers]
    rising = all(one < other for one, other in pairwise(numbers))
    falling = all(one > other for one, other in pairwise(numbers))
    direction = direction_of(keys)
    assert (direction is not None) == (rising or falling)
    assert direction is None or direction(1, 2) == rising
