"""Lists, statuses and ids mean the same however they are written, and nothing is never taken for something."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_unpod.billing.arguments import invoice_ids_of, statuses_of, unrendered
from airflow_provider_unpod.billing.errors import UnpodConfigError
from airflow_provider_unpod.task_boundary import is_final

IDS = st.one_of(st.integers(-5, 10**12), st.text("AB-,019 (/", min_size=1).filter(str.strip))


@given(st.lists(IDS, min_size=1))
def test_a_list_that_went_through_a_template_is_the_same_list(ids: list[Any]) -> None:
    assert unrendered(str(ids), "x") == ids
    assert invoice_ids_of(str(ids), "x") == invoice_ids_of(ids, "x")


@pytest.mark.parametrize("text", ["[1, 2", "[1] + [2]", "[a]", "{'a': 1}", "(1)", "[", "[" * 100_000, "{}", "{{1}}"])
def test_a_text_that_begins_like_a_list_and_is_none_is_refused_by_the_name_of_its_argument(text: str) -> None:
    with pytest.raises(UnpodConfigError, match="`some_name`"):
        unrendered(text, "some_name")


def test_elements_of_a_list_are_not_divided() -> None:
    assert list(invoice_ids_of(["A,1", "(2)"], "x").values()) == ["A,1", "(2)"]
    assert list(invoice_ids_of("A, 1", "x").values()) == ["A", "1"]


@pytest.mark.parametrize(
    "other", ["<generator object f at 0x1>", "dict_keys([1])", "set()", "frozenset({1})", '"1"', "['1']", "[2]", "{}"]
)
def test_the_text_of_something_else_is_no_name_in_a_list_or_alone(other: str) -> None:
    for value in (other, [other], ["1", other]):
        for read in (invoice_ids_of, statuses_of):
            if value == "['1']" or (value == "[2]" and read is invoice_ids_of):
                continue  # alone it is a list of one
            with pytest.raises(UnpodConfigError, match="`some_name`"):
                read(value, "some_name")


@given(st.lists(st.sampled_from(["paid", "Paid ", "FAILED", "odd one"])))
def test_statuses_come_in_one_order_and_case_each_once(statuses: list[str]) -> None:
    wanted = tuple(sorted({status.strip().lower() for status in statuses}))
    for given_as in (statuses, set(statuses), str(statuses), iter(statuses)):
        assert statuses_of(given_as, "x", may_be_empty=True) == wanted


@pytest.mark.parametrize("final", [1, None, "paid", ["a", 1], {"a"}, {"a": "b"}, range(3)])
def test_what_no_template_is_in_is_final(final: Any) -> None:
    assert is_final(final)


@pytest.mark.parametrize("open_", ["{{ x }}", ["a", ("{% x %}",)], {"a": "{{ x }}"}, iter([1])])
def test_a_template_is_not_final_wherever_it_stands(open_: Any) -> None:
    assert not is_final(open_)
