"""A failed request is retried, and always ends before its deadline."""

from __future__ import annotations

import gzip
import socket
import time
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_unpod.billing.client import UnpodClient
from airflow_provider_unpod.billing.errors import UnpodBadAnswer, UnpodError, UnpodUnavailable, UnpodUnreachable
from airflow_provider_unpod.billing.http.rate_limit import Pacing
from airflow_provider_unpod.billing.http.retry import RetryPolicy
from tests.billing.conftest import FastClock
from tests.billing.faulty_server import TOKEN, Close, Drip, FaultyServer, Hang, Reset, Script, answer, page, row
from tests.properties import examples

Connect = Callable[..., UnpodClient]

GOOD = page([1, 2, 3])
WIRE = b"".join(step for step in GOOD if isinstance(step, bytes))
HEAD, BODY = WIRE[: WIRE.index(b"\r\n\r\n") + 4], WIRE[WIRE.index(b"\r\n\r\n") + 4 :]
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
UNFRAMED = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
PACKED = gzip.compress(BODY)
MEMBERS = gzip.compress(BODY[:50]) + gzip.compress(BODY[50:]) + bytes(7)

#: Faults that may pass: each is retried.
TRANSIENT: dict[str, Script] = {
    "reset at once": [Reset],
    "closed without an answer": [Close],
    "reset inside the headers": [HEAD[:20], Reset],
    "closed inside the headers": [HEAD[:20], Close],
    "reset inside the body": [HEAD + BODY[:40], Reset],
    "content length not reached": [HEAD + BODY[:40], Close],
    "body missing": [HEAD, Close],
    "chunk cut": [CHUNKED + b"%x\r\n" % len(BODY) + BODY[:40], Close],
    "last chunk missing": [CHUNKED + b"%x\r\n" % len(BODY) + BODY + b"\r\n", Close],
    "chunk size is invalid": [CHUNKED + b"zz\r\n" + BODY, Close],
    "unframed body cut": [UNFRAMED + BODY[:-10], Close],
    "whole answer of half a document": answer(BODY[:-10]),
    "empty 200": answer(b""),
    "half a character at the end": answer('{"message": "ü'.encode()[:-1]),
    "gzip cut": answer(PACKED[:-12], headers={"Content-Encoding": "gzip"}),
    "gzip without its checksum": answer(PACKED[:-8], headers={"Content-Encoding": "gzip"}),
    "gzip whose second member is cut": answer(MEMBERS[:-20], headers={"Content-Encoding": "gzip"}),
    "gzip broken": answer(PACKED[:30] + b"\x00\xff" + PACKED[32:], headers={"Content-Encoding": "gzip"}),
    "gzip that is not gzip": answer(BODY, headers={"Content-Encoding": "gzip"}),
    "garbage instead of a status line": [b"\x00\x01\x02 garbage\r\n\r\n", Close],
    "a header line without end": [b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000, Close],
    "500": answer({"message": "oops"}, 500),
    "500 whose body is cut": [b"HTTP/1.1 500 X\r\nContent-Length: 99\r\n\r\nx", Close],
    "502 with HTML": answer("<html><h1>502 Bad Gateway</h1></html>", 502),
    "503": answer("", 503),
    "429": answer({"error": {"code": "rate_limit_exceeded", "message": "slow"}}, 429),
    "503 with a time": answer("", 503, {"Retry-After": "7"}),
    "408": answer("", 408),
}
PERMANENT: dict[str, Script] = {
    "400": answer({"message": "no"}, 400),
    "401": answer({"message": "no"}, 401),
    "403": answer({"message": "no"}, 403),
    "404": answer({"message": "no"}, 404),
    "206": answer({"message": "no"}, 206),
    "302": answer("", 302, {"Location": "https://elsewhere.example/"}),
    "HTML": answer("<html>"),
    "no rows": answer({"message": "no"}),
}


@pytest.mark.parametrize("fault", TRANSIENT)
def test_a_transient_fault_is_retried(server: FaultyServer, connect: Connect, fault: str) -> None:
    server.scripts = [TRANSIENT[fault], GOOD]
    client = connect(server)
    assert [invoice.invoice_id for invoice in client.get_page(1, 100).invoices] == [1, 2, 3]
    assert client.requests_made == 2


