"""Arguments that a task takes from a DAG are stable and valid, and Airflow can store everything that it returns."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_unpod.billing import errors
from airflow_provider_unpod.operators.billing import UnpodBillingOperator
from airflow_provider_unpod.sensors.invoice import UnpodInvoiceSensor
from airflow_provider_unpod.task_boundary import fail_fast, is_final, storable

try:
    from airflow.serialization.serialized_objects import DagSerialization as SerializedDAG
except ImportError:  # before Airflow 3.2
    from airflow.serialization.serialized_objects import (  # type: ignore[attr-defined, assignment]  # its old name
        SerializedDAG,
    )

#: JSON texts as an API may send them: Python's parser accepts U+0000 and unpaired surrogates.
TEXTS = st.text(st.one_of(st.sampled_from("ab\x00\ud800\udfff\ufffd"), st.characters()), max_size=6)
VALUES = st.recursive(
    st.one_of(TEXTS, st.none(), st.booleans(), st.integers(), st.integers(2**62, 2**70), st.floats(allow_nan=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=20,
)


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for one in value.values():
            yield from leaves(one)
    elif isinstance(value, list):
        for one in value:
            yield from leaves(one)
    else:
        yield value


@given(VALUES)
def test_any_json_of_the_api_becomes_storable_without_losing_values(value: Any) -> None:
    stored = storable(value)

    text = json.dumps(stored, ensure_ascii=False)
    assert "\x00" not in text
    assert "\\u0000" not in text
    text.encode()  # no unpaired surrogate
    assert all(-(2**63) <= one < 2**64 for one in leaves(stored) if isinstance(one, int))  # msgpack
    assert sorted(map(str, leaves(stored))) == sorted(
        re.sub("[\x00\ud800-\udfff]", "\ufffd", str(one)) for one in leaves(value)
    )
    assert storable(stored) == stored


def test_a_value_that_airflow_can_store_is_unchanged_and_causes_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    value = {"id": 2**63, "name": "Zoë \U0001f4b6", "lines": [{"price": "1.10", "more": None}, True, -1.5]}

    assert storable(value) == value
    assert caplog.records == []


def test_replaced_characters_are_one_warning_that_shows_the_first_text(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        stored = storable({"name": "AC\x00ME", "\ud800": ["\x00", 2**64]})

    assert stored == {"name": "AC\ufffdME", "\ufffd": ["\ufffd", str(2**64)]}
    (record,) = caplog.records
    assert "4 of them" in record.getMessage()
    assert "AC" in record.getMessage()
    assert "\x00" not in record.getMessage()


def test_two_names_that_become_equal_keep_both_values() -> None:
    assert storable(dict(zip(["a\x00", "a\ufffd", "a\udfff"], range(3), strict=True))) == {
        "a\ufffd": 1,
        "a\ufffd\ufffd": 0,
        "a\ufffd\ufffd\ufffd": 2,
    }


@pytest.mark.parametrize(
    "kind", [errors.UnpodAuthError, errors.UnpodBadRequest, errors.UnpodOrganizationNotFound, errors.UnpodConfigError]
)
def test_a_permanent_error_fails_the_task_with_its_text_and_without_cause(kind: type[errors.UnpodError]) -> None:
    with pytest.raises(AirflowFailException, match=r"no \(HTTP 403\)") as failure, fail_fast(), fail_fast():
        raise kind("no", status=403)
    assert failure.value.__cause__ is None
    assert failure.value.__suppress_context__


@pytest.mark.parametrize(
    "error",
    [
        errors.UnpodUnavailable("down"),
        errors.UnpodUnreachable("no such host"),
        errors.UnpodRateLimited("later"),
        errors.UnpodBadAnswer("206"),
        errors.UnpodListUnstable("moved"),
        errors.UnpodInvoiceNotFound("gone"),
        KeyError("bug"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_other_error_is_unchanged_and_retried(error: Exception) -> None:
    @fail_fast()
    def task() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        task()
    assert caught.value is error


@pytest.mark.parametrize("final", [1, None, "paid", ["a", 1], {"a"}, {"a": "b"}, range(3)])
def test_a_value_without_a_template_is_checked_when_the_dag_is_parsed(final: Any) -> None:
    assert is_final(final)


@pytest.mark.parametrize("template", ["{{ x }}", ["a", ("{% x %}",)], {"a": "{{ x }}"}])
def test_a_value_with_a_template_anywhere_is_checked_once_it_is_rendered(template: Any) -> None:
    assert not is_final(template)


@pytest.mark.parametrize("make", [iter, lambda values: (one for one in values), lambda values: map(str, values)])
@pytest.mark.parametrize(
    ("operator", "arguments"),
    [
        (UnpodBillingOperator, {"statuses": ["paid", "pending"]}),
        (UnpodInvoiceSensor, {"invoice_id": ["101", "INV-7"]}),
        (UnpodInvoiceSensor, {"invoice_id": 1, "failure_statuses": ["failed", "odd"]}),
    ],
)
def test_a_dag_with_a_generator_as_argument_is_the_same_at_each_parse(
    operator: Any, arguments: dict[str, Any], make: Any
) -> None:
    def serialized(convert: Any) -> str:
        with DAG("d", schedule=None) as dag:
            given = {name: convert(value) if isinstance(value, list) else value for name, value in arguments.items()}
            operator(task_id="t", **given)
        return json.dumps(SerializedDAG.to_dict(dag), sort_keys=True, default=str)

    assert serialized(make) == serialized(list)
    assert " object at 0x" not in serialized(make)


@pytest.mark.parametrize("make", [set, frozenset, lambda values: dict.fromkeys(values).keys()])
def test_a_dag_with_a_set_as_argument_is_the_same_in_each_process(make: Any) -> None:
    sensor = UnpodInvoiceSensor(task_id="t", invoice_id=make(["b", 7, "a", 30]))
    operator = UnpodBillingOperator(task_id="t", statuses=make(["refunded", "paid"]))

    assert sensor.invoice_id == [30, 7, "a", "b"]
    assert operator.statuses == ["paid", "refunded"]
