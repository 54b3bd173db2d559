"""The message of every broken connection begins with the field to check."""

from __future__ import annotations

import http.server
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import trustme

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
from airflow_provider_unpod.get_provider_info import CONNECTION_FIELDS, FIELD_BEHAVIOUR
from tests.billing.faulty_server import TOKEN, Close, Drip, FaultyServer, Hang, Reset, Script, answer
from tests.billing.proxy import Proxy

Connect = Callable[..., UnpodClient]
HTML = "<!DOCTYPE html><title>Welcome</title>"


class Room:
    """Servers and clients for a test case. They end with the test."""

    def __init__(self, connect: Connect, stack: ExitStack, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._connect, self._stack, self.folder, self.environment = connect, stack, folder, monkeypatch
        self.retry = RetryPolicy(attempts=1)

    def client(self, url: str, **options: Any) -> UnpodClient:
        return self._connect(url, **{"timeout": 0.5, "retry": self.retry, "allow_insecure_http": True, **options})

    def answering(self, script: Script, *, tls: ssl.SSLContext | None = None) -> str:
        return self._stack.enter_context(FaultyServer(otherwise=script, tls=tls)).url

    def proxy(self, first: bytes | None = None) -> str:
        return self._stack.enter_context(Proxy(first)).url

    def silent(self, backlog: int = 5) -> str:
        """Return host and port of a listener that does not accept connections."""
        listener = self._stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=backlog))
        return f"127.0.0.1:{listener.getsockname()[1]}"

    def full(self) -> str:
        """Return host and port of a listener with a full queue, to which connecting takes forever."""
        address = self.silent(backlog=0)
        host, _, port = address.partition(":")
        for _ in range(4):
            filler = self._stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((host, int(port)))
        return address

    def free(self) -> str:
        """Return host and port without a server."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            return f"127.0.0.1:{listener.getsockname()[1]}"

    def plain(self) -> str:
        """Return host and port of a normal http server."""
        server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
        self._stack.callback(server.server_close)
        threading.Thread(target=server.handle_request, daemon=True).start()
        return f"127.0.0.1:{server.server_port}"

    def demanding(self) -> tuple[str, str]:
        """Return host and port of a server that requires a client certificate, and its CA file.

        It leaves the connection open: a closed one may hide the reason from the client.
        """
        authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        path = self.folder / "ca.pem"
        authority.cert_pem.write_to_path(str(path))
        listener = self._stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def serve() -> None:
            accepted = context.wrap_socket(listener.accept()[0], server_side=True, do_handshake_on_connect=False)
            self._stack.enter_context(accepted)
            with suppress(ssl.SSLError):
                accepted.do_handshake()

        threading.Thread(target=serve, daemon=True).start()
        return f"127.0.0.1:{listener.getsockname()[1]}", str(path)

    def tls(self, host: str = "127.0.0.1", *, days: int = 30) -> tuple[str, str]:
        """Return the address of a server with a certificate for ``host``, and its CA file."""
        authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ends = datetime.now(timezone.utc) + timedelta(days=days)
        authority.issue_cert(host, not_before=ends - timedelta(days=60), not_after=ends).configure_cert(context)
        path = self.folder / "ca.pem"
        authority.cert_pem.write_to_path(str(path))
        return self.answering(answer("{}"), tls=context), str(path)


def through(proxy: str, scheme: str = "https") -> dict[str, Any]:
    return {"proxies": {scheme: proxy}}


def proxy_of_the_environment(room: Room) -> UnpodClient:
    room.environment.setenv("HTTPS_PROXY", f"http://carl:pr0xy-pw@{room.free()}")
    return room.client("https://unpod.test")


def untrusted(room: Room, **certificate: Any) -> UnpodClient:
    url, ca_file = room.tls(**certificate)
    return room.client(url, verify=ca_file)


def without_ca_file(room: Room) -> UnpodClient:
    url, ca_file = room.tls()
    client = room.client(url, verify=ca_file)
    Path(ca_file).unlink()
    return client


def without_ca_file_of_the_environment(room: Room) -> UnpodClient:
    room.environment.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    return room.client(room.tls()[0])


def with_a_ca_file_that_is_not_one(room: Room) -> UnpodClient:
    url, ca_file = room.tls()
    Path(ca_file).write_text("see the wiki")
    return room.client(url, verify=ca_file)


def with_a_ca_that_signed_nothing(room: Room) -> UnpodClient:
    url, ca_file = room.tls()
    trustme.CA().cert_pem.write_to_path(ca_file)
    return room.client(url, verify=ca_file)


def empty_folder(room: Room) -> Path:
    folder = room.folder / "empty"
    folder.mkdir()
    return folder


def that_requires_a_client_certificate(room: Room) -> UnpodClient:
    address, ca_file = room.demanding()
    return room.client(f"https://{address}", verify=ca_file)


def says(status: bytes) -> bytes:
    return b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n"


Case = tuple[Callable[[Room], UnpodClient], type[UnpodError], str]
#: How to break it, the error, and how its message begins; ADDRESS is a host and port.
CASES: dict[str, Case] = {
    # Names and addresses
    "unknown host": (
        lambda room: room.client("https://api.unpod.invalid"),
        UnpodUnreachable,
        r"Check Host \(`host`\): unknown host api\.unpod\.invalid\.$",
    ),
    "impossible host": (
        lambda room: room.client(f"https://{'a' * 64}.example"),
        UnpodUnreachable,
        r"Check Host \(`host`\): unknown host a{64}\.example\.$",
    ),
    "nothing listens": (
        lambda room: room.client(f"http://{room.free()}"),
        UnpodUnavailable,
        r"Check Host \(`host`\): ADDRESS refuses connections\.$",
    ),
    "packets dropped": (
        lambda room: room.client(f"http://{room.full()}"),
        UnpodUnavailable,
        r"Check Host \(`host`\): ADDRESS does not accept the connection within `timeout` = 0\.5 s\.$",
    ),
    "no way to the address": (
        lambda room: room.client("https://255.255.255.255"),
        UnpodUnavailable,
        r"Check Host \(`host`\): 255\.255\.255\.255:443 cannot be reached \(network is unreachable\)\.$",
    ),
    # http and https
    "https to an http port": (
        lambda room: room.client(f"https://{room.plain()}"),
        UnpodUnreachable,
        r"Check Host \(`host`\): the server speaks plain http at ADDRESS, not https\.$",
    ),
    "http to an https port": (
        lambda room: room.client(room.tls()[0].replace("https", "http")),
        UnpodUnreachable,
        r"Check Host \(`host`\): the server speaks https at ADDRESS, not http\.$",
    ),
    "http to an https port that explains": (
        lambda room: room.client(room.answering(answer("Client sent an HTTP request to an HTTPS server.", 400))),
        UnpodUnreachable,
        r"Check Host \(`host`\): the server speaks https there, not http\.$",
    ),
    # Certificates
    "unknown CA": (
        lambda room: room.client(room.tls()[0]),
        UnpodUnreachable,
        r"Check Verify TLS \(`verify`\): the certificate of ADDRESS is not trusted \(.*\)\. If your own CA signed it, ",
    ),
    "certificate of another host": (
        lambda room: untrusted(room, host="unpod.example"),
        UnpodUnreachable,
        r"Check Host \(`host`\): the certificate of ADDRESS is not trusted, it belongs to another host",
    ),
    "expired certificate": (
        lambda room: untrusted(room, days=-1),
        UnpodUnreachable,
        r"Renew the certificate of ADDRESS: it is not trusted because it has expired",
    ),
    "another CA than that of the file": (
        with_a_ca_that_signed_nothing,
        UnpodUnreachable,
        r"Check Verify TLS \(`verify`\): the certificate of ADDRESS is not trusted \(.*\), no CA in \S+/ca\.pem has ",
    ),
    "a folder without a CA": (
        lambda room: room.client(room.tls()[0], verify=str(empty_folder(room))),
        UnpodUnreachable,
        r"Check Verify TLS \(`verify`\): the certificate of ADDRESS is not trusted \(.*\), no CA in \S+/empty has ",
    ),
    "a client certificate is required": (
        that_requires_a_client_certificate,
        UnpodUnreachable,
        r"Check Host \(`host`\): ADDRESS requires a client certificate, which this package does not support\.$",
    ),
    "CA file gone": (
        without_ca_file,
        UnpodUnreachable,
        r"Check Verify TLS \(`verify`\): \S+/ca\.pem is not a readable CA file\.$",
    ),
    "CA file of the environment gone": (
        without_ca_file_of_the_environment,
        UnpodUnreachable,
        r"Check REQUESTS_CA_BUNDLE in the environment: /nowhere/ca\.pem is not a readable CA file\.$",
    ),
    "CA file is not one": (
        with_a_ca_file_that_is_not_one,
        UnpodUnreachable,
        r"Check Verify TLS \(`verify`\): \S+/ca\.pem is not a readable CA file\.$",
    ),
    # Proxies
    "unknown proxy": (
        lambda room: room.client("https://unpod.test", **through("http://proxy.invalid:3128")),
        UnpodUnreachable,
        r"Check Proxies \(`proxies`\): the proxy proxy\.invalid:3128 does not respond \(unknown host proxy\.inv",
    ),
    "no proxy listens": (
        lambda room: room.client("https://unpod.test", **through(f"http://carl:pr0xy-pw@{room.free()}")),
        UnpodUnreachable,
        r"Check Proxies \(`proxies`\): the proxy ADDRESS does not respond \(it refuses connections\)\.$",
    ),
    "no proxy of the environment listens": (
        proxy_of_the_environment,
        UnpodUnreachable,
        r"Check HTTP\(S\)_PROXY in the environment: the proxy ADDRESS does not respond \(it refuses connections\)\.$",
    ),
    "proxy that never responds": (
        lambda room: room.client("https://unpod.test", **through(f"http://{room.silent()}")),
        UnpodUnavailable,
        r"Check Proxies \(`proxies`\): the proxy ADDRESS does not respond within `timeout` = 0\.5 s\.$",
    ),
    "proxy that wants other credentials": (
        lambda room: room.client(
            "https://unpod.test", **through(room.proxy(says(b"407 Proxy Authentication Required")))
        ),
        UnpodUnreachable,
        r"Check Proxies \(`proxies`\): the proxy ADDRESS rejects the credentials in its URL\.$",
    ),
    "proxy that wants other credentials, over http": (
        lambda room: room.client("http://unpod.test", **through(room.proxy(says(b"407 Nope")), "http")),
        UnpodUnreachable,
        r"Check Proxies \(`proxies`\): the proxy rejects the credentials in its URL\.$",
    ),
    "proxy that forbids the host": (
        lambda room: room.client("https://unpod.test", **through(room.proxy(says(b"403 Forbidden")))),
        UnpodUnreachable,
        r"Check Proxies \(`proxies`\): the proxy ADDRESS refuses to connect to unpod\.test:443 \(HTTP 403\)\.$",
    ),
    "proxy that cannot reach the host": (
        lambda room: room.client("https://unpod.test", **through(room.proxy(says(b"502 Bad Gateway")))),
        UnpodUnavailable,
        r"Try later: the proxy ADDRESS cannot reach unpod\.test:443 now \(HTTP 502\)\.$",
    ),
    "proxy that speaks http, with an https URL": (
        lambda room: room.client("https://unpod.test", **through(f"https://{room.plain()}")),
        UnpodUnreachable,
        r"Check Proxies \(`proxies`\): the proxy ADDRESS speaks plain http, not https\.$",
    ),
    # Responses of somebody else
    "a web page": (
        lambda room: room.client(room.answering(answer(HTML))),
        UnpodBadAnswer,
        r"Check Host \(`host`\): its response is not JSON, it begins with '<!DOCTYPE html>",
    ),
    "a web page with 404": (
        lambda room: room.client(room.answering(answer(HTML, 404))),
        UnpodBadAnswer,
        r"Check Host \(`host`\): the response is not from Unpod's API \(HTTP 404, beginning with '<!DOCTYPE",
    ),
    "another API": (
        lambda room: room.client(room.answering(answer({"status": "ok", "version": 3}))),
        UnpodBadAnswer,
        r"Check Host \(`host`\): its response has no list of rows under `results` or `data`",
    ),
    "another API, by its fields": (
        lambda room: room.client(room.answering(answer({"swagger": "2.0"}))),
        UnpodBadAnswer,
        r"Check Host \(`host`\): its response has no list of rows .*: it begins with '{\"swagger\": \"2\.0\"}'\.$",
    ),
    "another API's status": (
        lambda room: room.client(room.answering(answer("", 204))),
        UnpodBadAnswer,
        r"Check Host \(`host`\): it responded with an unexpected HTTP status",
    ),
    "another API's refusal": (
        lambda room: room.client(room.answering(answer({"detail": "Method not allowed"}, 405))),
        UnpodBadRequest,
        r"Check Host \(`host`\): it refuses the request with HTTP 405: Method not allowed$",
    ),
    "another API's list": (
        lambda room: room.client(room.answering(answer([1, 2]))),
        UnpodBadAnswer,
        r"Check Host \(`host`\): it returned a list, but Unpod returns an object with rows\.$",
    ),
    "a redirect": (
        lambda room: room.client(room.answering(answer("", 301, {"Location": "https://www.unpod.dev/login?sid=x"}))),
        UnpodBadAnswer,
        r"Check Host \(`host`\): it redirects to https://www\.unpod\.dev/login\. Redirects are not followed",
    ),
    "a firewall": (
        lambda room: room.client(room.answering(answer(HTML, 403))),
        UnpodBadAnswer,
        r"Check Host \(`host`\), firewall and proxy: one of them refuses the request, not Unpod's API \(HTTP 403, ",
    ),
    "a firewall without a word": (
        lambda room: room.client(room.answering(answer("", 401))),
        UnpodBadAnswer,
        r"Check Host \(`host`\), firewall and proxy: one of them refuses .* API \(an empty HTTP 401\)\.$",
    ),
    "a network that wants a login": (
        lambda room: room.client(room.answering(answer(HTML, 511))),
        UnpodUnavailable,
        r"Sign in to the network: it wants a login before it lets requests pass\.$",
    ),
    "another encoding": (
        lambda room: room.client(room.answering(answer(b"\x1b\x03\x00\xf8", headers={"Content-Encoding": "br"}))),
        UnpodBadAnswer,
        r"Check Host \(`host`\): its response is not JSON",
    ),
    # Unpod's own
    "wrong token": (
        lambda room: room.client(room.answering(answer({"status_code": 401, "message": "Invalid token."}, 401))),
        UnpodAuthError,
        r"Check API token \(`password`\) and Organization handle \(`login` or `org_handle`\): .*: Invalid token\.$",
    ),
    "expired token": (
        lambda room: room.client(room.answering(answer({"status_code": 403, "message": "Token has expired."}, 403))),
        UnpodAuthError,
        r"Check API token \(`password`\) and Organization handle .*'acme\.tv': Token has expired\.$",
    ),
    "unknown organization": (
        lambda room: room.client(room.answering(answer({"status_code": 404, "message": "Not found."}, 404))),
        UnpodOrganizationNotFound,
        r"Check Organization handle \(`login` or `org_handle`\): Unpod has no organization 'acme\.tv'",
    ),
    "a header that Unpod misses": (
        lambda room: room.client(room.answering(answer({"message": "Product-Id header is required."}, 400))),
        UnpodBadRequest,
        r"Check Organization handle \(`login` or `org_handle`\) and Product ID \(`product_id`\): .* required\.$",
    ),
    "out of order": (
        lambda room: room.client(room.answering(answer("<h1>502 Bad Gateway</h1>", 502))),
        UnpodUnavailable,
        r"Try later: Unpod is not available: Something$",
    ),
    "rate limit": (
        lambda room: room.client(room.answering(answer("", 429, {"Retry-After": "7200"}))),
        UnpodRateLimited,
        r"Retry after \d{4}-\d\d-\d\dT\S+Z: the rate limit of this API token is used up for 2 h",
    ),
    # On its way
    "no response": (
        lambda room: room.client(room.answering([Hang])),
        UnpodUnavailable,
        r"Try later or raise Timeout \(`timeout`\): no complete response from ADDRESS within `timeout` = 0\.5 s\.$",
    ),
    "no TLS handshake": (
        lambda room: room.client(f"https://{room.silent()}"),
        UnpodUnavailable,
        r"Try later or raise Timeout \(`timeout`\): no complete response from ADDRESS within `timeout` = 0\.5 s\.$",
    ),
    "drip": (
        lambda room: room.client(room.answering([b"HTTP/1.1 200 OK\r\n", Drip(b"X: y\r\n" * 90, 0.03)])),
        UnpodUnavailable,
        r"Try later or raise Timeout \(`timeout`\): no complete response from ADDRESS within `timeout` = 0\.5 s\.$",
    ),
    "reset": (
        lambda room: room.client(room.answering([b"HTTP/1.1 200 OK\r\n", Reset])),
        UnpodUnavailable,
        r"Try later: no complete response from ADDRESS \(connection reset by peer\)\.$",
    ),
    "closed": (
        lambda room: room.client(room.answering([Close])),
        UnpodUnavailable,
        r"Try later: no complete response from ADDRESS \(the server closed the connection without a response\)\.$",
    ),
    "cut": (
        lambda room: room.client(room.answering([b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", Close])),
        UnpodUnavailable,
        r"Try later: no complete response from ADDRESS \(it was cut off\)\.$",
    ),
    "chunks cut": (
        lambda room: room.client(
            room.answering([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{", Close])
        ),
        UnpodUnavailable,
        r"Try later: no complete response from ADDRESS \(it was cut off\)\.$",
    ),
    "not HTTP": (
        lambda room: room.client(room.answering([b"220 mail.example ESMTP\r\n", Close])),
        UnpodUnavailable,
        r"Check Host \(`host`\): the server at ADDRESS does not speak http\.$",
    ),
    "compressed and cut": (
        lambda room: room.client(room.answering(answer(b"\x1f\x8b\x08\x00", headers={"Content-Encoding": "gzip"}))),
        UnpodUnavailable,
        r"Try later: no complete response from ADDRESS \(the compressed response ends too early\)\.$",
    ),
    "compressed and broken": (
        lambda room: room.client(room.answering(answer(b"{}" * 20, headers={"Content-Encoding": "gzip"}))),
        UnpodUnavailable,
        r"Try later: no complete response from ADDRESS \(it cannot be decompressed\)\.$",
    ),
    "empty": (
        lambda room: room.client(room.answering(answer(""))),
        UnpodBadAnswer,
        r"Try later, or check Host \(`host`\): its response is empty\.$",
    ),
    "huge": (
        lambda room: room.client(
            room.answering([b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", *[b" " * 2**20] * 33, Close]), timeout=20
        ),
        UnpodBadAnswer,
        r"Check Host \(`host`\): its response is larger than 32 MiB, which no page of Unpod is\.$",
    ),
}
#: What only another setting mends may still recover where DNS or a proxy is restarted: this is tried again.
RECOVERS = re.compile("(unknown|impossible) (host|proxy)|no proxy")
#: Of Python's and OpenSSL's own words, those that nobody should have to look up.
RAW = re.compile(
    r"Error\b(?! fetching)|Errno|Exception|_ssl\.c|\[SSL|0x[0-9a-f]+|gaierror|Disconnected|b['\"]|\\x|None"
)


@pytest.fixture
def room(connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    with ExitStack() as stack:
        yield Room(connect, stack, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", CASES)
def test_a_broken_connection_says_what_to_check(room: Room, name: str) -> None:
    break_it, kind, begins = CASES[name]
    client = break_it(room)
    with pytest.raises(UnpodError) as caught:
        client.get_page(1, 100)
    message = caught.value.message
    assert type(caught.value) is kind, message
    assert re.match(begins.replace("ADDRESS", r"127\.0\.0\.1:\d+"), message), message
    assert re.match(r"Check .*(`\w+`|environment|proxy)|Try later|Retry after|Renew|Sign in", message[:60])
    assert not RAW.search(message), message
    assert TOKEN not in str(caught.value)
    assert "pr0xy-pw" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[1] is UnpodUnreachable])
def test_a_wrong_setting_is_not_retried_unless_dns_or_a_proxy_may_recover(room: Room, name: str) -> None:
    room.retry = RetryPolicy(attempts=3)
    client = CASES[name][0](room)
    with pytest.raises(UnpodUnreachable) as caught:
        client.get_page(1, 100)
    assert client.requests_made == (3 if RECOVERS.match(name) else 1)
    assert not caught.value.permanent


def test_messages_name_the_fields_as_the_form_does() -> None:
    labels = {name: field["label"] for name, field in CONNECTION_FIELDS.items()} | FIELD_BEHAVIOUR["relabeling"]
    beginnings = "\n".join(begins.replace("\\", "") for _, _, begins in CASES.values())
    for name in ("verify", "proxies", "password"):
        assert f"{labels[name]} (`{name}`" in beginnings
