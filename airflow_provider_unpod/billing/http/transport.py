"""One HTTP exchange: sends a request and returns the complete response, or raises a fault before the deadline.

``requests`` limits the time of each read, not of all reads together, so a server that sends one byte every few seconds
could block a task forever. Connections made here read through :class:`_TimedReader`, which limits each read to the
time left for the whole request. They also keep track of the socket in use, so that another thread can shut it down.
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

#: Limit in bytes after decompression. Far above any page (100 invoices are about 30 KB), and harmless for a worker.
MAX_BODY = 32 * 1024 * 1024
_OVERSIZED = "Check Host (`host`): its response is larger than 32 MiB, which no page of Unpod is."
_BLOCK = 1024 * 1024
_READ_BUFFER = 64 * 1024
_COMPRESSIONS = ("gzip", "x-gzip", "deflate")
#: Time limit for the handshake that detects https. Short, because a cancelled read waits for it.
_PROBE_SECONDS = 0.8


class OversizedResponse(Exception):
    """The response is larger than any page can be."""


@dataclass(frozen=True, slots=True)
class Response:
    """A complete response. ``body`` is decompressed."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


#: Network errors.
_FAULTS = (requests.RequestException, HTTPError, http.client.HTTPException, OSError, zlib.error, OversizedResponse)
#: Errors that the libraries also raise if their socket is shut down. Otherwise these are programming errors.
_FAULTS_OF_A_CUT = (ValueError, AttributeError)