@pytest.mark.parametrize("fault", TRANSIENT)
def test_a_persistent_fault_becomes_an_error_after_the_last_try(
    server: FaultyServer, connect: Connect, fault: str
) -> None:
    server.otherwise = TRANSIENT[fault]
    client = connect(server, retry=RetryPolicy(attempts=3))
    with pytest.raises(UnpodError, match="gave up after 3 tries") as caught:
        client.get_page(1, 100)
    assert not caught.value.permanent
    assert client.requests_made == 3
    assert TOKEN not in repr(caught.value.__cause__)


def test_a_refused_connection_is_unavailable_with_its_cause(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = connect(f"http://127.0.0.1:{port}", retry=RetryPolicy(attempts=2))
    with pytest.raises(UnpodUnavailable, match=r"127\.0\.0\.1:\d+ refuses connections") as caught:
        client.get_page(1, 100)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    assert caught.value.status is None


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".example"])
def test_an_unknown_host_is_unreachable_after_a_few_tries_because_dns_recovers(connect: Connect, host: str) -> None:
    client = connect(f"https://{host}", retry=RetryPolicy(attempts=2))
    with pytest.raises(UnpodUnreachable, match=f"unknown host {host}; gave up after 2 tries") as caught:
        client.get_page(1, 100)
    assert isinstance(caught.value.__cause__, socket.gaierror)
    assert not caught.value.permanent


SLOW: dict[str, Script] = {
    "no answer": [Hang],
    "stops inside the headers": [HEAD[:20], Hang],
    "stops before the body": [HEAD, Hang],
    "stops inside the body": [HEAD + BODY[:40], Hang],
    "drips from the first byte": [Drip(WIRE, 0.05)],
    "drips the body": [HEAD, Drip(BODY, 0.05)],
    "drips chunks": [CHUNKED, Drip(b"1\r\n{\r\n" * 50, 0.05)],
    "drips an unframed body": [UNFRAMED, Drip(BODY, 0.05)],
    "drips headers": [b"HTTP/1.1 200 OK\r\n", Drip(b"X: y\r\n" * 90, 0.03)],
    "drips interim answers": [Drip(b"HTTP/1.1 100 Continue\r\n\r\n" * 90, 0.03)],
    "drips the body of an error": [b"HTTP/1.1 500 X\r\nContent-Length: 9999\r\n\r\n", Drip(b"x" * 9999, 0.05)],
}


@pytest.mark.parametrize("how", SLOW)
def test_the_timeout_is_the_deadline_of_the_whole_request(server: FaultyServer, connect: Connect, how: str) -> None:
    server.otherwise = SLOW[how]
    client = connect(server, timeout=0.3, retry=RetryPolicy(attempts=1))
    began = time.monotonic()
    with pytest.raises(UnpodUnavailable, match=r"within `timeout` = 0\.3 s") as caught:
        client.get_page(1, 100)
    assert 0.2 < time.monotonic() - began < 2
    assert isinstance(caught.value.__cause__, TimeoutError)


def test_the_deadline_holds_for_a_server_that_never_accepts(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        fillers = []
        for _ in range(4):  # a full queue: the next connection gets no answer at all
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        client = connect(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=0.3, retry=RetryPolicy(attempts=1))
        began = time.monotonic()
        with pytest.raises(UnpodUnavailable, match=r"within `timeout` = 0\.3 s"):
            client.get_page(1, 100)
        assert time.monotonic() - began < 2
        for filler in fillers:
            filler.close()


def test_a_slow_response_that_is_complete_in_time_is_read(server: FaultyServer, connect: Connect) -> None:
    server.otherwise = [Drip(WIRE[:30], 0.005), WIRE[30:-20], Drip(WIRE[-20:], 0.005)]
    assert len(connect(server, timeout=5, retry=RetryPolicy(attempts=1)).get_page(1, 100).invoices) == 3


def test_the_deadline_of_one_request_is_not_that_of_the_next_on_the_same_connection(
    server: FaultyServer, connect: Connect
) -> None:
    server.otherwise = [Drip(WIRE[:30], 0.012), WIRE[30:]]
    client = connect(server, timeout=1.2, retry=RetryPolicy(attempts=1))
    for _ in range(4):
        client.get_page(1, 100)
    assert server.connections == 1


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", PACKED),
        ("GZIP", PACKED),
        ("x-gzip", PACKED),
        ("deflate", zlib.compress(BODY)),
        ("gzip", MEMBERS),
        ("gzip, gzip", gzip.compress(PACKED)),
        ("UTF-8, gzip", PACKED),
        ("identity", BODY),
        ("UTF-8", BODY),
        ("aws-chunked", BODY),
    ],
)
def test_bodies_in_any_encoding_that_servers_send_are_read(
    server: FaultyServer, connect: Connect, encoding: str, body: bytes
) -> None:
    server.scripts = [answer(body, headers={"Content-Encoding": encoding})]
    client = connect(server)
    assert len(client.get_page(1, 100).invoices) == 3
    assert client.requests_made == 1


