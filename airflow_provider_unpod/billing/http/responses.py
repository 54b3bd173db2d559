"""What an answer of the API means: rows, or the error that it is.

Shapes and statuses: the published page of the billing endpoint, older pages of it, and the conventions of Unpod's
open-source backend (the ``data`` envelope, business errors with HTTP 206, "Invalid page." with HTTP 404). An answer
that fits none of them is never taken for an empty list.
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

#: Deeper than anything a billing row holds; what is deeper breaks whoever walks through the row later.
_MAX_DEPTH = 32
_SHOWN = 300


class Unreadable(Exception):
    """The body begins like JSON but is none: most likely cut or mangled on its way, so worth asking again."""


def rows_of(answer: Response) -> tuple[list[dict[str, Any]], int | None]:
    """The rows of a 200 in either dialect, and its ``count`` (``None`` where missing or null).

    :raises Unreadable: if the body may have been cut on its way.
    :raises UnpodBadAnswer: if it is no answer with rows.
    """
    envelope = parse(answer.body)
    if not isinstance(envelope, dict):
        raise UnpodBadAnswer(f"Unpod answered with {_kind(envelope)} where an object with a list of rows was expected.")
    rows = next((envelope[name] for name in ("results", "data") if isinstance(envelope.get(name), list)), None)
    # One bracket a row and three around them: only an answer with more can be deep.
    brackets = answer.body.count(b"{") + answer.body.count(b"[")
    if brackets > len(rows or ()) + 3 and _deeper(envelope, _MAX_DEPTH):
        raise UnpodBadAnswer(f"Unpod's answer is nested more than {_MAX_DEPTH} levels deep.")
    code = envelope.get("status_code")
    if isinstance(code, str) and code.strip().isdecimal() and len(code) < 10:
        code = int(code)
    if isinstance(code, (int, Decimal)) and (code >= 400 or code == 206):
        raise UnpodBadAnswer(
            f"Unpod answered with HTTP 200, but the answer itself reports an error: {error_text(answer)}"
        )
    if rows is None:
        raise UnpodBadAnswer(f"Unpod's answer has no list of rows under `results` or `data`: {error_text(answer)}")
    if not all(type(row) is dict for row in rows):
        strange = next(row for row in rows if type(row) is not dict)
        raise UnpodBadAnswer(f"Unpod's answer has {_kind(strange)} in its list of rows, where an object was expected.")
    count = envelope.get("count")
    if count is not None and (type(count) is not int or count < 0):
        raise UnpodBadAnswer(f"Unpod's answer has a `count` that is no number of rows: {short_repr(count, _SHOWN)}")
    return rows, count


def parse(body: bytes) -> Any:
    """``body`` as JSON, numbers with a fraction as the ``Decimal`` of their digits.

    :raises Unreadable: if it begins like JSON, or is empty, but is none.
    :raises UnpodBadAnswer: if it is something else, or holds what no other program could read.
    """
    try:
        text = str(body, "utf-8").removeprefix("\ufeff")
        value = _DECODER.decode(text)
        if b"\\" in body and (b"\\ud" in body or b"\\uD" in body):
            # The only way for half a character to get in; it could be written to no file.
            json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        raise UnpodBadAnswer("Unpod's answer holds half a Unicode character.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as err:
        if body.lstrip()[:1] in (b"", b"{", b"["):
            raise Unreadable(f"Unpod's answer is no whole JSON document ({shorten(str(err), 100)}).") from None
        raise UnpodBadAnswer(
            f"Unpod's answer is not JSON but begins with {short_repr(body[:80], _SHOWN)}: does the connection's `host` "
            "name an Unpod API?"
        ) from None
    except (ValueError, InvalidOperation):
        raise UnpodBadAnswer("Unpod's answer holds a number that is none, or one beyond all reason.") from None
    except RecursionError:
        raise UnpodBadAnswer("Unpod's answer is nested too deep to be read.") from None
    return value


def refusal(answer: Response, page: int | None, org_handle: str) -> UnpodError:
    """The error that an answer other than 200 is.

    :param page: the page asked for, ``None`` where there are no pages.
    :param org_handle: the organisation asked for.
    """
    status = answer.status
    said = error_text(answer)
    if status in (401, 403):
        return UnpodAuthError(
            f"Unpod refuses the token (the connection's `password`), or it is not one of organisation {org_handle!r} "
            f"(`org_handle`, or the connection's `login`): {said}"
        )
    if status == 404 and page is not None:
        return UnpodOrganizationNotFound(
            f"Unpod knows no organisation {org_handle!r} (`org_handle`, or the connection's `login`), or there is no "
            f"billing at the address in `host`: {said}"
        )
    if status == 407:
        return UnpodUnreachable("Check Proxies (`proxies`): the proxy asks for other credentials in its URL.")
    if status == 429:
        return UnpodRateLimited(f"Unpod's rate limit is used up: {said}")
    if status == 408 or status >= 500:
        return UnpodUnavailable(f"Unpod is not available: {said}")
    if status >= 400:
        return UnpodBadRequest(f"Unpod refuses the request: {said}")
    if status >= 300:
        return UnpodBadAnswer(
            f"Unpod answered with a redirect{_target(answer)}, which is not followed, because the token must not go "
            "to another address: if that is where the API is now, enter it in the connection's `host`."
        )
    if status == 206:
        return UnpodBadAnswer(f"Unpod reports an error with HTTP 206: {said}")
    return UnpodBadAnswer(f"Unpod answered with an unexpected HTTP status: {said}")


def is_object(answer: Response) -> bool:
    """Whether the body is a JSON object, as every answer of the API itself is, and none of a proxy's pages."""
    try:
        return isinstance(parse(answer.body), dict)
    except (Unreadable, UnpodBadAnswer):
        return False


def error_text(answer: Response) -> str:
    """The API's own words: its message, or failing that the reason of the HTTP status."""
    try:
        envelope = parse(answer.body[:100_000])
        words = _words(envelope) if isinstance(envelope, dict) else []
    except (Unreadable, UnpodBadAnswer, RecursionError):
        words = []
    text = " / ".join(dict.fromkeys(words)) or answer.reason or "no message"
    return shorten(" ".join("".join(c if c.isprintable() else " " for c in text).split()), _SHOWN)


def _words(envelope: dict[str, Any]) -> list[str]:
    error = envelope.get("error")
    inner = [error.get("code"), error.get("message")] if isinstance(error, dict) else [error]
    return [str(word) for word in (*inner, *map(envelope.get, ("message", "detail", "errors"))) if word]


def _target(answer: Response) -> str:
    """Where a redirect points, without what may be secret in it."""
    try:
        parts = urlsplit(answer.headers.get("Location") or "")
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
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return names.get(type(value), "a number")


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_float=Decimal, parse_constant=_refuse)
