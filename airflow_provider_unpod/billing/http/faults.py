"""Explains network exceptions to the person who configured the connection.

``requests``, ``urllib3``, ``ssl`` and ``socket`` wrap one another's exceptions. The innermost exception and the stage
of the request determine the message and the connection field that it names.
"""

from __future__ import annotations

import errno
import http.client
import re
import socket
import ssl
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import requests
from urllib3.exceptions import InvalidChunkLength

from airflow_provider_unpod.billing.errors import UnpodError, UnpodUnavailable, UnpodUnreachable, shorten

if TYPE_CHECKING:
    from collections.abc import Iterator

#: OpenSSL's errors for a peer that does not speak TLS.
_PLAIN_PEER = re.compile(r"WRONG_VERSION_NUMBER|HTTP_REQUEST|HTTPS_PROXY_REQUEST|RECORD_LAYER_FAILURE|PACKET_LENGTH")
#: OpenSSL's errors for a handshake that fails again on every retry.
_NO_COMMON_TLS = re.compile(
    r"UNSUPPORTED_PROTOCOL|NO_PROTOCOLS|NO_SHARED_CIPHER|"
    r"ALERT_(HANDSHAKE_FAILURE|PROTOCOL_VERSION|INSUFFICIENT_SECURITY|UNRECOGNIZED_NAME)"
)
_CLIENT_CERTIFICATE = "ALERT_CERTIFICATE_REQUIRED"
_TUNNEL_STATUS = re.compile(r"Tunnel connection failed: (\d{3})")
#: First bytes of a TLS record that carries an alert.
_TLS_ALERT = "\x15\x03"
_EXPIRED, _HOSTNAME_MISMATCH, _ADDRESS_MISMATCH = 10, 62, 64


