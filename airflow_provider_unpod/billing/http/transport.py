"""One HTTP exchange: a request goes out, and a whole response comes back before the deadline, or a fault says why not.

``requests`` bounds each wait for the network, not their sum: a server that sends one byte every few seconds holds a
task for ever. So the connections made here read through :class:`_TimedReader`, which allows each read what is left
of the whole request's time. The same place knows which socket a request is using, which lets another thread cut it.
"""

from __future__ import annotations

import copy
import http.client
import io
import socket
import ssl
import threading
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import DecodeError, HTTPError

from airflow_provider_unpod.billing.errors import UnpodConfigError
from airflow_provider_unpod.billing.http import settings
from airflow_provider_unpod.billing.http.base_url import is_loopback
from airflow_provider_unpod.billing.http.faults import Route, TransportFault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from urllib3.poolmanager import PoolManager

    from airflow_provider_unpod.billing.http.cancellation import Cancellation

#: Far above any page (100 invoices are some 30 KB), far below what hurts a worker. Counted after decompression.
MAX_BODY = 32 * 1024 * 1024
_OVERSIZED = "Check Host (`host`): its response is larger than 32 MiB, as no page of Unpod is."
_BLOCK = 1024 * 1024
_READ_BUFFER = 64 * 1024
_COMPRESSIONS = ("gzip", "x-gzip", "deflate")
#: Longest handshake that finds out what a server speaks. Short, because a cancelled reading waits for it.
_PROBE_SECONDS = 0.8


class OversizedResponse(Exception):
    """The response is larger than any page can be."""


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response, decompressed."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


#: Errors while a response is on its way.
_FAULTS = (requests.RequestException, HTTPError, http.client.HTTPException, OSError, zlib.error, OversizedResponse)
#: Further errors of the libraries when their socket is cut. Without a cut these are programming errors.
_FAULTS_OF_A_CUT = (ValueError, AttributeError)


