"""A cancelled read ends immediately at any stage, and leaves no threads or sockets behind."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import trustme

from airflow_provider_unpod.billing.client import UnpodClient
from airflow_provider_unpod.billing.errors import UnpodError
from airflow_provider_unpod.billing.http.cancellation import Cancellation, Cancelled
from airflow_provider_unpod.billing.http.rate_limit import Clock, Pacing
from airflow_provider_unpod.billing.http.retry import RetryPolicy
from tests.billing.faulty_server import TOKEN, Drip, FaultyServer, Hang, answer, page
from tests.billing.http.test_retry import BODY, HEAD, SLOW

Connect = Callable[..., UnpodClient]
PATIENT = RetryPolicy(first_wait=500, max_wait=500, max_total_wait=500)


class Reader(threading.Thread):
    """A request in a separate thread, and its outcome."""

    def __init__(self, client: UnpodClient, cancellation: Cancellation, number: int = 1) -> None:
        super().__init__(daemon=True)
        self.client, self.cancellation, self.number = client, cancellation, number
        self.ended_with: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.client.get_page(self.number, 100, self.cancellation)
        except BaseException as err:
            self.ended_with = err

    def ends_cancelled_at_once(self) -> None:
        began = time.monotonic()
        self.cancellation.cancel()
        self.join(5)
        assert time.monotonic() - began < 1
        assert isinstance(self.ended_with, Cancelled)


@pytest.fixture
def patient() -> Iterator[Callable[..., UnpodClient]]:
    """Clients with real, long waits."""
    clients: list[UnpodClient] = []

    def make(url: str, **options: object) -> UnpodClient:
        clients.append(UnpodClient(url, TOKEN, "acme", timeout=60, retry=PATIENT, **options))  # type: ignore[arg-type]
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def wait_until(condition: Callable[[], object]) -> None:
    ticker, deadline = threading.Event(), time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        ticker.wait(0.002)


@pytest.mark.parametrize("how", SLOW)
def test_a_request_in_flight_is_cut(server: FaultyServer, patient: Callable[..., UnpodClient], how: str) -> None:
    server.otherwise = SLOW[how]
    reader = Reader(patient(server.url), Cancellation())
    wait_until(lambda: server.requests)
    reader.ends_cancelled_at_once()


def test_a_request_on_a_kept_connection_is_cut(server: FaultyServer, patient: Callable[..., UnpodClient]) -> None:
    server.scripts = [page(), [HEAD + BODY[:30], Hang]]
    client = patient(server.url)
    client.get_page(1, 100)
    reader = Reader(client, Cancellation())
    wait_until(lambda: len(server.requests) == 2)
    reader.ends_cancelled_at_once()
    assert server.connections == 1


@pytest.mark.parametrize("kept", [False, True])
def test_a_request_over_tls_is_cut(patient: Callable[..., UnpodClient], tmp_path: object, kept: bool) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with authority.cert_pem.tempfile() as ca_file, FaultyServer([page()] if kept else [], tls=context) as server:
        server.otherwise = [Drip(HEAD + BODY, 0.2)]
        client = patient(server.url, verify=ca_file)
        if kept:
            client.get_page(1, 100)
        reader = Reader(client, Cancellation())
        wait_until(lambda: len(server.requests) == 1 + kept)
        reader.ends_cancelled_at_once()


def test_a_tls_handshake_is_cut(patient: Callable[..., UnpodClient]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        reader = Reader(patient(f"https://127.0.0.1:{listener.getsockname()[1]}"), Cancellation())
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.recv(1)  # the client has said hello and waits
            reader.ends_cancelled_at_once()


def test_a_connection_attempt_is_cut(patient: Callable[..., UnpodClient]) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        cancellation = Cancellation()
        reader = Reader(patient(f"http://127.0.0.1:{listener.getsockname()[1]}"), cancellation)
        wait_until(lambda: cancellation._actions)
        reader.ends_cancelled_at_once()
        for filler in fillers:
            filler.close()


def test_a_wait_between_two_tries_ends(server: FaultyServer, patient: Callable[..., UnpodClient]) -> None:
    server.otherwise = answer("", 429, {"Retry-After": "400"})
    client = patient(server.url)
    reader = Reader(client, Cancellation())
    wait_until(lambda: client._pacing._announced_until > 0)
    reader.ends_cancelled_at_once()


def test_a_wait_for_the_next_window_ends(server: FaultyServer, patient: Callable[..., UnpodClient]) -> None:
    reset = str(int(time.time()) + 100)
    server.otherwise = page(headers={"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset})
    client = patient(server.url)
    client.get_page(1, 100)
    readers = [Reader(client, Cancellation(), number) for number in (2, 3, 4)]
    wait_until(lambda: client._pacing._announced_until > 0)
    for reader in readers:
        reader.ends_cancelled_at_once()


def test_a_cancellation_just_before_a_wait_is_not_lost() -> None:
    cancellation = Cancellation()

    class CancelledOnTheWay(Pacing):
        def _hold(self) -> float | None:
            cancellation._cancelled = True  # as if cancelled by another thread before the wait began
            return super()._hold()

    class Waits(Clock):
        def wait(self, condition: threading.Condition, seconds: float | None) -> None:
            raise AssertionError("waits although it is cancelled")

    pacing = CancelledOnTheWay(Waits())
    pacing.pause(60)
    with pytest.raises(Cancelled):
        pacing.enter(cancellation, 100)


def test_a_cancelled_read_sends_no_more_requests(server: FaultyServer, connect: Connect) -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    cancellation.cancel()
    client = connect(server)
    with pytest.raises(Cancelled):
        client.get_page(1, 100, cancellation)
    assert cancellation.cancelled
    assert not server.requests


def test_other_reads_of_the_same_client_continue(server: FaultyServer, connect: Connect) -> None:
    release = threading.Event()

    def slow(_: object) -> list[bytes]:
        release.wait(10)
        return page()  # type: ignore[return-value]  # only bytes in it

    server.scripts = [slow, slow]
    client = connect(server)
    one, other = Reader(client, Cancellation()), Reader(client, Cancellation())
    wait_until(lambda: len(server.requests) == 2)
    one.ends_cancelled_at_once()
    release.set()
    other.join(5)
    assert other.ended_with is None


def test_the_client_still_works_after_a_cancelled_read(server: FaultyServer, connect: Connect) -> None:
    client = connect(server)

    def cancel_one() -> None:
        server.scripts = [[HEAD, Hang]]
        seen = len(server.requests)
        reader = Reader(client, Cancellation())
        wait_until(lambda: len(server.requests) > seen)
        reader.ends_cancelled_at_once()

    for _ in range(3):
        cancel_one()
        assert client.get_page(1, 100).count == 1
    assert client._pacing._in_flight == 0


def test_sixty_four_requests_in_flight_end_together_and_no_socket_stays_open(
    server: FaultyServer, patient: Callable[..., UnpodClient]
) -> None:
    server.otherwise = [HEAD, Hang]
    cancellation = Cancellation()
    readers = [Reader(patient(server.url), cancellation, number) for number in range(64)]
    wait_until(lambda: len(server.requests) == 64)
    began = time.monotonic()
    cancellation.cancel()
    for reader in readers:
        reader.join(5)
        assert isinstance(reader.ended_with, Cancelled)
    assert time.monotonic() - began < 3
    wait_until(lambda: not server._open)


def test_a_cancellation_at_any_time_leads_to_the_page_or_to_cancelled(server: FaultyServer) -> None:
    """A cancellation at any time raises no other error, and later requests still work."""
    with UnpodClient(server.url, TOKEN, "acme", timeout=10) as client:
        client._pacing = Pacing()
        outcomes = set()
        for turn in range(300):
            cancellation = Cancellation()
            timer = threading.Timer(turn * 0.00001, cancellation.cancel)
            timer.start()
            try:
                assert len(client.get_page(1, 100, cancellation).invoices) == 1
                outcomes.add("page")
            except Cancelled:
                outcomes.add("cancelled")
            except UnpodError as err:
                pytest.fail(f"{err!r}")
            timer.join()
            assert not cancellation._actions
        assert client.get_page(1, 100).count == 1
        assert outcomes == {"page", "cancelled"}
