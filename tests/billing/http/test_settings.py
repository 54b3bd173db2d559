"""Validation of the fields of a connection. Errors name the field."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_unpod.billing.client import UnpodClient
from airflow_provider_unpod.billing.errors import UnpodConfigError, UnpodUnreachable
from airflow_provider_unpod.billing.http.base_url import base_url_of
from airflow_provider_unpod.billing.http.settings import OPTIONS, options_in, proxy_passwords


@pytest.mark.parametrize(
    ("host", "port", "schema", "url"),
    [
        (None, None, None, "https://unpod.dev"),
        ("", None, "", "https://unpod.dev"),
        (" ", 0, " ", "https://unpod.dev"),
        ("https://unpod.dev", None, None, "https://unpod.dev"),
        ("https://unpod.dev/", None, None, "https://unpod.dev"),
        ("http://localhost:3001", None, None, "http://localhost:3001"),
        ("unpod.ai", None, None, "https://unpod.ai"),
        ("UNPOD.ai.", None, None, "https://unpod.ai."),
        ("unpod.ai", 8443, "https", "https://unpod.ai:8443"),
        ("unpod.ai:8443", None, None, "https://unpod.ai:8443"),
        ("unpod.ai:8443", 8443, "HTTPS", "https://unpod.ai:8443"),
        ("unpod.ai", "8443", None, "https://unpod.ai:8443"),
        ("https://unpod.ai", 8443, "https", "https://unpod.ai:8443"),
        ("localhost", 3001, "http", "http://localhost:3001"),
        ("localhost", 3001, None, "http://localhost:3001"),
        ("localhost:3001", None, None, "http://localhost:3001"),
        ("127.0.0.1", 3001, None, "http://127.0.0.1:3001"),
        ("localhost", 3001, "https", "https://localhost:3001"),
        ("10.0.0.7", None, None, "https://10.0.0.7"),
        ("::1", 3001, None, "http://[::1]:3001"),
        ("[::1]", 3001, "http", "http://[::1]:3001"),
        ("[::1]:3001", None, None, "http://[::1]:3001"),
        ("2001:db8::7", None, None, "https://[2001:db8::7]"),
        ("https://[2001:db8::7]:8443", None, None, "https://[2001:db8::7]:8443"),
        (None, 8443, "https", "https://unpod.dev:8443"),
        ("bücher.example", None, None, "https://xn--bcher-kva.example"),
        ("unpod_api", 80, "http", "http://unpod_api"),
        ("https://unpod.dev", 443, None, "https://unpod.dev"),
        ("https://unpod.dev:443", None, None, "https://unpod.dev"),
        (None, 443, None, "https://unpod.dev"),
        ("localhost", 443, None, "http://localhost:443"),
        ("unpod.dev", 80, "https", "https://unpod.dev:80"),
    ],
)
def test_host_port_and_schema_become_one_address(host: str | None, port: Any, schema: str | None, url: str) -> None:
    assert base_url_of(host, port, schema) == url
    assert base_url_of(url, None, None) == url


@pytest.mark.parametrize(
    ("host", "port", "schema", "field", "said"),
    [
        ("https://unpod.dev/api/v2", None, None, "host", "a path"),
        ("unpod.dev/api", None, None, "host", "a path"),
        ("https://unpod.dev?x=secret-value", None, None, "host", "a query"),
        ("https://unpod.dev/?", None, None, "host", "a query"),
        ("https://unpod.dev#secret-value", None, None, "host", "a fragment"),
        ("https://acme:secret-value@unpod.dev", None, None, "host", "credentials"),
        ("acme:secret-value@unpod.dev", None, None, "host", "credentials"),
        ("secret-value@unpod.dev", None, None, "host", "credentials"),
        ("ftp://unpod.dev", None, None, "host", "https"),
        ("https://", None, None, "host", "host name"),
        ("https:///", None, None, "host", "host name"),
        ("un pod.dev", None, None, "host", "host name"),
        ("unpod..dev", None, None, "host", "host name"),
        ("-unpod.dev", None, None, "host", "host name"),
        ("unpod.dev\nX: y", None, None, "host", "host name"),
        ("http://[::1", None, None, "host", "address"),
        ("[::zz]", None, None, "host", ""),
        ("unpod.dev", 70000, None, "port", "65535"),
        ("unpod.dev", -1, None, "port", "65535"),
        ("unpod.dev", "http", None, "port", "65535"),
        ("unpod.dev:0", None, None, "port", "65535"),
        ("unpod.dev:99999", None, None, "port", "65535"),
        ("unpod.dev:80", 81, None, "port", "must be 80, as in `host`, or empty; got 81"),
        ("unpod.dev", None, "gopher", "schema", "https"),
        ("http://localhost", None, "https", "schema", "must be http, as in `host`, or empty; got https"),
    ],
)
def test_an_invalid_address_is_refused_by_its_field(
    host: str, port: Any, schema: str | None, field: str, said: str
) -> None:
    with pytest.raises(UnpodConfigError, match=f"`{field}`.*{said}") as caught:
        base_url_of(host, port, schema)
    assert "secret-value" not in str(caught.value)


@given(
    host=st.text(max_size=60),
    port=st.one_of(st.none(), st.integers()),
    schema=st.one_of(st.none(), st.text(max_size=6)),
)
def test_any_string_is_an_address_or_is_refused(host: str, port: int | None, schema: str | None) -> None:
    try:
        url = base_url_of(host, port, schema)
    except UnpodConfigError:
        return
    assert base_url_of(url, None, None) == url
    UnpodClient(url, "token", "acme", allow_insecure_http=True).close()


def test_options_from_a_form_or_a_uri_are_strings(tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_text("")
    texts = {
        "auth_scheme": "BEARER",
        "product_id": " unpod.ai ",
        "timeout": "12.5",
        "page_size": "50",
        "max_concurrency": "8",
        "max_rate_limit_wait": "3600",
        "daily_requests": "20000",
        "verify": str(ca_file),
        "proxies": '{"https": "http://proxy.example:3128"}',
        "allow_insecure_http": "True",
        "something_else": "is not ours",
    }
    options = {name: OPTIONS[name](value) for name, value in options_in(texts).items()}
    assert options == {
        "auth_scheme": "Bearer",
        "product_id": "unpod.ai",
        "timeout": 12.5,
        "page_size": 50,
        "max_concurrency": 8,
        "max_rate_limit_wait": 3600.0,
        "daily_requests": 20_000,
        "verify": str(ca_file),
        "proxies": {"https": "http://proxy.example:3128"},
        "allow_insecure_http": True,
    }
    assert {name: OPTIONS[name](value) for name, value in options_in(options).items()} == options
    assert set(options) == set(OPTIONS)


def test_empty_fields_of_a_form_mean_the_default() -> None:
    assert options_in(dict.fromkeys(OPTIONS)) == {}
    assert options_in(dict.fromkeys(OPTIONS, " ")) == {}
    assert options_in({}) == {}


GOOD: dict[str, list[tuple[Any, Any]]] = {
    "auth_scheme": [("token", "Token"), ("JWT", "jwt"), ("Bearer", "Bearer"), (" jwt ", "jwt")],
    "timeout": [(30, 30.0), ("30", 30.0), (0.5, 0.5), ("1e2", 100.0)],
    "page_size": [(1, 1), ("100", 100), (20.0, 20)],
    "max_concurrency": [(1, 1), ("64", 64)],
    "verify": [(True, True), (False, False), ("false", False), ("TRUE", True), ("0", False), (1, True)],
    "allow_insecure_http": [(False, False), ("yes", True), ("off", False)],
    "proxies": [({}, {}), ("{}", {}), ({"http": "proxy:3128"}, {"http": "proxy:3128"})],
}
BAD: dict[str, list[Any]] = {
    "auth_scheme": ["Basic", "Token x", 7, True],
    "product_id": ["a\nb", "ü", "x\r\nY: z"],
    "timeout": [0, -1, "soon", "nan", float("inf"), True, [30], 1e9],
    "max_rate_limit_wait": [0, "0", -1, "soon", True, 90_000],
    "page_size": [0, -5, "many", 1.5, True, 10**9, "1.5"],
    "max_concurrency": [0, 65, "65", -1, 2.5, False],
    "verify": ["maybe", 2, [], 0.5],
    "allow_insecure_http": ["maybe", 2, []],
    "proxies": [
        *("http://proxy:3128", "[]", [], 7, "[" * 100_000, {"https": 7}, {"https": ""}, {1: "http://p"}),
        *(
            {"htps": "http://proxy:3128"},
            {"HTTPS_PROXY": "http://proxy:3128"},
            {"https": "socks5://p:1"},
            {"https": "http://p:99999"},
            {"https": "http://"},
        ),
    ],
}


@pytest.mark.parametrize(("name", "value", "means"), [(name, *case) for name, cases in GOOD.items() for case in cases])
def test_an_option_means_the_same_as_a_string_and_as_a_value(name: str, value: Any, means: Any) -> None:
    assert OPTIONS[name](value) == means
    UnpodClient("https://unpod.dev", "token", "acme", **{name: value}).close()


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_an_invalid_option_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(UnpodConfigError, match=f"`{name}`"):
        UnpodClient("https://unpod.dev", "token", "acme", **{name: value})


def test_a_missing_ca_file_is_not_a_permanent_error_because_another_worker_may_have_it() -> None:
    with pytest.raises(UnpodUnreachable, match=r"`verify`.*/no/such/file\.pem.*on every worker") as caught:
        UnpodClient("https://unpod.dev", "token", "acme", verify="/no/such/file.pem")
    assert not caught.value.permanent


def test_no_secret_of_a_wrong_field_is_shown() -> None:
    for extra in (
        {"auth_scheme": "tok-secret"},
        {"proxies": {"https": "socks5://carl:pr0xy-pw@proxy:1"}},
        {"proxies": json.dumps({"https": "http://carl:pr0xy-pw@proxy:99999"})},
    ):
        with pytest.raises(UnpodConfigError) as caught:
            UnpodClient("https://unpod.dev", "token", "acme", **extra)
        assert "secret" not in str(caught.value)
        assert "pr0xy-pw" not in str(caught.value)


def test_a_proxy_of_the_environment_that_cannot_be_used_is_refused(
    connect: Callable[..., UnpodClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://carl:pr0xy-pw@proxy:1080")
    with pytest.raises(UnpodConfigError, match="environment") as caught:
        connect("https://unpod.dev")
    assert "pr0xy-pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "sent"), [("tok-123", "tok-123"), (" tok-123\n", "tok-123"), (123456, "123456"), ("123456", "123456")]
)
def test_a_token_or_handle_of_digits_becomes_a_string_without_surrounding_blanks(value: Any, sent: str) -> None:
    with UnpodClient("https://unpod.dev", value, value) as client:
        assert client.org_handle == sent
        assert client.secrets == (sent,)


@pytest.mark.parametrize("value", [None, "", " ", True, 1.5, b"tok", "Token tok-123", "tok\n123", "t\u00f6k", [], {}])
def test_an_invalid_token_is_refused_by_its_field_and_never_shown(value: Any) -> None:
    with pytest.raises(UnpodConfigError, match=r"^Enter the API token \(`password`\)") as caught:
        UnpodClient("https://unpod.dev", value, "acme")
    assert "123" not in str(caught.value)


@pytest.mark.parametrize("value", [None, "", " ", True, 1.5, "a\nb", "\u00fc"])
def test_an_invalid_handle_is_refused_by_its_field(value: Any) -> None:
    with pytest.raises(UnpodConfigError, match=r"(?i)organization handle \(`login`"):
        UnpodClient("https://unpod.dev", "token", value)


def test_the_secrets_of_a_client_are_its_token_and_the_password_of_the_proxy_in_use() -> None:
    proxies = {"https": "http://me:pr0xy%2Fword@proxy:3128", "http": "http://me:unused@proxy:3128"}
    with UnpodClient("https://unpod.dev", "token", "acme", proxies=proxies) as client:
        assert client.secrets == ("token", "pr0xy%2Fword", "pr0xy/word")
    assert proxy_passwords("me:secret@proxy:3128") == ("secret", "secret")
    assert proxy_passwords("http://proxy:3128") == ()
