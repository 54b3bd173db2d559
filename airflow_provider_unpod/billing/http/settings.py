"""Validators for the client's options, as Python values or as strings from a connection.

Forms, environment variables and URIs contain only strings, so ``"30"`` means 30 and ``"true"`` means ``True``. Every
error names the field and says what to enter. No error shows a value that may be a secret.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from airflow_provider_unpod.billing.arguments import whole_number_of
from airflow_provider_unpod.billing.errors import UnpodConfigError, UnpodUnreachable, short_repr

#: Schemes from Unpod's documentation and backend, spelled as they are sent.
AUTH_SCHEMES = ("Token", "jwt", "Bearer")
MAX_CONCURRENCY = 64
#: Default of ``daily_requests``: a third of the free plan.
DAILY_REQUESTS = 3_333
_MAX_DAILY_REQUESTS = 1_000_000_000
_MAX_PAGE_SIZE = 100_000
#: Default of ``max_rate_limit_wait``: a minute's limit resets within that time even if many workers share it.
MAX_RATE_LIMIT_WAIT = 900.0
_SECONDS_A_DAY = 86_400.0
_PROXY_SCHEMES = ("http", "https")
#: What a proxy is for: a scheme, perhaps with a host, as ``requests`` has it.
_PROXIED = re.compile(r"(https?|all)(://[^/\s]+)?").fullmatch
_FLAGS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def options_in(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments for ``UnpodClient`` in a connection's ``extra``, without validating them.

    Empty fields are omitted, because a form saves all of its fields.
    """
    given = {name: extra.get(name) for name in OPTIONS}
    return {name: value for name, value in given.items() if value is not None and str(value).strip()}


def unknown_fields(extra: Mapping[str, Any]) -> list[str]:
    """List the keys of ``extra`` that have no effect. Keys with Airflow 2's prefix ``extra__`` are not reported."""
    return sorted(name for name in extra if name not in OPTIONS and not name.startswith("extra__"))


def token(value: Any) -> str:
    """Check the API token. Error messages never contain any part of it."""
    if value is None or value == "":
        raise UnpodConfigError("Enter the API token (`password`): it is empty.")
    text = _text(value)
    if text and not text.strip("*"):
        raise UnpodConfigError("Enter the API token (`password`) again: it is ***, as Airflow shows secrets.")
    if not text or not _is_header_value(text) or " " in text:
        raise UnpodConfigError(
            "Enter the API token (`password`) alone, without `Token` or `Bearer` before it: it must be printable "
            "ASCII characters without spaces or line breaks."
        )
    return text


def org_handle(value: Any) -> str:
    """Check the organization handle. The organizations endpoint calls it ``domain_handle``."""
    text = _text(value)
    if not text:
        raise UnpodConfigError(
            "Enter the organization handle (`login`), for example unpod.tv, or pass `org_handle`: it is missing."
        )
    if not _is_header_value(text):
        raise UnpodConfigError(
            "The organization handle (`login`, or `org_handle`) must be printable ASCII characters without line breaks."
        )
    return text


def product_id(value: Any) -> str:
    """Check the ``Product-Id`` header."""
    text = _text(value)
    if text is None or not _is_header_value(text):
        raise UnpodConfigError("Product ID (`product_id`) must be printable ASCII characters, for example unpod.ai.")
    return text


def auth_scheme(value: Any) -> str:
    """Check the scheme in front of the token, ignoring case."""
    for scheme in AUTH_SCHEMES:
        if isinstance(value, str) and value.strip().lower() == scheme.lower():
            return scheme
    # The value is not shown, because people paste the token into the wrong field.
    raise UnpodConfigError("Authorization scheme (`auth_scheme`) must be Token, jwt or Bearer.")


def timeout(value: Any) -> float:
    """Check the time limit for one whole request, in seconds."""
    return _seconds(value, "Timeout", "timeout")


def page_size(value: Any) -> int:
    """Check the number of rows per page."""
    return _whole_number(value, "Page size", "page_size", _MAX_PAGE_SIZE)


def max_concurrency(value: Any) -> int:
    """Check the number of requests in flight."""
    return _whole_number(value, "Max. concurrency", "max_concurrency", MAX_CONCURRENCY)


def max_rate_limit_wait(value: Any) -> float:
    """Check the longest wait of one request for the rate limit, in seconds."""
    return _seconds(value, "Max. rate limit wait", "max_rate_limit_wait")


def daily_requests(value: Any) -> int:
    """Check the number of requests a day that waits may make beyond what they need."""
    return _whole_number(value, "Daily requests", "daily_requests", _MAX_DAILY_REQUESTS)


