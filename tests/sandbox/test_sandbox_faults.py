"""Faults and drift, as a client sees them."""

from __future__ import annotations

import pytest
import requests

from airflow_provider_unpod.sandbox import Sandbox
from airflow_provider_unpod.sandbox.faults import Drift, Fault, FaultPlan
from airflow_provider_unpod.sandbox.ledger import Ledger
from tools.servers import wait_until

BILLING = "/api/v2/platform/organisation/billing/"
HEADERS = {"Authorization": "Token sandbox-token", "Org-Handle": "unpod.tv"}


@pytest.fixture
def session():
    with requests.Session() as session:
        session.trust_env = False
        session.headers.update(HEADERS)
        yield session


@pytest.fixture
def get(unpod_sandbox, session):
    def get(**query):
        return session.get(unpod_sandbox.url + BILLING, params=query, timeout=10)

    return get


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500])
def test_an_error_status_has_the_documented_body(unpod_sandbox, get, status):
    unpod_sandbox.faults(str(status))
    response = get()
    assert (response.status_code, response.json()["status_code"]) == (status, status)


@pytest.mark.parametrize(("kind", "status"), [("502", 502), ("503", 503), ("html", 200)])
def test_a_proxy_error_is_an_html_page(unpod_sandbox, get, kind, status):
    unpod_sandbox.faults(kind)
    response = get()
    assert (response.status_code, response.headers["Content-Type"].split(";")[0]) == (status, "text/html")
    assert response.text.startswith("<html>")


@pytest.mark.parametrize("retry_after", ["2", "-1", "Wed, 21 Oct 2026 07:28:00 GMT", "315360000", None])
def test_429_has_the_given_retry_after_or_none(unpod_sandbox, get, retry_after):
    unpod_sandbox.faults("429" if retry_after is None else f"429:retry_after={retry_after},times=1")
    response = get()
    assert (response.status_code, response.headers.get("Retry-After")) == (429, retry_after)
    assert response.json()["error"]["code"] == "rate_limit_exceeded"


def test_206_and_200_can_contain_a_business_error(unpod_sandbox, get):
    unpod_sandbox.faults("206:times=1", "200-error:times=1")
    first, second = get(), get()
    assert (first.status_code, set(first.json())) == (206, {"message", "errors"})
    assert (second.status_code, second.json()["status_code"], second.json()["results"]) == (200, 400, [])


def test_broken_json_is_a_complete_response_that_cannot_be_parsed(unpod_sandbox, get):
    unpod_sandbox.faults("broken-json")
    response = get()
    assert response.status_code == 200
    with pytest.raises(requests.exceptions.JSONDecodeError):
        response.json()


@pytest.mark.parametrize("kind", ["truncated", "reset-body"])
def test_a_truncated_body_is_shorter_than_its_content_length(unpod_sandbox, session, kind):
    unpod_sandbox.faults(kind)
    with session.get(unpod_sandbox.url + BILLING, timeout=10, stream=True) as response:
        assert response.status_code == 200
        with pytest.raises(requests.exceptions.RequestException):
            _ = response.content
    assert unpod_sandbox.stats["statuses"] == {kind: 1}


def test_a_reset_reaches_the_client_as_a_connection_reset(unpod_sandbox, get):
    unpod_sandbox.faults("reset")
    with pytest.raises(requests.exceptions.ConnectionError, match="reset by peer"):
        get()


def test_a_drip_sends_the_correct_body_in_small_pieces(unpod_sandbox, session, get):
    whole = get().content
    unpod_sandbox.faults("drip:seconds=0.3")
    with session.get(unpod_sandbox.url + BILLING, timeout=10, stream=True) as response:
        pieces = list(iter(lambda: response.raw.read1(), b""))
    assert b"".join(pieces) == whole
    assert len(pieces) >= 3


def test_a_client_that_gives_up_on_a_drip_causes_no_error_in_the_sandbox(unpod_sandbox, session, get, caplog):
    unpod_sandbox.faults("drip:seconds=0.5")
    with session.get(unpod_sandbox.url + BILLING, timeout=10, stream=True) as response:
        response.raw.read(1)
    wait_until(lambda: not unpod_sandbox.stats["in_flight"], "the sandbox to notice", 10, interval=0)
    assert get().status_code == 200  # so the other request has been handled completely
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_delay_postpones_the_response(unpod_sandbox, get):
    unpod_sandbox.faults("delay:seconds=0.2")
    response = get()
    assert response.status_code == 200
    assert response.elapsed.total_seconds() >= 0.2


