"""Turns a response into rows or an error.

The expected formats come from the published page of the billing endpoint, from older pages, and from Unpod's
open-source backend (the ``data`` envelope, business errors with HTTP 206, "Invalid page." with HTTP 404). Any other
response is an error and never an empty list, since firewalls, proxies and other websites respond as well.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from airflow_provider_unpod.billing.errors import (
    UnpodAuthError,
    UnpodBadAnswer,
    UnpodBadRequest,
    UnpodError,
    UnpodOrganizationNotFound,
    UnpodRateLimited,
    UnpodUnavailable,
    UnpodUnreachable,
    short_repr,
    shorten,
)

if TYPE_CHECKING:
    from airflow_provider_unpod.billing.http.transport import Response

#: Deeper than any billing row. Values nested more deeply would break recursive code, for example in file formats.
_MAX_DEPTH = 32
_SHOWN = 300
_CHECK_HOST = "Check Host (`host`)"
_ERROR_FIELDS = frozenset({"status_code", "message", "detail", "error", "errors"})
#: Responses of nginx, Apache and Go to plain http on an https port.
_WANTS_TLS = re.compile(rb"(?i)plain HTTP request was sent to HTTPS port|HTTP request to an HTTPS server|SSL-enabled")


class Unreadable(Exception):
    """The response was probably truncated, altered or replaced in transit. A retry may succeed."""


def rows_of(response: Response) -> tuple[list[dict[str, Any]], int | None]:
    """Return the rows of a 200 in either dialect, and its ``count`` (``None`` if missing or null).

    :raises Unreadable: if the body may have been truncated in transit.
    :raises UnpodBadAnswer: if the response has no list of rows, or contains an error.
    """
    envelope = parse(response.body)
    if not isinstance(envelope, dict):
        raise UnpodBadAnswer(f"{_CHECK_HOST}: it returned {_kind(envelope)}, but Unpod returns an object with rows.")
    lists = [envelope[name] for name in ("results", "data") if isinstance(envelope.get(name), list)]
    rows = lists[0] if lists else None
    # A flat response has one bracket per row and three around them. Only a response with more can be deep.
    brackets = response.body.count(b"{") + response.body.count(b"[")
    if brackets > len(rows or ()) + 3 and _deeper(envelope, _MAX_DEPTH):
        raise UnpodBadAnswer(f"Unpod's response is nested more than {_MAX_DEPTH} levels deep.")
    code = envelope.get("status_code")
    if isinstance(code, str) and code.strip().isdecimal() and len(code) < 10:
        code = int(code)
    if isinstance(code, (int, Decimal)) and (code >= 400 or code == 206):
        raise UnpodBadAnswer(f"Unpod reports an error inside a response with HTTP 200: {error_text(response)}")
    if rows is None:
        raise UnpodBadAnswer(
            f"{_CHECK_HOST}: its response has no list of rows under `results` or `data`: "
            f"{error_text(response) if _words(envelope) else f'it begins with {_beginning(response.body)}'}."
        )
    if any(other != rows for other in lists):
        sizes = " and ".join(str(len(each)) for each in lists)
        raise UnpodBadAnswer(f"Unpod's response has different rows under `results` and `data` ({sizes} rows).")
    if not all(type(row) is dict for row in rows):
        strange = next(row for row in rows if type(row) is not dict)
        raise UnpodBadAnswer(f"Rows in Unpod's response must be objects, got {_kind(strange)}.")
    count = envelope.get("count")
    if count is not None and (type(count) is not int or count < 0):
        raise UnpodBadAnswer(f"`count` in Unpod's response must be a number of rows, got {short_repr(count, _SHOWN)}.")
    return rows, count


def parse(body: bytes) -> Any:
    """Parse ``body`` as JSON. A number with a fraction becomes a ``Decimal``.

    :raises Unreadable: if the body is empty, or begins like JSON but is not JSON.
    :raises UnpodBadAnswer: if it is not JSON, or contains a value that no file format can represent.
    """
    try:
        text = str(body, "utf-8").removeprefix("\ufeff")
        value = _DECODER.decode(text)
        if b"\\" in body and (b"\\ud" in body or b"\\uD" in body):
            # Only an escape can contain half a character, which could not be written to a file.
            json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        raise UnpodBadAnswer("Unpod's response contains an unpaired Unicode surrogate.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as err:
        if body.lstrip()[:1] in (b"", b"{", b"["):
            if not body.strip():
                raise Unreadable("Try later, or check Host (`host`): its response is empty.") from None
            why = shorten(str(err), 100)
            raise Unreadable(f"Try later: Unpod's response is not a complete JSON document ({why}).") from None
        raise UnpodBadAnswer(f"{_CHECK_HOST}: its response is not JSON, it begins with {_beginning(body)}.") from None
    except (ValueError, InvalidOperation):
        raise UnpodBadAnswer(
            "Unpod's response contains an invalid number (NaN, Infinity or absurdly many digits)."
        ) from None
    except RecursionError:
        raise UnpodBadAnswer("Unpod's response is nested too deeply.") from None
    return value


def refusal(response: Response, page: int | None, org_handle: str) -> UnpodError:
    """Build the error for a response other than 200.

    :param page: number of the requested page. ``None`` if the endpoint has no pages.
    :param org_handle: handle of the requested organization.
    :raises Unreadable: if the response is not from the API and a retry may reach the API.
    """
    status, said = response.status, error_text(response)
    if status == 407:
        return UnpodUnreachable("Check Proxies (`proxies`): the proxy rejects the credentials in its URL.")
    if status == 429:
        return UnpodRateLimited(f"Try later: Unpod's rate limit is used up: {said}")
    if status == 511:
        return UnpodUnavailable("Sign in to the network: it wants a login before it lets requests pass.")
    if status == 408 or status >= 500:
        return UnpodUnavailable(f"Try later: Unpod is not available: {said}")
    if status >= 400:
        return _client_error(response, page, org_handle, said)
    if status >= 300:
        return UnpodBadAnswer(
            f"Check Host (`host`): it redirects{_target(response)}. Redirects are not followed, because the token must "
            "not go to another address: if the API is there now, enter that address."
        )
    if status == 206:
        return UnpodBadAnswer(f"Unpod reports an error with HTTP 206: {said}")
    return UnpodBadAnswer(f"{_CHECK_HOST}: it responded with an unexpected HTTP status: {said}")


def _client_error(response: Response, page: int | None, org_handle: str, said: str) -> UnpodError:
    status = response.status
    if status == 400 and _WANTS_TLS.search(response.body[:4096]):
        return UnpodUnreachable("Check Host (`host`): the server speaks https there, not http.")
    if not _is_from_api(response):
        what = (
            f"HTTP {status}, beginning with {_beginning(response.body)}" if response.body else f"an empty HTTP {status}"
        )
        if status in (401, 403):
            # Bot challenges and firewall limits are temporary. The API itself reports a wrong token as JSON.
            raise Unreadable(
                f"{_CHECK_HOST}, firewall and proxy: one of them refuses the request, not Unpod's API ({what})."
            )
        return UnpodBadAnswer(f"{_CHECK_HOST}: the response is not from Unpod's API ({what}).")
    if status in (401, 403):
        return UnpodAuthError(
            f"Check API token (`password`) and Organization handle (`login` or `org_handle`): Unpod refuses the token, "
            f"or its access to {org_handle!r}: {said}"
        )
    if status == 404 and page is not None:
        return UnpodOrganizationNotFound(
            f"Check Organization handle (`login` or `org_handle`): Unpod has no organization {org_handle!r}, or Host "
            f"(`host`) is not an Unpod API: {said}"
        )
    if status == 404:
        return UnpodBadRequest(f"{_CHECK_HOST}: it has no list of organizations: {said}")
    if status in (400, 422):
        return UnpodBadRequest(
            "Check Organization handle (`login` or `org_handle`) and Product ID (`product_id`): Unpod refuses the "
            f"request: {said}"
        )
    return UnpodBadRequest(f"{_CHECK_HOST}: it refuses the request with HTTP {status}: {said}")


def _is_from_api(response: Response) -> bool:
    """Return whether an error response is from the API: a JSON object with a field of the API's errors."""
    try:
        envelope = parse(response.body)
    except (Unreadable, UnpodBadAnswer):
        return False
    return isinstance(envelope, dict) and not _ERROR_FIELDS.isdisjoint(envelope)


