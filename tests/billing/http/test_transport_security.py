"""The token is sent to the API only; proxies and CA files of the environment are used."""

from __future__ import annotations

import http.client
import http.server
import logging
import socket
import ssl
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from airflow_provider_unpod.billing.client import UnpodClient
from airflow_provider_unpod.billing.errors import (
    UnpodBadAnswer,
    UnpodConfigError,
    UnpodError,
    UnpodUnavailable,
    UnpodUnreachable,
)
from airflow_provider_unpod.billing.http.retry import RetryPolicy
from tests.billing.faulty_server import TOKEN, Close, FaultyServer, Reset, answer, page
from tests.billing.http.test_retry import PERMANENT, SLOW, TRANSIENT
from tests.billing.proxy import Proxy

Connect = Callable[..., UnpodClient]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture
def tls_server(authority: trustme.CA) -> Iterator[FaultyServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "unpod.test").configure_cert(context)
    with FaultyServer(tls=context) as running:
        yield running


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as running:
        yield running


# -- redirects -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_token_never_follows_a_redirect(connect: Connect, server: FaultyServer, status: int) -> None:
    with FaultyServer() as elsewhere:
        target = f"http://user:pw-4711@127.0.0.1:{elsewhere.port}/login?next=x&sid=s3cr3t#t0k"
        server.otherwise = answer("", status, {"Location": target})
        client = connect(server)
        with pytest.raises(UnpodBadAnswer, match=rf"`host`.* http://127\.0\.0\.1:{elsewhere.port}/login\.") as caught:
            client.get_page(1, 100)
        assert client.requests_made == 1
        assert not elsewhere.requests
        for secret in ("s3cr3t", "t0k", "pw-4711", TOKEN):
            assert secret not in str(caught.value)


@pytest.mark.parametrize("location", [None, "", "/login/", "http://[::1", "//x.example", "javascript:alert(1)", "\xff"])
def test_a_redirect_to_nowhere_is_an_error_too(connect: Connect, server: FaultyServer, location: str | None) -> None:
    server.otherwise = answer("", 302, {} if location is None else {"Location": location})
    with pytest.raises(UnpodBadAnswer, match="redirect"):
        connect(server).get_page(1, 100)


def test_cookies_are_not_kept(connect: Connect, server: FaultyServer) -> None:
    server.otherwise = page(headers={"Set-Cookie": "sessionid=abc; Path=/"})
    client = connect(server)
    client.get_page(1, 100)
    client.get_page(2, 100)
    assert "cookie" not in server.requests[1].headers


# -- plain http ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["http://unpod.dev", "http://10.0.0.1:3001", "http://localhost.evil.example", "http://[2001:db8::1]"]
)
def test_plain_http_to_another_machine_is_refused(connect: Connect, url: str) -> None:
    with pytest.raises(UnpodConfigError, match="allow_insecure_http"):
        connect(url)
    assert connect(url, allow_insecure_http=True).base_url == url


@pytest.mark.parametrize("url", ["http://localhost:1", "http://127.9.9.9:1", "http://[::1]:1"])
def test_plain_http_to_this_machine_is_allowed(connect: Connect, url: str) -> None:
    assert connect(url).base_url == url


