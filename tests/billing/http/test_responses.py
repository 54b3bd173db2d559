"""For any response, the client returns a page or raises its own error, in limited time and memory."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from airflow_provider_unpod.billing.client import UnpodClient
from airflow_provider_unpod.billing.errors import UnpodBadAnswer, UnpodError
from airflow_provider_unpod.billing.http.rate_limit import Pacing
from airflow_provider_unpod.billing.http.retry import RetryPolicy
from tests.billing.conftest import FastClock
from tests.billing.faulty_server import TOKEN, FaultyServer, answer, row
from tests.properties import examples

FIELDS = ["count", "status_code", "message", "results", "data", "error", "errors", "detail", "id", "invoice_number"]
FIELDS += ["amount", "tax_amount", "currency", "status", "invoice_date", "due_date", "payment_at"]

numbers = st.one_of(
    st.integers(),
    st.floats(),  # NaN and the infinities are written as json.dumps writes them: no JSON, but servers do it
    st.sampled_from([0, -1, 10**30, 2**63, 1e308, True, False]),
)
values = st.recursive(
    st.one_of(
        st.none(), numbers, st.text(max_size=20), st.sampled_from(["1.00", "paid", "2026-02-01T00:00:00Z", "1e9"])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(FIELDS), st.text(max_size=5)), inner, max_size=6),
    ),
    max_leaves=25,
)
rows = st.fixed_dictionaries(
    {},
    optional={name: st.one_of(values, st.just(row(1).get(name))) for name in FIELDS[8:]},
)
envelopes = st.fixed_dictionaries(
    {}, optional={name: st.one_of(values, st.lists(rows, max_size=4)) for name in FIELDS[:8]}
)
bodies = st.one_of(
    st.one_of(values, envelopes).map(json.dumps).map(str.encode),
    st.binary(max_size=200),
    st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")),
    # Whole documents with a piece cut out or put in.
    st.tuples(envelopes.map(json.dumps), st.integers(0, 400), st.text(max_size=8)).map(
        lambda parts: (parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + len(parts[2]) :]).encode(
            "utf-8", "replace"
        )
    ),
)
statuses = st.sampled_from([200, 200, 200, 200, 206, 301, 400, 401, 403, 404, 429, 500, 502])


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[FaultyServer, UnpodClient]]:
    """One server and client for all examples."""
    with FaultyServer() as server, UnpodClient(server.url, TOKEN, "acme", retry=RetryPolicy(attempts=2)) as client:
        client._pacing = Pacing(FastClock())
        yield server, client


def ask(running: tuple[FaultyServer, UnpodClient], body: bytes, status: int = 200, page: int = 1) -> Any:
    """Return the page after accessing every field of every invoice, or the error."""
    server, client = running
    server.otherwise = answer(body, status)
    outcome: Any
    try:
        outcome = client.get_page(page, 100)
        for invoice in outcome.invoices:
            json.dumps(invoice.as_record(), allow_nan=False).encode()
            repr((invoice, invoice.tax_amount, invoice.expected_payment_by, invoice.payment_at))
            assert isinstance(invoice.amount, Decimal)
            assert invoice.amount.is_finite()
    except UnpodError as err:
        outcome = err
    assert len(str(outcome).encode()) < 2000 or not isinstance(outcome, UnpodError)
    return outcome


@settings(max_examples=examples(150), deadline=None, suppress_health_check=list(HealthCheck))
@given(body=bodies, status=statuses, page=st.integers(1, 2))
@example(body=b'{"results": [], "count": 1e999999999}', status=200, page=1)
@example(body=b'{"results": [{"id": 1, "amount": 1E+999999, "currency": "X", "status": "x"}]}', status=200, page=1)
@example(body=b'{"results": [], "status_code": 1e400}', status=200, page=1)
@example(body=b'{"results": [], "status_code": NaN}', status=200, page=1)
@example(body=b'{"message": {"a": [1, {"b": "\\ud800"}]}, "results": 3}', status=200, page=1)
@example(body=b'{"message": "\\ud83d"}', status=401, page=1)
@example(body=b'{"message": "\\u0000\\r\\nSet-Cookie: x\\u2028"}', status=400, page=1)
@example(body="﻿{}".encode(), status=200, page=1)
@example(body=b'{"error": [], "message": [], "errors": {"a": []}}', status=400, page=1)
def test_only_errors_of_this_package_are_raised(
    running: tuple[FaultyServer, UnpodClient], body: bytes, status: int, page: int
) -> None:
    outcome = ask(running, body, status, page)
    if status != 200 and not (status == 404 and page > 1):
        assert isinstance(outcome, UnpodError)


HUGE = 10_000_000
TRAPS = {
    "one long text": b'"' + b"x" * HUGE + b'"',
    "10 MB of nothing": b" " * HUGE,
    "10 MB of zeros": b"\0" * HUGE,
    "10 MB of HTML": b"<p>" * (HUGE // 3),
    "nested lists": b"[" * HUGE,
    "nested objects": b'{"a":' * (HUGE // 5),
    "nested and closed": b"[" * 100_000 + b"]" * 100_000,
    "nested a little, in a row": b'{"results": [{"id": 1, "amount": "1", "currency": "X", "status": "x", "a": '
    + b"[" * 500
    + b"]" * 500
    + b"}]}",
    "a number of 10 million digits": b'{"count": ' + b"1" * HUGE + b', "results": []}',
    "a fraction of 10 million digits": b'{"results": [{"id": 1, "amount": 0.' + b"1" * HUGE + b', "currency": "X"}]}',
    "5000 digits": b'{"count": ' + b"1" * 5000 + b', "results": []}',
    "an exponent beyond Decimal": b'{"count": 1e99999999999999999999, "results": []}',
    "an amount of 5000 digits as text": json.dumps({"results": [row(1, amount="1" * 5000)]}).encode(),
    "an id of 4000 digits as text": json.dumps({"results": [row(1, id="1" * 4000, amount="x")]}).encode(),
    "NaN": b'{"results": [], "count": NaN}',
    "Infinity": b'{"results": [{"id": 1, "amount": -Infinity, "currency": "X", "status": "x"}]}',
    "half a character": b'{"results": [{"id": 1, "amount": "1", "currency": "X", "status": "\\uDC00"}]}',
    "no UTF-8": b'{"results": [{"id": 1, "amount": "1", "currency": "\xff\xfe", "status": "x"}]}',
    "UTF-16": '{"results": []}'.encode("utf-16"),
    "rows that are not objects": b'{"results": [' + b"1," * 300_000 + b"1]}",
    "a long message": json.dumps({"message": "x" * HUGE}).encode(),
}


@pytest.mark.slow
@pytest.mark.parametrize("status", [200, 404, 500])
@pytest.mark.parametrize("trap", TRAPS)
def test_traps_are_refused_in_bounded_time_and_memory(
    running: tuple[FaultyServer, UnpodClient], trap: str, status: int
) -> None:
    tracemalloc.start()
    began = time.process_time()
    outcome = ask(running, TRAPS[trap], status)
    seconds, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(outcome, UnpodError)
    if status == 200:
        assert isinstance(outcome, UnpodBadAnswer)
    assert seconds < 15
    assert peak < 200 * 1024 * 1024


@pytest.mark.parametrize("depth", [31, 100, 500, *range(900, 1000, 20), 3_000, 9_000])
@pytest.mark.parametrize("name", ["message", "count", "status_code", "results", "error"])
def test_an_error_nested_at_any_depth_is_still_reported(
    running: tuple[FaultyServer, UnpodClient], name: str, depth: int
) -> None:
    body = b'{"%b": %b}' % (name.encode(), b"[" * depth + b"]" * depth)
    for status in (200, 400):
        assert isinstance(ask(running, body, status), UnpodError)


def test_if_a_field_occurs_twice_the_last_value_is_used(running: tuple[FaultyServer, UnpodClient]) -> None:
    fields = b'"id": 1, "amount": "1", "currency": "X", "status": "a", "status": "b"'
    got = ask(running, b'{"count": 1, "count": 2, "results": [{%b}]}' % fields)
    assert (got.count, got.invoices[0].status) == (2, "b")


def test_texts_of_all_languages_and_whole_surrogate_pairs_are_read(running: tuple[FaultyServer, UnpodClient]) -> None:
    for body in (json.dumps, lambda value: json.dumps(value, ensure_ascii=False)):
        got = ask(running, body({"results": [row(1, note="ünïcode 😀 हिन्दी \\ud800")]}).encode())
        assert got.invoices[0].raw["note"] == "ünïcode 😀 हिन्दी \\ud800"


def test_a_byte_order_mark_is_ignored(running: tuple[FaultyServer, UnpodClient]) -> None:
    assert ask(running, b"\xef\xbb\xbf" + b'{"results": []}').invoices == []


def test_rows_may_contain_lists_and_objects(running: tuple[FaultyServer, UnpodClient]) -> None:
    note = {"lines": [{"text": "a", "amount": 1.10, "more": [[{"x": {"y": [1, 2, None]}}]]}] * 5}
    got = ask(running, json.dumps({"results": [row(1, note=note)]}).encode())
    assert got.invoices[0].as_record()["note"]["lines"][0]["amount"] == "1.1"
