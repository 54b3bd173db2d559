"""A running sandbox can be changed over HTTP and from Python."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import unquote, urlsplit

import pytest
import requests

from airflow_provider_unpod.sandbox import Sandbox
from airflow_provider_unpod.sandbox.ledger import UnknownInvoice

BILLING = "/api/v2/platform/organisation/billing/"
HEADERS = {"Authorization": "Token sandbox-token", "Org-Handle": "unpod.tv"}


def ask(sandbox, method, path, **arguments):
    with requests.Session() as session:
        session.trust_env = False
        response = session.request(method, f"{sandbox.url}{path}", timeout=10, **arguments)
    return response.status_code, response.json()


def listed(sandbox, handle="unpod.tv", key="id"):
    _, body = ask(sandbox, "GET", BILLING, params={"page_size": 100}, headers={**HEADERS, "Org-Handle": handle})
    return {row[key]: row for row in body[sandbox.settings.dialect]}


def test_an_invoice_is_created_changed_and_deleted_over_http():
    with Sandbox(invoices=3) as sandbox:
        status, made = ask(sandbox, "POST", "/sandbox/invoices", json={"amount": "49.00", "currency": "EUR"})
        assert (status, made["amount"], made["currency"], made["status"]) == (201, "49.00", "EUR", "pending")
        path = f"/sandbox/invoices/{made['id']}"
        for action, after in (("fail", "failed"), ("pay", "paid"), ("refund", "refunded"), ("cancel", "cancelled")):
            assert ask(sandbox, "POST", f"{path}/{action}")[1]["status"] == after
            assert listed(sandbox)[made["id"]]["status"] == after
        assert ask(sandbox, "GET", path) == (200, listed(sandbox)[made["id"]])
        assert ask(sandbox, "DELETE", path)[0] == 200
        assert made["id"] not in listed(sandbox)
        assert ask(sandbox, "GET", path)[0] == 404


def test_an_invoice_of_the_data_dialect_is_found_by_its_number():
    with Sandbox(invoices=3, dialect="data") as sandbox:
        status, paid = ask(sandbox, "POST", "/sandbox/invoices/INV-00101/pay")
        assert (status, paid["id"], paid["invoice_number"]) == (200, 101, "INV-00101")
        assert listed(sandbox, key="invoice_number")["INV-00101"]["payment_at"] is not None


def test_each_organization_has_its_own_invoices():
    with Sandbox(invoices=10, orgs=("unpod.tv", "acme")) as sandbox:
        before = listed(sandbox)
        assert ask(sandbox, "POST", "/sandbox/invoices/101/cancel", params={"org": "acme"})[0] == 200
        assert listed(sandbox, "acme")[101]["status"] == "cancelled"
        assert listed(sandbox) == before
        assert ask(sandbox, "POST", "/sandbox/invoices/101/pay", params={"org": "nobody"})[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/sandbox/invoices/999/pay", None, 404),
        ("DELETE", "/sandbox/invoices/nonsense", None, 404),
        ("POST", "/sandbox/invoices", '{"amount": 4.5}', 400),
        ("POST", "/sandbox/invoices", '{"amount": "4,5"}', 400),
        ("POST", "/sandbox/invoices", '{"amout": "4.50"}', 400),
        ("POST", "/sandbox/invoices", "{", 400),
        ("POST", "/sandbox/invoices", "[]", 400),
        ("PUT", "/sandbox/faults", "{}", 400),
        ("PUT", "/sandbox/faults", '{"faults": ["teapot"]}', 400),
    ],
)
def test_an_invalid_control_request_is_refused_with_a_reason_and_changes_nothing(method, path, body, status):
    with Sandbox(invoices=3) as sandbox:
        before = listed(sandbox)
        got, answer = ask(sandbox, method, path, data=body)
        assert (got, answer["status_code"], bool(answer["message"])) == (status, status, True)
        assert listed(sandbox) == before


def test_faults_are_set_listed_and_ended_over_http_and_do_not_hit_control_requests():
    with Sandbox(invoices=3) as sandbox:
        faults = {"faults": ["500:every=2", "429:retry_after=3"]}
        assert ask(sandbox, "PUT", "/sandbox/faults", json=faults) == (200, faults)
        assert ask(sandbox, "GET", "/sandbox/faults") == (200, faults)
        assert [ask(sandbox, "GET", BILLING, headers=HEADERS)[0] for _ in range(3)] == [429, 500, 429]
        assert ask(sandbox, "PUT", "/sandbox/faults", json={"faults": []}) == (200, {"faults": []})
        assert ask(sandbox, "GET", BILLING, headers=HEADERS)[0] == 200


def test_statistics_are_reset_over_http():
    with Sandbox(invoices=3) as sandbox:
        listed(sandbox)
        assert ask(sandbox, "GET", "/sandbox/stats")[1]["requests"] == 1
        assert ask(sandbox, "DELETE", "/sandbox/stats")[1]["requests"] == 0


def test_a_change_from_python_shows_in_the_next_response():
    with Sandbox(invoices=3) as sandbox:
        new = sandbox.create("5.000", "KWD", extra={"note": "by hand"})
        sandbox.pay(101)
        sandbox.fail(102)
        sandbox.refund(103)
        rows = listed(sandbox)
        assert [rows[i]["status"] for i in (101, 102, 103, new.id)] == ["paid", "failed", "refunded", "pending"]
        assert rows[new.id]["note"] == "by hand"
        sandbox.cancel(new.id)
        sandbox.delete(101)
        assert {i: row["status"] for i, row in listed(sandbox).items()} == {
            new.id: "cancelled",
            103: "refunded",
            102: "failed",
        }
        with pytest.raises(UnknownInvoice):
            sandbox.pay(101)


def test_many_threads_can_change_a_sandbox_while_it_is_read():
    with Sandbox(invoices=100, order="shuffled") as sandbox, ThreadPoolExecutor(6) as pool:
        reads = [pool.submit(listed, sandbox) for _ in range(20)]
        changes = [pool.submit(sandbox.create) for _ in range(50)] + [
            pool.submit(sandbox.delete, invoice_id) for invoice_id in range(101, 151)
        ]
        for future in reads + changes:
            future.result()
        assert len(sandbox.ledger) == 100
        assert sorted(listed(sandbox)) == sorted(sandbox.ledger.ids())


def test_the_connection_is_the_same_as_json_and_as_a_uri():
    with Sandbox(orgs=("a/b", "c"), token="t:@/") as sandbox:
        connection = json.loads(sandbox.connection_json())
        uri = urlsplit(sandbox.connection_uri())
        assert connection == {
            "conn_type": "unpod",
            "host": "http://127.0.0.1",
            "port": sandbox.port,
            "login": "a/b",
            "password": "t:@/",
        }
        assert (uri.scheme, uri.hostname, uri.port, uri.path) == ("unpod", "127.0.0.1", sandbox.port, "/http")
        assert (unquote(uri.username or ""), unquote(uri.password or "")) == ("a/b", "t:@/")
        assert json.loads(sandbox.connection_json("c"))["login"] == "c"


def test_stopping_frees_thread_and_port_without_waiting_for_slow_responses():
    with Sandbox(invoices=3, faults=["delay:seconds=60"]) as sandbox, ThreadPoolExecutor(1) as pool:
        pending = pool.submit(listed, sandbox)
        while not sandbox.stats["in_flight"]:
            assert not pending.done()
        start = time.monotonic()
        sandbox.__exit__(None, None, None)
        assert time.monotonic() - start < 2
        with pytest.raises(requests.exceptions.RequestException):
            pending.result(timeout=5)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("unpod-sandbox")]
    with pytest.raises(requests.exceptions.ConnectionError):
        listed(sandbox)


def test_a_restarted_sandbox_keeps_its_port_and_invoices():
    sandbox = Sandbox(invoices=3)
    with sandbox:
        port, new = sandbox.port, sandbox.create()
    with sandbox:
        assert sandbox.port == port
        assert new.id in listed(sandbox)


def test_a_sandbox_can_be_restarted_in_quick_succession():
    sandbox = Sandbox(invoices=3)
    for _ in range(20):
        with sandbox:
            assert sandbox.port
    with sandbox:
        assert len(listed(sandbox)) == 3


def test_entering_a_sandbox_on_a_port_in_use_raises():
    with Sandbox() as sandbox, pytest.raises(OSError, match="in use"), Sandbox(port=sandbox.port):
        pass
