"""All forms of an argument mean the same, and a missing value is never accepted as a value."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_unpod.billing.arguments import (
    choice_of,
    invoice_ids_of,
    statuses_of,
    text_of,
    unrendered,
    whole_number_of,
    zone_of,
)
from airflow_provider_unpod.billing.errors import UnpodConfigError

IDS = st.one_of(st.integers(-5, 10**12), st.text("AB-,019 (/", min_size=1).filter(str.strip))


@given(st.lists(IDS, min_size=1))
def test_a_rendered_list_is_parsed_to_the_same_list(ids: list[Any]) -> None:
    assert unrendered(str(ids), "x") == ids
    assert invoice_ids_of(str(ids), "x") == invoice_ids_of(ids, "x")


@pytest.mark.parametrize("text", ["[1, 2", "[1] + [2]", "[a]", "{'a': 1}", "(1)", "[", "[" * 100_000, "{}", "{{1}}"])
def test_a_string_that_looks_like_a_list_but_is_not_one_is_refused_with_the_name_of_its_argument(text: str) -> None:
    with pytest.raises(UnpodConfigError, match="`some_name`"):
        unrendered(text, "some_name")


@pytest.mark.parametrize("digits", [20, 5000])
def test_an_integer_beyond_64_bits_becomes_a_string_that_can_be_stored_and_printed(digits: int) -> None:
    text = "1" + "0" * (digits - 1)
    assert invoice_ids_of(10 ** (digits - 1), "x") == invoice_ids_of(text, "x") == {text: text}


def test_elements_of_a_list_are_not_divided() -> None:
    assert list(invoice_ids_of(["A,1", "(2)"], "x").values()) == ["A,1", "(2)"]
    assert list(invoice_ids_of("A, 1", "x").values()) == ["A", "1"]


@pytest.mark.parametrize(
    "other", ["<generator object f at 0x1>", "dict_keys([1])", "set()", "frozenset({1})", '"1"', "['1']", "[2]", "{}"]
)
def test_the_str_of_another_object_is_refused_in_a_list_and_alone(other: str) -> None:
    for value in (other, [other], ["1", other]):
        for read in (invoice_ids_of, statuses_of):
            if value == "['1']" or (value == "[2]" and read is invoice_ids_of):
                continue  # alone it is a list of one
            with pytest.raises(UnpodConfigError, match="`some_name`"):
                read(value, "some_name")


@given(st.lists(st.sampled_from(["paid", "Paid ", "FAILED", "odd one"])))
def test_statuses_are_sorted_lowercased_and_unique(statuses: list[str]) -> None:
    wanted = tuple(sorted({status.strip().lower() for status in statuses}))
    for given_as in (statuses, set(statuses), str(statuses), iter(statuses)):
        assert statuses_of(given_as, "x", may_be_empty=True) == wanted


def test_every_refusal_names_the_argument_what_it_must_be_and_what_was_got() -> None:
    for check, said in (
        (lambda: choice_of("some", "wait_for", ("all", "any")), "`wait_for` must be 'all' or 'any', got 'some'."),
        (lambda: choice_of(0, "compression", (None, "a", "b")), "`compression` must be None, 'a' or 'b', got 0."),
        (lambda: whole_number_of(0, "tries"), "`tries` must be a whole number, 1 or more, got 0."),
        (lambda: whole_number_of("7", "n", least=2, most=9), "`n` must be a whole number, from 2 to 9, got '7'."),
        (lambda: zone_of("Mars/Olympus", "tz"), "`tz` must be an IANA time zone such as UTC or Europe/Berlin, got '"),
    ):
        with pytest.raises(UnpodConfigError) as caught:
            check()
        assert caught.value.message.startswith(said)


@pytest.mark.parametrize("value", [0, -1, 10, "7", 7.0, 7.5, True, None, [7]])
def test_only_an_integer_within_its_limits_is_a_whole_number(value: Any) -> None:
    with pytest.raises(UnpodConfigError, match="`n` must be a whole number"):
        whole_number_of(value, "n", most=9)
    assert whole_number_of(9, "n", most=9) == 9


@pytest.mark.parametrize("value", ["", "../etc/passwd", "Europe", "/etc/localtime", None, 7, b"UTC"])
def test_only_the_name_of_a_time_zone_is_accepted(value: Any) -> None:
    with pytest.raises(UnpodConfigError, match="`tz` must be an IANA time zone"):
        zone_of(value, "tz")


def test_an_integer_becomes_a_string_for_a_string_argument() -> None:
    assert text_of(12345, "org_handle") == "12345"
    with pytest.raises(UnpodConfigError, match="`org_handle` must be a non-empty string, got True"):
        text_of(True, "org_handle")