class Transport:
    """Sends GET requests with fixed headers to one address. Thread-safe; connections are kept open and shared."""

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        *,
        timeout: float,
        verify: bool | str,
        proxies: Mapping[str, str] | None,
        allow_insecure_http: bool,
    ) -> None:
        self._timeout = timeout
        # Prepared without a Session: that would let a netrc entry replace the Authorization header.
        self._template = requests.PreparedRequest()
        self._template.prepare(method="GET", url=base_url, headers=dict(headers))
        with requests.Session() as session:
            environment = session.merge_environment_settings(base_url, {}, True, verify, None)
        self._verify: Any = environment["verify"]
        self._proxies = _proxies(base_url, proxies, dict(environment["proxies"]), allow_insecure_http)
        self._route = self._describe_route(base_url, verify, proxies)
        self._adapter = _OneHostAdapter()
        self._plain_http = base_url.startswith("http://")
        self._spoke_http = False

    @property
    def proxy_passwords(self) -> tuple[str, ...]:
        """As they stand in a URL and as they are meant; of the connection's proxy or the environment's."""
        return tuple(each for url in self._proxies.values() for each in settings.proxy_passwords(url))

    def send(self, url: str, cancellation: Cancellation | None) -> Response:
        """The response to GET ``url``, an address below the base URL. Redirects are returned, not followed.

        :raises TransportFault: if no whole response came before the deadline.
        :raises OversizedResponse: if it is larger than ``MAX_BODY``.
        :raises Cancelled: if ``cancellation`` is or gets cancelled.
        """
        request = copy.copy(self._template)
        request.url = url
        flight = _Flight(time.monotonic() + self._timeout, cancellation)
        if cancellation is None:
            outcome = self._exchange(request, flight)
        else:
            with cancellation.calling(flight.cut):
                outcome = self._exchange(request, flight)
            cancellation.check()
        if isinstance(outcome, Response):
            self._spoke_http = True
            return outcome
        # Raised here, where no handler is active: a handled error would be chained, request and token included.
        if isinstance(outcome, OversizedResponse):
            raise OversizedResponse(str(outcome))
        fault = self._route.explain(outcome, flight.stage)
        if self._may_want_tls(fault) and self._speaks_tls():
            raise self._route.wants_tls(fault.cause)
        raise fault

    def close(self) -> None:
        self._adapter.close()

    def _describe_route(self, base_url: str, verify: bool | str, proxies: Mapping[str, str] | None) -> Route:
        proxy = next(iter(self._proxies.values()), None)
        own_proxy = proxy is not None and proxy in (proxies or {}).values()
        ca_path = self._verify if isinstance(self._verify, str) and base_url.startswith("https") else None
        return Route(
            server=_address_of(base_url),
            timeout=self._timeout,
            proxy=None if proxy is None else _address_of(proxy),
            proxy_setting="Proxies (`proxies`)" if own_proxy else "HTTP(S)_PROXY in the environment",
            ca_path=ca_path,
            ca_setting="Verify TLS (`verify`)" if ca_path == verify else "REQUESTS_CA_BUNDLE in the environment",
        )

    def _may_want_tls(self, fault: TransportFault) -> bool:
        """Whether a server that never sent a response closed the connection, as TLS servers do that get plain http."""
        closed = isinstance(fault.cause, (ConnectionResetError, http.client.RemoteDisconnected))
        return closed and not self._spoke_http and not self._proxies and self._plain_http

    def _speaks_tls(self) -> bool:
        """Try a TLS handshake with the server. Nothing is sent over it, so its certificate does not matter."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        host, _, port = self._route.server.rpartition(":")
        address = host.strip("[]"), int(port)
        try:
            with (
                socket.create_connection(address, _PROBE_SECONDS) as sock,
                context.wrap_socket(sock, server_hostname=address[0]),
            ):
                return True
        except OSError:
            return False

    def _exchange(self, request: requests.PreparedRequest, flight: _Flight) -> Response | Exception:
        """The response, or the error that came instead of it."""
        _current.flight = flight
        try:
            response = self._adapter.send(
                request, stream=True, timeout=self._timeout, verify=self._verify, proxies=self._proxies
            )
            try:
                return Response(response.status_code, response.reason or "", response.headers, _body(response.raw))
            except BaseException:
                # The rest of the response is still on its way: this connection cannot serve another request.
                response.raw.close()
                raise
            finally:
                response.raw.release_conn()
        except _FAULTS as err:
            return err
        except _FAULTS_OF_A_CUT as err:
            if not flight.is_cut:
                raise
            return err
        finally:
            _current.flight = None
            flight.land()


def _body(raw: Any) -> bytes:
    """The whole body of a response, decompressed; bounded, whatever its headers say.

    Not left to urllib3: releases of it that Airflow still allows decompress a bomb in one go, and none of them
    notices that a compressed body ends too early.
    """
    blocks, size = [], 0
    while block := raw.read(_BLOCK, decode_content=False):
        size += len(block)
        if size > MAX_BODY:
            raise OversizedResponse(_OVERSIZED)
        blocks.append(block)
    body = blocks[0] if len(blocks) == 1 else b"".join(blocks)
    # Several codings are undone last to first. Names of what is not a compression (UTF-8, identity) are ignored: a body
    # that is compressed in another way is not JSON, and refused as such.
    for coding in reversed((raw.headers.get("Content-Encoding") or "").lower().split(",")):
        if coding.strip() in _COMPRESSIONS and body:
            body = _decompressed(body)
    return body


def _decompressed(body: bytes) -> bytes:
    """A body of gzip, which may have several members (RFC 1952), or of zlib."""
    members, size = [], 0
    while body:
        # 32 + 15: gzip or zlib, by its header.
        decompressor = zlib.decompressobj(47)
        members.append(decompressor.decompress(body, MAX_BODY + 1 - size))
        size += len(members[-1])
        if size > MAX_BODY:
            raise OversizedResponse(_OVERSIZED)
        if not decompressor.eof:
            raise DecodeError("the compressed response ends too early")
        body = decompressor.unused_data.lstrip(b"\0")  # members may be padded
    return b"".join(members)


def _address_of(url: str) -> str:
    """Host and port of a URL, without the credentials that a proxy's may hold."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    host = parts.hostname or ""
    return f"{f'[{host}]' if ':' in host else host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def _proxies(
    base_url: str, given: Mapping[str, str] | None, environment: dict[str, str], allow_insecure_http: bool
) -> dict[str, str]:
    """The proxies to use: the connection's own before those of the environment.

    A request over plain http to this very machine is allowed because it leaves no network interface. Through a proxy
    elsewhere it would, readable on the whole way, so it goes there only with ``allow_insecure_http``.
    """
    own = dict(given or {})
    chosen = {**environment, **own}
    proxy = select_proxy(base_url, chosen)
    if proxy is None:
        return {}
    settings.proxy_url(proxy)
    if base_url.startswith("http://") and not allow_insecure_http:
        host = urlsplit(proxy if "://" in proxy else f"http://{proxy}").hostname
        if not is_loopback(host):
            if select_proxy(base_url, own) is not None:
                raise UnpodConfigError(
                    "The connection's extra `proxies` would carry the API token over plain http: use an https "
                    "address in `host`, or set `allow_insecure_http`."
                )
            return {}
    return {base_url.partition(":")[0]: proxy}


