"""The content of requests, and the interpretation of responses."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_unpod import __version__
from airflow_provider_unpod.billing.client import UnpodClient
from airflow_provider_unpod.billing.errors import (
    UnpodAuthError,
    UnpodBadAnswer,
    UnpodBadRequest,
    UnpodError,
    UnpodOrganizationNotFound,
    UnpodRateLimited,
    UnpodUnavailable,
    UnpodUnreachable,
)
from airflow_provider_unpod.billing.http.retry import RetryPolicy
from tests.billing.faulty_server import TOKEN, Close, FaultyServer, answer, page, row

Connect = Callable[..., UnpodClient]


def test_a_page_is_asked_for_as_published(server: FaultyServer, connect: Connect) -> None:
    connect(server).get_page(3, 20)
    (request,) = server.requests
    assert (request.method, request.path) == ("GET", "/api/v2/platform/organisation/billing/")
    assert request.query == {"page": "3", "page_size": "20"}
    assert request.headers["authorization"] == f"Token {TOKEN}"
    assert request.headers["org-handle"] == "acme.tv"
    assert request.headers["user-agent"] == f"airflow-provider-unpod/{__version__}"
    assert "product-id" not in request.headers
    assert "cookie" not in request.headers


def test_scheme_and_product_are_sent_as_configured(server: FaultyServer, connect: Connect) -> None:
    connect(server, auth_scheme="bearer", product_id="unpod.ai").get_page(1, 20)
    assert server.requests[0].headers["authorization"] == f"Bearer {TOKEN}"
    assert server.requests[0].headers["product-id"] == "unpod.ai"


@pytest.mark.parametrize("name", ["results", "data"])
def test_both_dialects_yield_the_rows_in_the_order_of_the_response(
    server: FaultyServer, connect: Connect, name: str
) -> None:
    rows = [{"invoice_number": "INV-00118", "amount": 1357.35, "currency": "INR", "status": "pending"}, row(7), row(3)]
    server.scripts = [answer({"count": 17, "status_code": 200, name: rows})]
    got = connect(server).get_page(1, 20)
    assert [invoice.invoice_id for invoice in got.invoices] == ["INV-00118", 7, 3]
    assert got.invoices[0].amount == Decimal("1357.35")
    assert got.count == 17
    assert not got.past_end


@pytest.mark.parametrize("digits", ["12345678901234567.89", "0.1", "299.00", "1e2", "100000000000000000000"])
def test_an_amount_sent_as_a_json_number_keeps_its_digits(server: FaultyServer, connect: Connect, digits: str) -> None:
    body = '{"count": 1, "results": [{"id": 1, "amount": DIGITS, "currency": "KWD", "status": "paid"}]}'
    server.scripts = [answer(body.replace("DIGITS", digits))]
    assert connect(server).get_page(1, 20).invoices[0].amount == Decimal(digits)


def test_a_missing_or_null_count_is_none(server: FaultyServer, connect: Connect) -> None:
    server.scripts = [answer({"results": []}), page(count=None)]
    client = connect(server)
    assert client.get_page(1, 20).count is None
    assert client.get_page(1, 20).count is None


@pytest.mark.parametrize("body", [{"status_code": 404, "message": "Invalid page."}, {"detail": "Invalid page."}])
def test_404_past_the_first_page_is_the_end_of_the_list(
    server: FaultyServer, connect: Connect, body: dict[str, Any]
) -> None:
    server.scripts = [answer(body, 404)]
    got = connect(server).get_page(2, 20)
    assert got.past_end
    assert got.invoices == []
    assert got.count is None


def test_404_of_a_proxy_is_not_the_end_of_the_list(server: FaultyServer, connect: Connect) -> None:
    nginx = answer("<html><h1>404 Not Found</h1>nginx</html>", 404)
    server.scripts = [nginx, nginx, page([1])]
    assert len(connect(server).get_page(2, 20).invoices) == 1
    server.otherwise = nginx
    with pytest.raises(UnpodBadAnswer) as caught:
        connect(server).get_page(2, 20)
    assert caught.value.status == 404


@pytest.mark.parametrize(
    ("status", "body", "error", "said"),
    [
        (400, {"status_code": 400, "message": "Org-Handle header is required."}, UnpodBadRequest, "Org-Handle header"),
        (
            401,
            {"status_code": 401, "message": "Authentication credentials were not provided."},
            UnpodAuthError,
            "creden",
        ),
        (403, {"status_code": 403, "message": "Token has expired."}, UnpodAuthError, "Token has expired."),
        (404, {"status_code": 404, "message": "Not found."}, UnpodOrganizationNotFound, "Not found."),
        (404, "<html>no such page</html>", UnpodBadAnswer, "`host`"),
        (404, {"hello": "world"}, UnpodBadAnswer, "`host`"),
        (400, "<html>Bad Request</html>", UnpodBadAnswer, "`host`"),
        (400, "<h1>The plain HTTP request was sent to HTTPS port</h1>", UnpodUnreachable, "speaks https"),
        (405, {"detail": 'Method "GET" not allowed.'}, UnpodBadRequest, "not allowed"),
        (407, "", UnpodUnreachable, "proxies"),
        (418, "", UnpodBadAnswer, "an empty HTTP 418"),
        (206, {"message": "Organization Handle Not Found", "errors": "x"}, UnpodBadAnswer, "Organization Handle Not"),
        (206, {"count": 1, "results": [row(1)]}, UnpodBadAnswer, "206"),
        (201, {"count": 1, "results": [row(1)]}, UnpodBadAnswer, "unexpected"),
        (204, "", UnpodBadAnswer, "unexpected"),
        (304, "", UnpodBadAnswer, "redirect"),
        (
            200,
            {"status_code": 403, "message": "Token has expired.", "results": []},
            UnpodBadAnswer,
            "Token has expired.",
        ),
        (200, {"status_code": "500", "message": "Oops", "data": []}, UnpodBadAnswer, "Oops"),
        (200, {"status_code": 206, "message": "Error fetching", "data": []}, UnpodBadAnswer, "Error fetching"),
        (200, {"count": 0, "status_code": 200, "message": "nothing here"}, UnpodBadAnswer, "nothing here"),
        (200, {"results": None}, UnpodBadAnswer, "results"),
        (200, {"results": {"1": row(1)}}, UnpodBadAnswer, "results"),
        (
            200,
            {"results": [], "data": [row(1), row(2)]},
            UnpodBadAnswer,
            "different rows under `results` and `data` .0 and 2",
        ),
        (200, {"results": [row(1)], "data": []}, UnpodBadAnswer, "different rows under `results` and `data` .1 and 0"),
        (200, {"results": [row(1), None]}, UnpodBadAnswer, "null"),
        (200, {"results": [[1]]}, UnpodBadAnswer, "a list"),
        (200, {"results": [{"id": 1}]}, UnpodBadAnswer, "amount"),
        (200, {"count": "3", "results": []}, UnpodBadAnswer, "count"),
        (200, {"count": -1, "results": []}, UnpodBadAnswer, "count"),
        (200, {"count": True, "results": []}, UnpodBadAnswer, "count"),
        (200, [row(1)], UnpodBadAnswer, "a list"),
        (200, '"paid"', UnpodBadAnswer, "a string"),
        (200, "null", UnpodBadAnswer, "null"),
        (200, "<!DOCTYPE html><title>Login</title>", UnpodBadAnswer, "not JSON"),
    ],
)
def test_a_permanent_error_is_raised_at_once_as_its_own_type(
    server: FaultyServer, connect: Connect, status: int, body: object, error: type[UnpodError], said: str
) -> None:
    server.otherwise = answer(body, status)
    client = connect(server)
    with pytest.raises(error, match=said) as caught:
        client.get_page(1, 20)
    assert client.requests_made == len(server.requests) == 1
    assert (caught.value.status, caught.value.page) == (status, 1)
    assert caught.value.url == f"{server.url}/api/v2/platform/organisation/billing/?page=1&page_size=20"
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), str(copy)) == (type(caught.value), str(caught.value))


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (408, "", UnpodUnavailable),
        (429, {"error": {"code": "rate_limit_exceeded", "message": "slow down"}}, UnpodRateLimited),
        (500, {"message": "oops"}, UnpodUnavailable),
        (502, "<html>Bad Gateway</html>", UnpodUnavailable),
        (503, "", UnpodUnavailable),
        (599, "", UnpodUnavailable),
    ],
)
def test_a_transient_error_is_retried_and_finally_raised_as_its_own_type(
    server: FaultyServer, connect: Connect, status: int, body: object, error: type[UnpodError]
) -> None:
    server.otherwise = answer(body, status)
    client = connect(server, retry=RetryPolicy(attempts=4))
    with pytest.raises(error, match="4 tries") as caught:
        client.get_page(5, 20)
    assert client.requests_made == len(server.requests) == 4
    assert (caught.value.status, caught.value.page) == (status, 5)
    server.scripts = [answer(body, status), page([1])]
    assert len(client.get_page(5, 20).invoices) == 1


def test_the_same_rows_under_both_names_are_read_once(server: FaultyServer, connect: Connect) -> None:
    server.scripts = [answer({"count": 1, "results": [row(1)], "data": [row(1)]})]
    assert len(connect(server).get_page(1, 20).invoices) == 1


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("body", ["<html>One moment</html>", "", '{"cloudflare": true}', "[]", "denied"])
def test_a_firewall_that_refuses_the_request_is_not_unpod_refusing_the_token(
    server: FaultyServer, connect: Connect, status: int, body: str
) -> None:
    client = connect(server, retry=RetryPolicy(attempts=2))
    server.scripts = [answer(body, status)]
    assert client.get_page(1, 20).count == 1  # a challenge that passes
    server.otherwise = answer(body, status)
    with pytest.raises(
        UnpodBadAnswer, match=r"^Check Host \(`host`\), firewall and proxy: .* not Unpod's API"
    ) as caught:
        client.get_page(1, 20)
    assert not caught.value.permanent
    assert caught.value.status == status


def test_an_invalid_row_is_reported_with_its_page(server: FaultyServer, connect: Connect) -> None:
    server.otherwise = page(results=[row(1), row(2, amount="twelve")])
    with pytest.raises(UnpodBadAnswer, match="Invoice 2: `amount`") as caught:
        connect(server).get_page(4, 20)
    assert caught.value.page == 4
    assert "page=4" in str(caught.value.url)


def test_connections_are_kept_and_reused(server: FaultyServer, connect: Connect) -> None:
    server.scripts = [page(), answer({"message": "x"}, 500), answer({}, 404), page(), page()]
    client = connect(server)
    for number in (1, 2, 3, 4):
        client.get_page(number, 20)
    assert server.connections == 1


def test_a_connection_that_the_server_closed_meanwhile_costs_no_failure(server: FaultyServer, connect: Connect) -> None:
    client = connect(server)
    for _ in range(3):
        server.scripts = [[*page(), Close]]
        assert len(client.get_page(1, 20).invoices) == 1


def test_a_closed_client_opens_new_connections_when_it_is_used_again(server: FaultyServer, connect: Connect) -> None:
    client = connect(server)
    for _ in range(2):
        assert client.get_page(1, 20).count == 1
        client.close()
        client.close()
    assert client.requests_made == server.connections == 2


def test_the_client_shows_where_it_goes_and_nothing_secret(connect: Connect) -> None:
    client = connect("http://localhost:3001/")
    assert repr(client) == "UnpodClient('http://localhost:3001', org_handle='acme.tv')"
    assert (client.base_url, client.page_size, client.max_concurrency) == ("http://localhost:3001", 100, 4)