def is_object(response: Response) -> bool:
    """Return whether the body is a JSON object. All responses of the API are, pages of proxies are not."""
    try:
        return isinstance(parse(response.body), dict)
    except (Unreadable, UnpodBadAnswer):
        return False


def error_text(response: Response) -> str:
    """Return the API's error message, or the reason phrase of the HTTP status if there is none."""
    try:
        envelope = parse(response.body[:100_000])
        words = _words(envelope) if isinstance(envelope, dict) else []
    except (Unreadable, UnpodBadAnswer, RecursionError):
        words = []
    text = " / ".join(dict.fromkeys(words)) or response.reason or "no message"
    return shorten(" ".join("".join(c if c.isprintable() else " " for c in text).split()), _SHOWN)


def _words(envelope: dict[str, Any]) -> list[str]:
    error = envelope.get("error")
    inner = [error.get("code"), error.get("message")] if isinstance(error, dict) else [error]
    return [str(word) for word in (*inner, *map(envelope.get, ("message", "detail", "errors"))) if word]


def _beginning(body: bytes) -> str:
    """Return the beginning of ``body`` as printable text."""
    text = str(body[:80], "utf-8", "replace")
    return repr(" ".join("".join(c if c.isprintable() else " " for c in text).split()))


def _target(response: Response) -> str:
    """Return the target of a redirect, without the parts that may be secret."""
    try:
        parts = urlsplit(response.headers.get("Location") or "")
        port = f":{parts.port}" if parts.port else ""
        where = f"{parts.scheme}://{parts.hostname}{port}{parts.path}" if parts.hostname else parts.path
    except ValueError:
        return ""
    return f" to {shorten(re.sub(r'[^!-~]', '', where), _SHOWN)}" if where else ""


def _deeper(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return False
    return levels == 0 or any(_deeper(item, levels - 1) for item in value)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    return names.get(type(value), "a number")


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_float=Decimal, parse_constant=_refuse)