class Transport:
    """Sends GET requests with fixed headers to one address. Thread-safe. Connections are kept open and reused."""

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
        # Prepared without a Session, in which a netrc entry would replace the Authorization header.
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
        """The password of the proxy in use, both URL-encoded and decoded."""
        return tuple(each for url in self._proxies.values() for each in settings.proxy_passwords(url))

    def send(self, url: str, cancellation: Cancellation | None) -> Response:
        """Send GET ``url``, a URL below the base URL, and return the response. Redirects are not followed.

        :raises TransportFault: if no complete response arrived before the deadline.
        :raises OversizedResponse: if the response is larger than ``MAX_BODY``.
        :raises Cancelled: if ``cancellation`` was cancelled.
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
        # Raised outside of the handler, since Python would chain the handled error, which contains the token.
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
        """Return whether the server may expect https: it closed the connection and never sent a response."""
        closed = isinstance(fault.cause, (ConnectionResetError, http.client.RemoteDisconnected))
        return closed and not self._spoke_http and not self._proxies and self._plain_http

    def _speaks_tls(self) -> bool:
        """Return whether a TLS handshake succeeds. The certificate is not verified, because no data is sent."""
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
        """Return the response, or the exception that was raised instead."""
        _current.flight = flight
        try:
            response = self._adapter.send(
                request, stream=True, timeout=self._timeout, verify=self._verify, proxies=self._proxies
            )
            try:
                return Response(response.status_code, response.reason or "", response.headers, _body(response.raw))
            except BaseException:
                # The rest of the response is still in transit, so this connection cannot be reused.
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
    """Read and decompress the body of a response, up to ``MAX_BODY`` bytes.

    urllib3 does not do this safely. Releases that Airflow still allows decompress a bomb at once, and no release
    detects a truncated compressed body.
    """
    blocks, size = [], 0
    while block := raw.read(_BLOCK, decode_content=False):
        size += len(block)
        if size > MAX_BODY:
            raise OversizedResponse(_OVERSIZED)
        blocks.append(block)
    body = blocks[0] if len(blocks) == 1 else b"".join(blocks)
    # Encodings are removed in reverse order. Unknown names (UTF-8, identity) are ignored: if the body is compressed in
    # another way, it is refused because it is not JSON.
    for coding in reversed((raw.headers.get("Content-Encoding") or "").lower().split(",")):
        if coding.strip() in _COMPRESSIONS and body:
            body = _decompressed(body)
    return body


def _decompressed(body: bytes) -> bytes:
    """Decompress gzip, which may have several members (RFC 1952), or zlib."""
    members, size = [], 0
    while body:
        # 32 + 15 detects gzip or zlib by its header.
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
    """Return host and port of a URL, without the credentials that a proxy URL may contain."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    host = parts.hostname or ""
    return f"{f'[{host}]' if ':' in host else host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def _proxies(
    base_url: str, given: Mapping[str, str] | None, environment: dict[str, str], allow_insecure_http: bool
) -> dict[str, str]:
    """Choose the proxies to use. Those of the connection take precedence over those of the environment.

    Plain http to this machine is allowed because the request does not leave it. Through a proxy on another machine the
    token would cross the network in plain text, so that needs ``allow_insecure_http``.
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
                    "Enter an https address in Host (`host`): through Proxies (`proxies`), plain http would expose the "
                    "API token on the network. To accept that, set `allow_insecure_http`."
                )
            return {}
    return {base_url.partition(":")[0]: proxy}


class _Flight:
    """A request in flight, with its deadline and the socket that is shut down to cancel it."""

    __slots__ = ("_cancellation", "_own", "_socket", "deadline", "is_cut", "stage")

    def __init__(self, deadline: float, cancellation: Cancellation | None) -> None:
        self.deadline = deadline
        self._cancellation = cancellation
        self._socket: Any = None
        self._own: socket.socket | None = None
        self.is_cut = False
        #: Stage of the request, see :meth:`Route.explain`.
        self.stage = "exchange"

    def remaining(self) -> float:
        """Return the seconds until the deadline. Never 0, because a socket takes 0 as "non-blocking".

        :raises TimeoutError: if the deadline has passed.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left

    def watch(self, sock: Any) -> None:
        """Set the socket that the request uses from now on."""
        self._socket = sock
        if self._cancellation is not None:
            self._cancellation.check()

    def watch_copy(self, sock: socket.socket) -> None:
        """Watch a copy of a new socket. A TLS handshake detaches the original socket object."""
        self._own = sock.dup()
        self.watch(self._own)

    def cut(self) -> None:
        """Shut the socket down. The thread that reads from it then sees the end of the stream."""
        self.is_cut = True
        sock = self._socket
        while sock is not None and not isinstance(sock, socket.socket):
            sock = getattr(sock, "socket", None)
        if sock is not None:
            with suppress(OSError):  # not connected, or closed already
                # SSLSocket's own shutdown would also remove the TLS object that the reader is using.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def land(self) -> None:
        self._socket = None
        if self._own is not None:
            self._own.close()
            self._own = None


class _Current(threading.local):
    """The flight of the calling thread. urllib3 has no way to pass it to the socket."""

    flight: _Flight | None = None


_current = _Current()


class _TimedReader(io.RawIOBase):
    """Reads a socket, and limits each read to the time left for the calling thread's request."""

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
    """A connection that never waits past the deadline of its request."""

    response_class = _TimedResponse
    #: http.client's global switch would print every header, including the token.
    debuglevel = 0

    def _new_conn(self) -> socket.socket:
        flight = _current.flight
        if flight is None:
            raise RuntimeError("a connection must be opened by a request")
        host = self._dns_host.strip("[]")
        flight.stage = "name"
        try:
            addresses = socket.getaddrinfo(host, self.port, type=socket.SOCK_STREAM)
        except UnicodeError:  # a label of more than 63 characters, or an empty one
            raise socket.gaierror(socket.EAI_NONAME, "not a host name") from None
        flight.stage = "connection"
        for left in range(len(addresses), 0, -1):
            family, kind, protocol, _, address = addresses[-left]
            sock = socket.socket(family, kind, protocol)
            try:
                for option in self.socket_options or ():
                    sock.setsockopt(*option)
                # An address that drops packets must leave time for the next one.
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
    """An adapter for one address with fixed settings. It looks its connection pool up only once."""

    def __init__(self) -> None:
        self._pool: Any = None
        # One connection for each possible request in flight. Connections are opened on demand.
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