def test_a_fault_ends_after_the_given_number_of_times(unpod_sandbox, get):
    unpod_sandbox.faults("500")
    assert get().status_code == 500
    unpod_sandbox.faults()
    assert get().status_code == 200


def test_a_connection_survives_an_error_status_and_a_new_one_works_after_a_reset(unpod_sandbox, get):
    unpod_sandbox.faults("reset:times=1")
    with pytest.raises(requests.exceptions.ConnectionError):
        get()
    assert get().status_code == 200


def hits(*faults, requests=12, pages=(None,), seed=0):
    plan = FaultPlan(faults, seed=seed)
    chosen = [plan.choose(pages[i % len(pages)]) for i in range(requests)]
    return [i for i, fault in enumerate(chosen, start=1) if fault]


def test_a_fault_hits_by_counting_requests():
    assert hits("500:times=3") == [1, 2, 3]
    assert hits("500:every=5") == [5, 10]
    assert hits("500:every=5,times=1") == [5]
    assert hits("500:page=2", pages=(1, 2, 3)) == [2, 5, 8, 11]
    assert hits("500:page=2,every=2", pages=(1, 2, 3)) == [5, 11]
    assert hits("500:every=4", "429:every=6") == [4, 6, 8, 12]
    assert hits() == []


def test_a_probability_is_met_and_the_same_seed_hits_the_same_requests():
    some = hits("500:probability=0.2", requests=1_000)
    assert 150 < len(some) < 250
    assert some == hits("500:probability=0.2", requests=1_000)
    assert some != hits("500:probability=0.2", requests=1_000, seed=1)


def test_the_seed_of_a_sandbox_also_determines_its_faults(session):
    def run(seed):
        with Sandbox(invoices=0, seed=seed, faults=["500:probability=0.5"]) as sandbox:
            return [session.get(sandbox.url + BILLING, timeout=10).status_code for _ in range(30)]

    assert run(1) == run(1)
    assert run(1) != run(2)


@pytest.mark.parametrize(
    "text", ["500", "429:times=3,retry_after=Wed, 21 Oct 2026 07:28:00 GMT", "drip:probability=0.5,seconds=9.0"]
)
def test_the_text_of_a_fault_parses_to_the_same_fault(text):
    assert str(Fault.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "teapot", "500:often=3", "500:times=many", "500:every=0", "500:probability=2", "drip:seconds=-1"]
)
def test_an_invalid_fault_is_refused_with_a_reason(text):
    with pytest.raises(ValueError, match=r"\w"):
        Fault.parse(text)


@pytest.mark.parametrize("text", ["", "insert", "insert:", "insert:-1", "insert:0", "explode:3"])
def test_an_invalid_drift_is_refused_with_a_reason(text):
    with pytest.raises(ValueError, match="drift"):
        Drift.parse(text)


@pytest.mark.parametrize(
    ("drift", "after"),
    [
        (["insert:2"], [104, 103, 102, 101]),
        (["delete-front:2"], [102, 101]),
        # An id is never used twice: the new invoice in the place of 103 is another one.
        (["delete-front:2", "insert:2"], [104, 102, 101]),
    ],
)
def test_drift_changes_the_list_just_before_every_nth_billing_response(session, drift, after):
    with Sandbox(invoices=3, drift=drift) as sandbox:
        seen = []
        for _ in range(2):
            session.get(sandbox.url + "/api/v2/platform/organizations/", timeout=10)
            seen.append(session.get(sandbox.url + BILLING, timeout=10).json())
    assert [row["id"] for row in seen[0]["results"]] == [103, 102, 101]
    assert [row["id"] for row in seen[1]["results"]] == after
    assert seen[1]["count"] == len(after)


def test_drift_on_an_empty_list_is_not_an_error():
    ledger = Ledger(1)
    for request in range(1, 4):
        Drift.parse("delete-random:1").apply(ledger, request)
        Drift.parse("delete-front:1").apply(ledger, request)
    assert len(ledger) == 0