class _Flight:
    """One request in flight, with the deadline that bounds it and the socket that is cut to stop it."""

    __slots__ = ("_cancellation", "_own", "_socket", "deadline", "is_cut", "stage")

    def __init__(self, deadline: float, cancellation: Cancellation | None) -> None:
        self.deadline = deadline
        self._cancellation = cancellation
        self._socket: Any = None
        self._own: socket.socket | None = None
        self.is_cut = False
        #: How far the request has come, see :meth:`Route.explain`.
        self.stage = "exchange"

    def remaining(self) -> float:
        """Seconds left, never zero: that would mean "non-blocking" to a socket.

        :raises TimeoutError: if there are none.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left

    def watch(self, sock: Any) -> None:
        """``sock`` is what the request waits for from now on."""
        self._socket = sock
        if self._cancellation is not None:
            self._cancellation.check()

    def watch_copy(self, sock: socket.socket) -> None:
        """As :meth:`watch`, for a new connection: a TLS handshake takes the socket object away, not its copy."""
        self._own = sock.dup()
        self.watch(self._own)

    def cut(self) -> None:
        """End the connection under the thread that waits for it, which then sees the end of the stream."""
        self.is_cut = True
        sock = self._socket
        while sock is not None and not isinstance(sock, socket.socket):
            sock = getattr(sock, "socket", None)
        if sock is not None:
            with suppress(OSError):  # not connected, or closed already
                # Not SSLSocket's own shutdown: it also takes the TLS object from under the reader.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def land(self) -> None:
        self._socket = None
        if self._own is not None:
            self._own.close()
            self._own = None


class _Current(threading.local):
    """The flight of the calling thread: urllib3 has no way to hand it down to the socket."""

    flight: _Flight | None = None


_current = _Current()


class _TimedReader(io.RawIOBase):
    """Reads a socket, each time no longer than the deadline of the calling thread's request allows."""

    def __init__(self, sock: Any, raw: Any) -> None:
        self._sock = sock
        self._raw = raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if (flight := _current.flight) is not None:
            self._sock.settimeout(flight.remaining())
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_TimedReader(sock, self.fp.detach()), _READ_BUFFER)


class _TimedConnection(HTTPConnection):
    """A connection whose every wait ends by the deadline of the request that it serves."""

    response_class = _TimedResponse
    #: http.client's global switch prints every header, the token included.
    debuglevel = 0

    def _new_conn(self) -> socket.socket:
        flight = _current.flight
        if flight is None:
            raise RuntimeError("a connection was asked for outside of a request")
        host = self._dns_host.strip("[]")
        flight.stage = "name"
        try:
            addresses = socket.getaddrinfo(host, self.port, type=socket.SOCK_STREAM)
        except UnicodeError:  # a label of more than 63 characters, or an empty one
            raise socket.gaierror(socket.EAI_NONAME, "no host name") from None
        flight.stage = "connection"
        for left in range(len(addresses), 0, -1):
            family, kind, protocol, _, address = addresses[-left]
            sock = socket.socket(family, kind, protocol)
            try:
                for option in self.socket_options or ():
                    sock.setsockopt(*option)
                # An address that swallows packets must leave time for the next one.
                sock.settimeout(flight.remaining() / left)
                flight.watch(sock)
                sock.connect(address)
                sock.settimeout(flight.remaining())
                flight.watch_copy(sock)
                flight.stage = "exchange"
                return sock
            except OSError:
                sock.close()
                if left == 1:
                    raise
            except BaseException:
                sock.close()
                raise
        raise OSError(f"{host} has no address")

    def _tunnel(self) -> None:
        if (flight := _current.flight) is not None:
            flight.stage = "tunnel"
        super()._tunnel()
        if flight is not None:
            flight.stage = "exchange"

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None and _current.flight is not None:
            _current.flight.watch(self.sock)
        super().request(*args, **kwargs)


class _TimedTLSConnection(_TimedConnection, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _TimedConnection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TimedTLSConnection


class _OneHostAdapter(HTTPAdapter):
    """The adapter of one address with fixed settings, whose connection pool is looked up once."""

    def __init__(self) -> None:
        self._pool: Any = None
        # One connection for each request that may be in flight; none is opened before it is needed.
        super().__init__(pool_connections=1, pool_maxsize=settings.MAX_CONCURRENCY)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        _use_timed_pools(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        _use_timed_pools(manager)
        return manager

    def close(self) -> None:
        super().close()
        self._pool = None

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        if self._pool is None:
            self._pool = super().get_connection_with_tls_context(*args, **kwargs)
        return self._pool


def _use_timed_pools(manager: PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
