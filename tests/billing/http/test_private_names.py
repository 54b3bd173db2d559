"""The transport overrides private names of urllib3, requests and the standard library.

These tests fail if a release renames one of them, before the deadline of a task stops working.
"""

from __future__ import annotations

import http.client
import inspect
from importlib.metadata import version

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import PoolManager
from urllib3.response import HTTPResponse

from airflow_provider_unpod.billing.http import transport
from airflow_provider_unpod.billing.http.cancellation import Cancellation
from tests.billing.faulty_server import FaultyServer, page


def test_connections_are_still_opened_by_the_method_that_is_overridden() -> None:
    for connect in (HTTPConnection.connect, HTTPSConnection.connect):
        assert "self._new_conn()" in inspect.getsource(connect)
        assert "self._tunnel()" in inspect.getsource(connect)
    assert "_dns_host" in inspect.getsource(inspect.getattr_static(HTTPConnection, "host").fset)
    assert "socket_options" in inspect.signature(HTTPConnection.__init__).parameters


def test_responses_are_still_read_through_the_attribute_that_is_replaced() -> None:
    assert "self.fp = sock.makefile" in inspect.getsource(http.client.HTTPResponse.__init__)
    assert "self.response_class(" in inspect.getsource(http.client.HTTPConnection.getresponse)
    assert "getresponse" in vars(HTTPConnection)  # it calls super()
    for method in ("read", "close", "release_conn"):
        assert callable(getattr(HTTPResponse, method))


def test_pools_and_adapters_still_have_the_hooks_that_are_used() -> None:
    assert HTTPConnectionPool.ConnectionCls is HTTPConnection
    assert HTTPSConnectionPool.ConnectionCls is HTTPSConnection
    assert PoolManager().pool_classes_by_scheme.keys() == {"http", "https"}
    sends = inspect.getsource(HTTPAdapter.send)
    assert "self.get_connection_with_tls_context(" in sends or "self.get_connection(" in sends
    for method in ("init_poolmanager", "proxy_manager_for", "close"):
        assert callable(getattr(HTTPAdapter, method))
    assert "Tunnel connection failed: {" in inspect.getsource(vars(http.client.HTTPConnection)["_tunnel"])


def test_every_override_is_reached_by_a_request(server: FaultyServer) -> None:
    """Without the overrides, a request would have no deadline and could not be cancelled."""
    server.otherwise = page()
    client = transport.Transport(server.url, {}, timeout=5, verify=True, proxies=None, allow_insecure_http=False)
    seen: list[object] = []

    class Watching(Cancellation):
        def check(self) -> None:
            flight = transport._current.flight
            if flight is not None:
                seen.append(flight._socket)
            super().check()

    client.send(f"{server.url}/", Watching())
    (connection,) = [each for each in client._adapter._pool.pool.queue if each is not None]
    assert isinstance(connection, transport._TimedConnection)
    assert connection.response_class is transport._TimedResponse
    assert seen
    client.close()


def test_urllib3_has_the_tested_major_version() -> None:
    assert version("urllib3").startswith("2.")