def test_a_proxy_elsewhere_does_not_get_the_token_of_a_plain_http_request_to_this_machine(
    connect: Connect, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:3128")
    connect(server).get_page(1, 100)
    with pytest.raises(UnpodConfigError, match="proxies"):
        connect(server, proxies={"http": "http://proxy.invalid:3128"})


# -- netrc, proxies, TLS -------------------------------------------------------------------------------------------


def test_netrc_does_not_replace_the_token(
    connect: Connect, server: FaultyServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\ndefault login someone password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    connect(server).get_page(1, 100)
    assert server.requests[0].headers["authorization"] == f"Token {TOKEN}"


@pytest.mark.parametrize("by", ["environment", "option"])
def test_http_goes_through_the_proxy(
    connect: Connect, server: FaultyServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    url = proxy.url.replace("http://", "http://carl:pr0xy-pw@")
    options = {"proxies": {"http": url}} if by == "option" else {}
    if by == "environment":
        monkeypatch.setenv("HTTP_PROXY", url)
    client = connect(f"http://unpod.test:{server.port}", allow_insecure_http=True, **options)
    client.get_page(1, 100)
    assert proxy.heads[0].startswith(
        f"GET http://unpod.test:{server.port}/api/v2/platform/organisation/billing/?page=1"
    )
    assert "Proxy-Authorization: Basic" in proxy.heads[0]
    assert server.requests[0].headers["authorization"] == f"Token {TOKEN}"


def test_https_is_tunneled_and_the_proxy_sees_no_token(
    connect: Connect, tls_server: FaultyServer, proxy: Proxy, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    client = connect(f"https://unpod.test:{tls_server.port}", verify=ca_file)
    for number in (1, 2):
        client.get_page(number, 100)
    assert tls_server.requests[0].headers["authorization"] == f"Token {TOKEN}"
    (head,) = proxy.heads
    assert head.startswith(f"CONNECT unpod.test:{tls_server.port} ")
    assert TOKEN not in head


def test_a_proxy_may_itself_speak_tls_and_the_deadline_holds_through_it(
    connect: Connect, tls_server: FaultyServer, authority: trustme.CA, ca_file: str
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Proxy(tls=context) as proxy:
        url = f"https://unpod.test:{tls_server.port}"
        client = connect(url, verify=ca_file, proxies={"https": proxy.url}, timeout=1, retry=RetryPolicy(attempts=1))
        assert client.get_page(1, 100).count == 1
        assert client.get_page(2, 100).count == 1
        assert [head.split(" ")[0] for head in proxy.heads] == ["CONNECT"]
        tls_server.scripts = [SLOW["drips the body"]]
        with pytest.raises(UnpodUnavailable, match=r"within `timeout` = 1 s"):
            client.get_page(3, 100)


def test_no_proxy_is_honored(
    connect: Connect, server: FaultyServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    connect(server).get_page(1, 100)
    assert not proxy.heads


def test_the_environment_is_read_when_the_client_is_created_and_not_for_each_request(
    connect: Connect, server: FaultyServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect(server)
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    client.get_page(1, 100)
    assert not proxy.heads


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_unreachable_proxy_is_named_without_its_password(connect: Connect, scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = connect(
        f"{scheme}://unpod.test",
        proxies={scheme: f"http://carl:pr0xy-pw@127.0.0.1:{port}"},
        allow_insecure_http=True,
        retry=RetryPolicy(attempts=2),
    )
    with pytest.raises(UnpodUnreachable, match=r"`proxies`.*the proxy 127.0.0.1:\d+ does not respond") as caught:
        client.get_page(1, 100)
    assert "pr0xy-pw" not in everything_about(caught.value)


def test_an_untrusted_certificate_is_refused_at_once(connect: Connect, tls_server: FaultyServer) -> None:
    client = connect(tls_server)
    with pytest.raises(UnpodUnreachable, match="`verify`") as caught:
        client.get_page(1, 100)
    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
    assert client.requests_made == 1
    assert not tls_server.requests


def test_a_certificate_signed_by_the_ca_file_is_trusted(
    connect: Connect, tls_server: FaultyServer, ca_file: str
) -> None:
    connect(tls_server, verify=ca_file).get_page(1, 100)
    assert tls_server.requests[0].headers["authorization"] == f"Token {TOKEN}"


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_certificate_signed_by_the_ca_file_of_the_environment_is_trusted(
    connect: Connect, tls_server: FaultyServer, ca_file: str, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, ca_file)
    assert connect(tls_server).get_page(1, 100).count == 1


def test_a_certificate_of_another_host_is_refused(connect: Connect, tls_server: FaultyServer, ca_file: str) -> None:
    client = connect(f"https://localhost:{tls_server.port}", verify=ca_file)
    with pytest.raises(UnpodUnreachable, match=r"`host`.*another host"):
        client.get_page(1, 100)
    assert client.requests_made == 1
    assert not tls_server.requests


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_verification_can_be_switched_off(connect: Connect, tls_server: FaultyServer) -> None:
    assert connect(tls_server, verify=False).get_page(1, 100).count == 1


def test_the_deadline_holds_over_tls(connect: Connect, tls_server: FaultyServer, ca_file: str) -> None:
    client = connect(tls_server, verify=ca_file, timeout=0.4, retry=RetryPolicy(attempts=1))
    for how in ("no answer", "drips from the first byte", "drips the body"):
        tls_server.scripts = [SLOW[how]]
        with pytest.raises(UnpodUnavailable, match=r"within `timeout` = 0\.4 s"):
            client.get_page(1, 100)


@pytest.mark.parametrize("fault", ["reset at once", "reset inside the body", "content length not reached"])
def test_faults_over_tls_are_retried(connect: Connect, tls_server: FaultyServer, ca_file: str, fault: str) -> None:
    client = connect(tls_server, verify=ca_file)
    tls_server.scripts = [TRANSIENT[fault], page()]
    assert client.get_page(1, 100).count == 1
    assert client.requests_made == 2


# -- secrets -------------------------------------------------------------------------------------------------------


def everything_about(error: BaseException, *, local_variables: bool = True) -> str:
    """Return all text in an exception, its causes and their tracebacks."""
    texts, seen = [], set()
    links: list[BaseException | None] = [error]
    while links:
        link = links.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        texts += [str(link), repr(link), repr(link.args), repr(vars(link))]
        trace = traceback.TracebackException.from_exception(link, capture_locals=local_variables)
        # The frames of this module know the token, of course.
        texts += [repr((frame.line, frame.locals)) for frame in trace.stack if frame.filename != __file__]
        links += [link.__cause__, link.__context__]
    return "\n".join(texts)


@pytest.mark.parametrize("fault", [*TRANSIENT, *PERMANENT])
def test_the_token_is_in_no_log_and_no_error(
    connect: Connect,
    server: FaultyServer,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    fault: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    server.otherwise = {**TRANSIENT, **PERMANENT}[fault]
    client = connect(server, retry=RetryPolicy(attempts=3))
    with pytest.raises(UnpodError) as caught:
        client.get_page(1, 100)
    assert "Starting new HTTP connection" in caplog.text  # urllib3's own lines are captured
    output = capsys.readouterr()
    for text in (everything_about(caught.value), caplog.text, output.out, output.err, repr(client)):
        assert TOKEN not in text
        assert "Token tok" not in text


def test_no_object_reachable_from_an_error_contains_the_request(connect: Connect, server: FaultyServer) -> None:
    """Error reporters that follow causes and contexts must not find the headers."""
    server.otherwise = [Reset]
    with pytest.raises(UnpodUnavailable) as caught:
        connect(server, retry=RetryPolicy(attempts=2)).get_page(1, 100)
    cause = caught.value.__cause__
    assert cause is not None
    assert type(cause).__module__ == "builtins"
    assert cause.__traceback__ is None
    assert cause.__cause__ is None
    assert cause.__context__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize("status", [400, 401, 403, 404, 206, 200, 500])
def test_a_token_repeated_by_the_response_is_not_in_the_error(
    connect: Connect, server: FaultyServer, status: int
) -> None:
    server.otherwise = answer({"status_code": 400, "message": f"Invalid token {TOKEN}!"}, status)
    with pytest.raises(UnpodError, match=r"Invalid token \*\*\*!") as caught:
        connect(server, retry=RetryPolicy(attempts=1)).get_page(1, 100)
    assert TOKEN not in everything_about(caught.value, local_variables=False)


def test_a_token_repeated_by_a_web_page_is_not_in_the_error(connect: Connect, server: FaultyServer) -> None:
    server.otherwise = answer(f"Hello {TOKEN}")
    with pytest.raises(UnpodBadAnswer, match="not JSON") as caught:
        connect(server).get_page(1, 100)
    assert TOKEN not in everything_about(caught.value, local_variables=False)


def test_the_standard_librarys_debug_switch_does_not_print_the_token(
    connect: Connect, server: FaultyServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    connect(server).get_page(1, 100)
    assert TOKEN not in capsys.readouterr().out


@pytest.mark.parametrize(
    "token",
    [
        "",
        None,
        "with space",
        "line\nbreak",
        "ünïcode",
        "nul\0",
        "Token abc",
        "tab\tbed",
        "\u2019",
    ],
)
def test_a_token_that_no_header_can_carry_is_refused_without_being_shown(connect: Connect, token: str | None) -> None:
    with pytest.raises(UnpodConfigError, match="`password`") as caught:
        connect("https://unpod.dev", token=token)
    if token:
        assert token not in everything_about(caught.value, local_variables=False)
        assert repr(token) not in everything_about(caught.value, local_variables=False)


@pytest.mark.parametrize("handle", ["", None, " ", "a\nb", "ünpod", "a\r\nX-Evil: 1"])
def test_a_handle_that_no_header_can_carry_is_refused(connect: Connect, handle: str | None) -> None:
    with pytest.raises(UnpodConfigError, match="`login`"):
        connect("https://unpod.dev", org_handle=handle)


def test_the_error_of_a_closed_connection_contains_no_secret(connect: Connect, server: FaultyServer) -> None:
    server.otherwise = [Close]
    with pytest.raises(UnpodUnavailable) as caught:
        connect(server, retry=RetryPolicy(attempts=1)).get_page(1, 100)
    assert TOKEN not in everything_about(caught.value)