def argument_of_reading(value: Any, name: str) -> int:
    """Check ``page_size`` or ``max_concurrency`` as a Python argument. Unlike in a connection, a string is invalid."""
    return whole_number_of(value, name, most=_MAX_PAGE_SIZE if name == "page_size" else MAX_CONCURRENCY)


def verify(value: Any) -> bool | str:
    """Check the TLS setting: true, false, or the path of a CA file or directory.

    :raises UnpodUnreachable: if a path does not exist on this machine. It may exist on others that run the task.
    """
    flag = _flag(value)
    if flag is not None:
        return flag
    if isinstance(value, (str, os.PathLike)):
        path = Path(os.fspath(value).strip()).expanduser()
        if path.exists():
            return str(path)
    kind = UnpodUnreachable if isinstance(value, (str, os.PathLike)) and path.is_absolute() else UnpodConfigError
    raise kind(
        f"Verify TLS (`verify`) must be true, false or an existing CA file, got {short_repr(value)}. The file must be "
        "on every worker and triggerer."
    )


def allow_insecure_http(value: Any) -> bool:
    """Check whether the token may be sent over plain http to another machine."""
    flag = _flag(value)
    if flag is None:
        raise UnpodConfigError(
            f"Allow insecure HTTP (`allow_insecure_http`) must be true or false, got {short_repr(value)}."
        )
    return flag


def proxies(value: Any) -> dict[str, str]:
    """Check a mapping from URL scheme to proxy URL, as ``requests`` accepts it. Proxy URLs may contain credentials."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, Mapping) or not all(isinstance(scheme, str) and _PROXIED(scheme) for scheme in value):
        raise _bad_proxies()
    return {scheme: proxy_url(url) for scheme, url in value.items()}


def proxy_url(url: Any) -> str:
    """Check a proxy URL. SOCKS is refused, because deadlines and cancellation would not work through it."""
    if not isinstance(url, str):
        raise _bad_proxies()
    try:
        parts = _proxy_parts(url)
        if parts.scheme.lower() in _PROXY_SCHEMES and parts.hostname and (parts.port is None or parts.port > 0):
            return url
    except ValueError:
        pass
    raise _bad_proxies()


def proxy_passwords(url: str) -> tuple[str, ...]:
    """Return the password in a proxy URL, both URL-encoded and decoded. Empty if there is none."""
    password = _proxy_parts(url).password
    return (password, unquote(password)) if password else ()


def _proxy_parts(url: str) -> Any:
    return urlsplit(url if "://" in url else f"http://{url}")


def _bad_proxies() -> UnpodConfigError:
    return UnpodConfigError(
        'Proxies (`proxies`) must be a JSON object such as {"https": "http://proxy.example:3128"}, with http proxies '
        "only (SOCKS is not supported). The same applies to HTTP_PROXY and HTTPS_PROXY in the environment."
    )


def _is_header_value(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _text(value: Any) -> str | None:
    """Return a stripped string, or the digits of an integer (JSON and native templates yield them). Else ``None``."""
    if type(value) is int:
        return str(value)
    return value.strip() if isinstance(value, str) else None


def _flag(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _FLAGS.get(value.strip().lower())
    return bool(value) if type(value) is int and value in (0, 1) else None


def _whole_number(value: Any, label: str, name: str, most: int) -> int:
    try:
        return whole_number_of(_number(value), name, most=most)
    except UnpodConfigError as error:
        raise UnpodConfigError(error.message.replace(f"`{name}`", f"{label} (`{name}`)", 1)) from None


def _seconds(value: Any, label: str, name: str) -> float:
    try:
        seconds = float("nan" if isinstance(value, bool) else value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 < seconds <= _SECONDS_A_DAY:
        raise UnpodConfigError(
            f"{label} (`{name}`) must be seconds above 0, at most {_SECONDS_A_DAY:g}; got {short_repr(value)}."
        )
    return seconds


def _number(value: Any) -> Any:
    """Convert digits (from URIs) and ``20.0`` (from forms) to an integer. Return any other value unchanged."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    text = value.strip() if isinstance(value, str) else ""
    return int(text) if text.isdecimal() and len(text) < 10 else value


#: Validators by field of a connection's extra. Each field is an argument of ``UnpodClient``.
OPTIONS: dict[str, Callable[[Any], Any]] = {
    "auth_scheme": auth_scheme,
    "product_id": product_id,
    "timeout": timeout,
    "page_size": page_size,
    "max_concurrency": max_concurrency,
    "max_rate_limit_wait": max_rate_limit_wait,
    "daily_requests": daily_requests,
    "verify": verify,
    "proxies": proxies,
    "allow_insecure_http": allow_insecure_http,
}
