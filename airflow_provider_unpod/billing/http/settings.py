"""The client's options, as code or as the text fields of a connection give them, checked one by one.

A form, an environment variable and a URI know only texts: ``"30"`` is 30 and ``"true"`` is ``True``. Every error
names the connection field that is wrong and says what to enter; none repeats a value that may be a secret.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_unpod.billing.errors import UnpodConfigError

#: The schemes that Unpod's pages and backend name, in the spelling in which they are sent.
AUTH_SCHEMES = ("Token", "jwt", "Bearer")
MAX_CONCURRENCY = 64
_MAX_PAGE_SIZE = 100_000
_MAX_TIMEOUT = 86_400.0
_PROXY_SCHEMES = ("http", "https")
_FLAGS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def settings_from_extra(extra: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of ``UnpodClient`` that a connection's ``extra`` holds; empty fields are left out.

    :raises UnpodConfigError: naming the field that is wrong and what to enter.
    """
    given = {name: extra.get(name) for name in EXTRA_FIELDS}
    return {
        name: _CHECKS[name](value)
        for name, value in given.items()
        if value is not None and not (isinstance(value, str) and not value.strip())
    }


def unknown_fields(extra: Mapping[str, Any]) -> list[str]:
    """The keys of an ``extra`` that mean nothing here; Airflow 2's own spelling of a form's field is not reported."""
    return sorted(name for name in extra if name not in EXTRA_FIELDS and not name.startswith("extra__"))


def token(value: str | None) -> str:
    """The API token; never shown, not even its wrong character."""
    if not value:
        raise UnpodConfigError("The connection's `password` is empty: enter the API token there.")
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or " " in value:
        raise UnpodConfigError(
            "The connection's `password` is no API token: it holds a space, a line break or a character that "
            "no HTTP header can carry. Enter the token alone, without `Token` or `Bearer` in front of it."
        )
    return value


def org_handle(value: str | None) -> str:
    """The organisation handle, the ``domain_handle`` of the organisations endpoint."""
    if value is None or not str(value).strip():
        raise UnpodConfigError(
            "There is no organisation handle: enter it in the connection's `login`, for example `unpod.tv`, or give "
            "`org_handle`."
        )
    return header_value(value, "The organisation handle (`org_handle`, or the connection's `login`)")


def header_value(value: Any, subject: str) -> str:
    """A text that can stand in an HTTP header; ``subject`` is what an error is about."""
    text = value.strip() if isinstance(value, str) else str(value)
    if not text.isascii() or not text.isprintable():
        raise UnpodConfigError(
            f"{subject} holds a line break or a character that no HTTP header can carry: enter plain letters, digits "
            "and signs."
        )
    return text


def product_id(value: Any) -> str:
    """The ``Product-Id`` header."""
    return header_value(value, "The connection's extra `product_id`")


def auth_scheme(value: Any) -> str:
    """The word before the token, matched whatever its case."""
    for scheme in AUTH_SCHEMES:
        if isinstance(value, str) and value.strip().lower() == scheme.lower():
            return scheme
    # Not shown: people paste the token into the wrong field.
    raise UnpodConfigError("The connection's extra `auth_scheme` is unknown: enter `Token`, `jwt` or `Bearer`.")


def timeout(value: Any) -> float:
    """Seconds that one whole request may take."""
    seconds = _number(value, float)
    if seconds is None or not 0 < seconds <= _MAX_TIMEOUT:
        raise UnpodConfigError(
            "The connection's extra `timeout` is no time: enter the seconds that one whole request may take, "
            "for example 30."
        )
    return float(seconds)


def page_size(value: Any) -> int:
    """Rows asked for in one page."""
    return _whole(value, "page_size", _MAX_PAGE_SIZE, example=100)


def max_concurrency(value: Any) -> int:
    """Requests in flight at once."""
    return _whole(value, "max_concurrency", MAX_CONCURRENCY, example=4)


def argument_of_reading(name: str, value: Any) -> int:
    """``page_size`` or ``max_concurrency`` for one reading, in the same limits; in Python code a text is no number."""
    return int(_CHECKS[name](None if isinstance(value, str) else value))


def verify(value: Any) -> bool | str:
    """Whether, or against which CA file or directory, the server's certificate is checked."""
    flag = _flag(value)
    if flag is not None:
        return flag
    if isinstance(value, (str, os.PathLike)):
        path = Path(os.fspath(value).strip()).expanduser()
        if path.exists():
            return str(path)
    raise UnpodConfigError(
        "The connection's extra `verify` is neither true nor false nor a file that is there: enter `true`, or the "
        "path of a CA file that every worker and triggerer can read."
    )


def allow_insecure_http(value: Any) -> bool:
    """Whether the token may be sent over plain http to another machine."""
    flag = _flag(value)
    if flag is None:
        raise UnpodConfigError("The connection's extra `allow_insecure_http` is no yes or no: enter `true` or `false`.")
    return flag


def proxies(value: Any) -> dict[str, str]:
    """Proxy URLs by scheme of the address asked for, as ``requests`` takes them; they may hold credentials."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, Mapping) or not all(isinstance(scheme, str) for scheme in value):
        raise _bad_proxies()
    return {scheme: proxy_url(url) for scheme, url in value.items()}


def proxy_url(url: Any) -> str:
    """One proxy's URL. SOCKS is refused: through it, neither the deadline nor a cancelled read would hold."""
    if not isinstance(url, str):
        raise _bad_proxies()
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme.lower() in _PROXY_SCHEMES and parts.hostname and (parts.port is None or parts.port > 0):
            return url
    except ValueError:
        pass
    raise _bad_proxies()


def _bad_proxies() -> UnpodConfigError:
    return UnpodConfigError(
        "The connection's extra `proxies` (or a proxy of the environment) is no set of http proxies: enter for "
        'example {"https": "http://proxy.example:3128"}. SOCKS proxies are not supported.'
    )


def _flag(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _FLAGS.get(value.strip().lower())
    if isinstance(value, int):
        return bool(value) if value in (0, 1) else None
    return None


def _number(value: Any, kind: type[int] | type[float]) -> int | float | None:
    """``value`` as a finite number of ``kind``; ``None`` where it is none (so is ``True``, and 1.5 for an int)."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = kind(value)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(number) or (not isinstance(value, str) and number != value):
        return None
    return number


def _whole(value: Any, name: str, most: int, example: int) -> int:
    number = _number(value, int)
    if number is None or not 1 <= number <= most:
        raise UnpodConfigError(f"`{name}` must be a whole number from 1 to {most}, for example {example}.")
    return int(number)


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "auth_scheme": auth_scheme,
    "product_id": product_id,
    "timeout": timeout,
    "page_size": page_size,
    "max_concurrency": max_concurrency,
    "verify": verify,
    "proxies": proxies,
    "allow_insecure_http": allow_insecure_http,
}
#: The fields of a connection's extra, each of them an argument of ``UnpodClient``.
EXTRA_FIELDS = tuple(_CHECKS)
