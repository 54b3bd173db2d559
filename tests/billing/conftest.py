"""Fixtures: a faulty server, clients for it, and a clock that skips waits."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_unpod.billing.client import UnpodClient
from airflow_provider_unpod.billing.http.rate_limit import Clock, Pacing
from tests.billing.faulty_server import TOKEN, FaultyServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class FastClock(Clock):
    """The real clock, except that waits end immediately. ``waits`` has the skipped seconds."""

    def __init__(self) -> None:
        self.skipped = 0.0
        self.waits: list[float] = []
        self._lock = threading.Lock()

    def monotonic(self) -> float:
        return time.monotonic() + self.skipped

    def time(self) -> float:
        return time.time() + self.skipped

    def wait(self, condition: threading.Condition, seconds: float | None) -> None:
        if seconds is None:
            condition.wait(10)
            return
        until = self.monotonic() + seconds
        # Long enough for answers in flight to arrive: they may end the wait.
        if not condition.wait(min(seconds, 0.01)):
            with self._lock:
                left = until - self.monotonic()
                if left > 0:
                    self.skipped += left
                    self.waits.append(seconds)


@pytest.fixture
def clock() -> FastClock:
    return FastClock()


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        yield running


@pytest.fixture
def connect(clock: FastClock) -> Iterator[Callable[..., UnpodClient]]:
    """Returns a function that creates clients without real waits: ``connect(server, timeout=1)``."""
    with ExitStack() as stack:

        def make(server: FaultyServer | str, **options: Any) -> UnpodClient:
            url = server if isinstance(server, str) else server.url
            client = UnpodClient(url, options.pop("token", TOKEN), options.pop("org_handle", "acme.tv"), **options)
            client._pacing = Pacing(clock)
            return stack.enter_context(client)

        yield make


@pytest.fixture(autouse=True)
def _no_proxies_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "requests_ca_bundle", "curl_ca_bundle"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