def test_chunked_responses_are_read(server: FaultyServer, connect: Connect) -> None:
    pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY)
    server.otherwise = [CHUNKED + pieces + b"0\r\n\r\n"]
    client = connect(server)
    for _ in range(3):
        assert len(client.get_page(1, 100).invoices) == 3
    assert server.connections == 1


def test_a_gzip_bomb_is_refused_without_unpacking_it(server: FaultyServer, connect: Connect) -> None:
    packer = zlib.compressobj(1, wbits=31)
    block = bytes(1_000_000)
    bomb = b"".join(packer.compress(block) for _ in range(150)) + packer.flush()
    assert len(bomb) < 1_000_000
    server.otherwise = answer(bomb, headers={"Content-Encoding": "gzip"})
    client = connect(server)
    tracemalloc.start()
    with pytest.raises(UnpodBadAnswer, match="MiB"):
        client.get_page(1, 100)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 80 * 1024 * 1024
    assert client.requests_made == 1


@pytest.mark.parametrize("framing", ["declared", "endless"])
def test_a_response_larger_than_any_page_is_refused(server: FaultyServer, connect: Connect, framing: str) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n" if framing == "declared" else UNFRAMED
    server.otherwise = [head, *[b" " * 1_000_000] * 40, Hang]
    with pytest.raises(UnpodBadAnswer, match="MiB"):
        connect(server, timeout=20).get_page(1, 100)


def test_a_body_of_ten_megabytes_is_read(server: FaultyServer, connect: Connect) -> None:
    server.otherwise = page(results=[row(1, note="x" * 10_000_000)])
    assert connect(server).get_page(1, 100).invoices[0].invoice_id == 1


@pytest.mark.parametrize("fault", PERMANENT)
def test_a_permanent_error_is_not_retried_even_after_transient_ones(
    server: FaultyServer, connect: Connect, fault: str
) -> None:
    server.scripts = [TRANSIENT["500"], TRANSIENT["reset at once"], PERMANENT[fault]]
    client = connect(server)
    with pytest.raises(UnpodError):
        client.get_page(1, 100)
    assert client.requests_made == 3


@settings(max_examples=examples(30), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    faults=st.lists(st.sampled_from(sorted(TRANSIENT)), max_size=7), then=st.sampled_from(["good", *sorted(PERMANENT)])
)
def test_any_sequence_of_transient_faults_within_the_budget_ends_as_its_last_response_does(
    faults: list[str], then: str
) -> None:
    with FaultyServer([*(TRANSIENT[fault] for fault in faults), PERMANENT.get(then, GOOD)]) as server:
        server.otherwise = PERMANENT["401"]  # must never be asked for
        with UnpodClient(server.url, TOKEN, "acme", timeout=5) as client:
            client._pacing = Pacing(FastClock())
            if then == "good":
                assert [invoice.invoice_id for invoice in client.get_page(1, 100).invoices] == [1, 2, 3]
            else:
                with pytest.raises(UnpodError) as caught:
                    client.get_page(1, 100)
                assert caught.value.status is not None
            assert client.requests_made == len(server.requests) == len(faults) + 1


def test_a_programming_error_below_the_client_is_not_an_outage(
    server: FaultyServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (
        AttributeError("'NoneType' object has no attribute 'x'"),
        ValueError("not enough values"),
        KeyError(),
    ):

        def fail(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr("airflow_provider_unpod.billing.http.transport._body", fail)
        client = connect(server)
        with pytest.raises(type(error)):
            client.get_page(1, 100)
        assert client.requests_made == 1
        assert client._pacing._in_flight == 0