class TransportFault(Exception):
    """The exchange ended without a complete response.

    :param kind: the public error class for the caller.
    :param cause: the innermost exception. The outer ones hold the request, which contains the token.
    :param retryable: whether the same request may succeed when it is sent again.
    """

    def __init__(
        self,
        message: str,
        cause: BaseException | None = None,
        *,
        kind: type[UnpodError] = UnpodUnavailable,
        retryable: bool = True,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.cause = cause
        self.kind = kind
        self.retryable = retryable


@dataclass(frozen=True, slots=True)
class Route:
    """Addresses and settings of one client's requests, for error messages. Contains no secret.

    :param server: host and port of the API.
    :param timeout: seconds for one whole request.
    :param proxy: host and port of the proxy. ``None`` means no proxy.
    :param proxy_setting: name of the setting that configures the proxy.
    :param ca_path: CA file or directory. ``None`` means the built-in one, or no verification.
    :param ca_setting: name of the setting that configures ``ca_path``.
    """

    server: str
    timeout: float
    proxy: str | None = None
    proxy_setting: str = ""
    ca_path: str | None = None
    ca_setting: str = ""

    def explain(self, error: BaseException, stage: str) -> TransportFault:
        """Convert ``error`` to a :class:`TransportFault`.

        :param stage: stage of the request: ``name`` (DNS lookup), ``connection``, ``tunnel`` (through the proxy), or
            ``exchange`` (the TLS handshake and everything after it).
        """
        chain = list(_chain(error))
        # The traceback is dropped: its frames hold the headers.
        cause = chain[-1].with_traceback(None)
        at_proxy = self.proxy is not None and (
            stage != "exchange" or any(isinstance(link, requests.exceptions.ProxyError) for link in chain)
        )
        if self.ca_path is not None and isinstance(cause, OSError) and not _is_ca(self.ca_path):
            return _unreachable(f"Check {self.ca_setting}: {self.ca_path} is not a readable CA file.", cause)
        if isinstance(cause, TimeoutError):
            return TransportFault(self._too_slow(stage, at_proxy), cause)
        if isinstance(cause, ssl.SSLError):
            return self._tls_fault(cause, at_proxy)
        if at_proxy:
            return self._proxy_fault(cause)
        if isinstance(cause, socket.gaierror):
            return _unreachable(f"Check Host (`host`): unknown host {_host(self.server)}.", cause, retryable=True)
        if isinstance(cause, ConnectionRefusedError):
            return TransportFault(f"Check Host (`host`): {self.server} refuses connections.", cause)
        if stage == "connection" and isinstance(cause, OSError):
            return TransportFault(f"Check Host (`host`): {self.server} cannot be reached ({_words(cause)}).", cause)
        if type(cause) is http.client.BadStatusLine:
            if str(cause.args[0]).strip("'").startswith(_TLS_ALERT):
                return self.wants_tls(cause)
            return TransportFault(f"Check Host (`host`): the server at {self.server} does not speak http.", cause)
        return TransportFault(f"Try later: no complete response from {self.server} ({_words(cause)}).", cause)

    def wants_tls(self, cause: BaseException | None) -> TransportFault:
        """Build the fault of plain http to a server that speaks https."""
        return _unreachable(f"Check Host (`host`): the server speaks https at {self.server}, not http.", cause)

    def _too_slow(self, stage: str, at_proxy: bool) -> str:
        limit = f"within `timeout` = {self.timeout:g} s"
        if at_proxy:
            return f"Check {self.proxy_setting}: the proxy {self.proxy} does not respond {limit}."
        if stage == "connection":
            return f"Check Host (`host`): {self.server} does not accept the connection {limit}."
        return f"Try later or raise Timeout (`timeout`): no complete response from {self.server} {limit}."

    def _tls_fault(self, cause: ssl.SSLError, at_proxy: bool) -> TransportFault:
        peer, setting = (self.proxy, self.proxy_setting) if at_proxy else (self.server, "Host (`host`)")
        reason = (cause.reason or str(cause)).upper().replace(" ", "_")
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _unreachable(self._about_certificate(cause, str(peer), setting), cause)
        if _PLAIN_PEER.search(reason):
            who = f"the proxy {peer} speaks" if at_proxy else "the server speaks"
            there = "" if at_proxy else f" at {peer}"
            return _unreachable(f"Check {setting}: {who} plain http{there}, not https.", cause)
        if _CLIENT_CERTIFICATE in reason:
            return _unreachable(
                f"Check {setting}: {peer} requires a client certificate, which this package does not support.", cause
            )
        if _NO_COMMON_TLS.search(reason):
            return _unreachable(f"Check {setting}: {peer} refuses the TLS handshake ({_words(cause)}).", cause)
        return TransportFault(f"Try later: the TLS connection to {peer} broke ({_words(cause)}).", cause)

    def _about_certificate(self, cause: ssl.SSLCertVerificationError, peer: str, setting: str) -> str:
        why = shorten(cause.verify_message, 120)
        if cause.verify_code in (_HOSTNAME_MISMATCH, _ADDRESS_MISMATCH):
            return f"Check {setting}: the certificate of {peer} is not trusted, it belongs to another host ({why})."
        if cause.verify_code == _EXPIRED:
            return f"Renew the certificate of {peer}: it is not trusted because it has expired ({why})."
        signed = "" if self.ca_path is None else f", no CA in {self.ca_path} has signed it"
        return (
            f"Check Verify TLS (`verify`): the certificate of {peer} is not trusted ({why}){signed}. If your own CA "
            "signed it, enter the path of the CA file."
        )

    def _proxy_fault(self, cause: BaseException) -> TransportFault:
        check = f"Check {self.proxy_setting}"
        status = _TUNNEL_STATUS.search(str(cause))
        if status is None:
            why = "it closes the connection"
            if isinstance(cause, socket.gaierror):
                why = f"unknown host {_host(str(self.proxy))}"
            elif isinstance(cause, ConnectionRefusedError):
                why = "it refuses connections"
            elif isinstance(cause, OSError):
                why = _words(cause)
            kind = UnpodUnavailable if isinstance(cause, ConnectionResetError) else UnpodUnreachable
            message = f"{check}: the proxy {self.proxy} does not respond ({why})."
            return TransportFault(message, cause, kind=kind)
        code = int(status[1])
        if code == 407:
            return _unreachable(f"{check}: the proxy {self.proxy} rejects the credentials in its URL.", cause)
        if code < 500 and code != 429:
            return _unreachable(
                f"{check}: the proxy {self.proxy} refuses to connect to {self.server} (HTTP {code}).", cause
            )
        return TransportFault(f"Try later: the proxy {self.proxy} cannot reach {self.server} now (HTTP {code}).", cause)


def _unreachable(message: str, cause: BaseException | None, *, retryable: bool = False) -> TransportFault:
    return TransportFault(message, cause, kind=UnpodUnreachable, retryable=retryable)


def _is_ca(path: str) -> bool:
    if Path(path).is_dir():
        return True
    try:
        ssl.create_default_context(cafile=path)
    except (OSError, ValueError):
        return False
    return True


def _host(server: str) -> str:
    return server.rpartition(":")[0]


def _words(cause: BaseException) -> str:
    """Describe ``cause`` without the class names, files and numbers that exceptions contain."""
    if isinstance(cause, ssl.SSLError):
        return (cause.reason or "it was closed").replace("_", " ").lower()
    known = next((words for kind, words in _KNOWN if isinstance(cause, kind)), None)
    if known is not None:
        return known
    if isinstance(cause, OSError) and cause.errno in errno.errorcode and cause.strerror:
        return cause.strerror.lower()
    return shorten(" ".join(str(cause).split()), 200) or "the connection was closed"


#: The first matching entry is used.
_KNOWN: tuple[tuple[type[BaseException], str], ...] = (
    (http.client.RemoteDisconnected, "the server closed the connection without a response"),
    (http.client.LineTooLong, "its headers are too long"),
    (InvalidChunkLength, "it is not chunked as announced"),
    (http.client.IncompleteRead, "it was cut off"),
    (zlib.error, "it cannot be decompressed"),
)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield ``error`` and the exceptions that it wraps, innermost last."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        # urllib3 keeps some wrapped exceptions only in ``args``.
        inner = next((each for each in link.args if isinstance(each, BaseException)), None)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__) or inner
