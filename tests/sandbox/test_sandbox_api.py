"""The API over real HTTP behaves as its documentation says."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime

import pytest
import requests

from airflow_provider_unpod.sandbox import Sandbox

BILLING = "/api/v2/platform/organisation/billing/"
ORGANIZATIONS = "/api/v2/platform/organizations/"
HEADERS = {"Authorization": "Token sandbox-token", "Org-Handle": "unpod.tv"}


def get(sandbox, path=BILLING, *, headers=HEADERS, **query):
    with requests.Session() as session:
        session.trust_env = False
        return session.get(sandbox.url + path, params=query, headers=headers, timeout=10, allow_redirects=False)


def status_and_body(response):
    return response.status_code, response.json()


def test_the_results_dialect_is_that_of_the_published_page():
    with Sandbox(invoices=12, order="oldest") as sandbox:
        response = get(sandbox, page=1, page_size=1)
    assert response.headers["Content-Type"] == "application/json"
    body = response.json()
    row = body["results"][0]
    assert list(body) == ["count", "status_code", "message", "results"]
    assert (body["count"], body["status_code"], body["message"]) == (12, 200, "Billing data fetched successfully")
    assert row.pop("invoice_date").endswith("Z")
    assert row == {"id": 101, "amount": "299.00", "currency": "USD", "status": "pending"}


def test_the_data_dialect_has_invoice_numbers_tax_and_the_other_dates():
    with Sandbox(invoices=12, order="oldest", dialect="data") as sandbox:
        body = get(sandbox, page_size=12).json()
    assert list(body) == ["count", "status_code", "message", "data"]
    assert list(body["data"][0]) == [
        "invoice_number",
        "amount",
        "tax_amount",
        "currency",
        "status",
        "charge_type",
        "invoice_date",
        "due_date",
        "payment_at",
    ]
    first = body["data"][0]
    assert (first["invoice_number"], first["tax_amount"], first["payment_at"]) == ("INV-00101", "53.82", None)
    assert all((row["payment_at"] is not None) == (row["status"] in ("paid", "refunded")) for row in body["data"])


def test_a_page_has_20_rows_by_default():
    with Sandbox(invoices=50) as sandbox:
        assert len(get(sandbox).json()["results"]) == 20
        assert get(sandbox, page=2).json()["results"] == get(sandbox, page=2, page_size=20).json()["results"]


def test_a_page_size_above_the_maximum_is_reduced_without_an_error():
    with Sandbox(invoices=300) as sandbox:
        assert len(get(sandbox, page_size=1_000).json()["results"]) == 100
    with Sandbox(invoices=300, max_page_size=30) as sandbox:
        assert len(get(sandbox, page_size=100).json()["results"]) == 30


def test_a_fixed_page_size_overrides_the_requested_one():
    with Sandbox(invoices=300, fixed_page_size=7) as sandbox:
        assert {len(get(sandbox, page_size=size).json()["results"]) for size in (1, 7, 100)} == {7}


def test_all_pages_together_are_the_ledger_in_its_order():
    with Sandbox(invoices=250) as sandbox:
        rows = [row for page in (1, 2, 3) for row in get(sandbox, page=page, page_size=100).json()["results"]]
        assert [row["id"] for row in rows] == sandbox.ledger.ids()


def test_a_page_past_the_end_is_404_invalid_page_or_an_empty_list():
    with Sandbox(invoices=100) as sandbox:
        assert status_and_body(get(sandbox, page=2, page_size=100)) == (
            404,
            {"status_code": 404, "message": "Invalid page."},
        )
    with Sandbox(invoices=100, end="empty") as sandbox:
        status, body = status_and_body(get(sandbox, page=2, page_size=100))
    assert (status, body["count"], body["results"]) == (200, 100, [])


@pytest.mark.parametrize("end", ["404", "empty"])
def test_the_first_page_of_an_empty_ledger_is_an_empty_list(end):
    with Sandbox(invoices=0, end=end) as sandbox:
        status, body = status_and_body(get(sandbox))
    assert (status, body["count"], body["results"]) == (200, 0, [])


def test_count_may_be_right_missing_or_null():
    with Sandbox(invoices=9, count="missing") as sandbox:
        assert "count" not in get(sandbox).json()
    with Sandbox(invoices=9, count="null") as sandbox:
        assert get(sandbox).json()["count"] is None


@pytest.mark.parametrize("scheme", ["Token", "jwt", "JWT", "Bearer"])
def test_the_token_is_accepted_with_every_documented_scheme(scheme):
    with Sandbox(token="secret") as sandbox:
        assert get(sandbox, headers={**HEADERS, "Authorization": f"{scheme} secret"}).status_code == 200


@pytest.mark.parametrize("path", [BILLING, ORGANIZATIONS])
@pytest.mark.parametrize(
    ("authorization", "status", "message"),
    [
        (None, 401, "Authentication credentials were not provided."),
        ("sandbox-token", 401, "Authentication credentials were not provided."),
        ("Basic sandbox-token", 401, "Authentication credentials were not provided."),
        ("Token wrong", 401, "Invalid token."),
        ("Token expired-token", 403, "Token has expired."),
    ],
)
def test_a_request_without_a_valid_token_is_refused(path, authorization, status, message):
    with Sandbox() as sandbox:
        response = get(sandbox, path, headers={**HEADERS, "Authorization": authorization})
    assert status_and_body(response) == (status, {"status_code": status, "message": message})


def test_a_missing_organization_handle_is_a_bad_request():
    with Sandbox() as sandbox:
        response = get(sandbox, headers={"Authorization": "Token sandbox-token"})
    assert status_and_body(response) == (400, {"status_code": 400, "message": "Org-Handle header is required."})


@pytest.mark.parametrize(
    ("unknown_org", "status", "message"),
    [
        ("404", 404, "Not found."),
        ("403", 403, "Invalid organization handle."),
        ("206", 206, "Organization Handle Not Found"),
    ],
)
def test_an_unknown_organization_handle_gets_each_documented_response(unknown_org, status, message):
    with Sandbox(unknown_org=unknown_org) as sandbox:
        got, body = status_and_body(get(sandbox, headers={**HEADERS, "Org-Handle": "nobody"}))
    assert (got, body["message"]) == (status, message)
    assert ("errors" in body) == (status == 206)


@pytest.mark.parametrize("query", [{"page": "0"}, {"page": "x"}, {"page": "-1"}, {"page_size": "0"}, {"page_size": ""}])
def test_a_page_or_page_size_that_is_not_a_positive_number_is_a_bad_request(query):
    with Sandbox() as sandbox:
        assert get(sandbox, **query).status_code == 400


@pytest.mark.parametrize("path", [BILLING, ORGANIZATIONS])
def test_a_url_without_its_trailing_slash_is_redirected_with_its_query(path):
    with Sandbox() as sandbox:
        response = get(sandbox, path.rstrip("/"), page=2)
    assert (response.status_code, response.headers["Location"]) == (301, f"{path}?page=2")


def test_organizations_are_listed_with_the_handles_that_billing_accepts():
    with Sandbox(invoices=20, orgs=("unpod.tv", "acme")) as sandbox:
        body = get(sandbox, ORGANIZATIONS, headers={"Authorization": "Token sandbox-token"}).json()
        assert (body["count"], body["status_code"]) == (2, 200)
        assert body["data"][0] == {
            "id": 1,
            "name": "Unpod Tv",
            "domain_handle": "unpod.tv",
            "created_at": "2024-01-15T10:30:00Z",
        }
        lists = [
            get(sandbox, headers={**HEADERS, "Org-Handle": org["domain_handle"]}).json()["results"]
            for org in body["data"]
        ]
    assert [len(rows) for rows in lists] == [20, 10]
    oldest_ten = [[row["currency"] for row in rows[-10:]] for rows in lists]
    assert oldest_ten[0] != oldest_ten[1]


def test_each_further_organization_has_half_as_many_invoices_as_the_one_before():
    with Sandbox(invoices=80, orgs=("a", "b", "c")) as sandbox:
        counts = [get(sandbox, headers={**HEADERS, "Org-Handle": org}).json()["count"] for org in sandbox.ledgers]
    assert counts == [80, 40, 20]


def test_every_response_reports_the_rate_limit_and_a_request_above_it_is_refused():
    with Sandbox(rate_limit=3, rate_window=30) as sandbox:
        responses = [get(sandbox) for _ in range(2)]
        responses.append(get(sandbox, headers={}))
        refused = get(sandbox, ORGANIZATIONS)
    assert [response.status_code for response in responses] == [200, 200, 401]
    assert [response.headers["X-RateLimit-Remaining"] for response in responses] == ["2", "1", "0"]
    assert {response.headers["X-RateLimit-Limit"] for response in responses} == {"3"}
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    now = parsedate_to_datetime(refused.headers["Date"]).timestamp()
    assert 28 <= int(refused.headers["Retry-After"]) <= 30
    assert abs(int(refused.headers["X-RateLimit-Reset"]) - now - 30) <= 3
    assert refused.headers["X-RateLimit-Remaining"] == "0"


def test_the_rate_limit_starts_again_after_its_window():
    with Sandbox(rate_limit=1, rate_window=0.05) as sandbox:
        statuses = [get(sandbox).status_code]
        # Bounded by the client's patience and not by a clock: the window is over within a few answers.
        while len(statuses) < 2_000 and statuses.count(200) < 3:
            statuses.append(get(sandbox).status_code)
    assert statuses.count(200) == 3


def test_without_a_rate_limit_responses_have_no_rate_limit_headers():
    with Sandbox() as sandbox:
        assert not [name for name in get(sandbox).headers if name.startswith("X-RateLimit")]


def test_latency_delays_each_response_without_blocking_others():
    with Sandbox(latency=200) as sandbox, ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda _: get(sandbox), range(8)))
        stats = sandbox.stats
    assert min(response.elapsed.total_seconds() for response in responses) >= 0.2
    assert stats["max_in_flight"] > 1


def test_statistics_count_api_requests_and_not_control_requests():
    with Sandbox() as sandbox:
        get(sandbox, page=3, page_size=50)
        get(sandbox, ORGANIZATIONS)
        get(sandbox, "/sandbox/stats")
        stats = sandbox.stats
        assert (stats["requests"], stats["in_flight"], stats["max_in_flight"]) == (2, 0, 1)
        assert stats["paths"] == {BILLING: 1, ORGANIZATIONS: 1}
        assert stats["log"][0] == {"path": BILLING, "page": "3", "page_size": "50", "status": 200}
        assert get(sandbox, "/sandbox/stats").json() == stats
        sandbox.reset_stats()
        assert sandbox.stats == {
            "requests": 0,
            "paths": {},
            "statuses": {},
            "in_flight": 0,
            "max_in_flight": 0,
            "log": [],
        }


@pytest.mark.parametrize(
    "settings",
    [
        {"orgs": ()},
        {"orgs": ("a", "a")},
        {"max_page_size": 0},
        {"rate_limit": 0},
        {"rate_window": 0},
        {"invoices": -1},
        {"faults": ["5oo"]},
        {"drift": ["insert:0"]},
    ],
)
def test_invalid_settings_are_refused_before_the_server_starts(settings):
    with pytest.raises(ValueError, match=r"\w"):
        Sandbox(**settings)
