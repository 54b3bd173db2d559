"""Faults of the API, and drift: changes of the list during a read.

Both are written as short strings on the command line, in the control API and in Python: ``500:every=7``,
``429:times=3,retry_after=2``, ``delete-random:7``.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from airflow_provider_unpod.sandbox.ledger import Ledger

_JSON, _HTML = "application/json", "text/html"


def _message(status: int, text: str) -> tuple[int, str, bytes]:
    return status, _JSON, json.dumps({"status_code": status, "message": text}).encode()


def _html(status: int, title: str) -> tuple[int, str, bytes]:
    page = f"<html>\r\n<head><title>{title}</title></head>\r\n<body><center><h1>{title}</h1></center></body>\r\n</html>"
    return status, _HTML, page.encode()


#: Faults that replace the response: kind -> (HTTP status, content type, body).
RESPONSES: Final[Mapping[str, tuple[int, str, bytes]]] = MappingProxyType(
    {
        "400": _message(400, "Invalid parameters provided."),
        "401": _message(401, "Authentication credentials were not provided."),
        "403": _message(403, "Token has expired."),
        "404": _message(404, "Not found."),
        "429": (
            429,
            _JSON,
            b'{"error": {"code": "rate_limit_exceeded", "message": "Rate limit exceeded. Please try again later."}}',
        ),
        "500": _message(500, "Internal server error."),
        "502": _html(502, "502 Bad Gateway"),
        "503": _html(503, "503 Service Temporarily Unavailable"),
        # The backend reports business errors with HTTP 206. Clients that only check for 2xx treat it as a success.
        "206": (
            206,
            _JSON,
            b'{"message": "Error fetching billing data", "errors": "Organization Handle Not Found"}',
        ),
        "200-error": (
            200,
            _JSON,
            b'{"count": 0, "status_code": 400, "message": "Error fetching billing data", "results": [], "data": []}',
        ),
        "html": _html(200, "We will be right back"),
    }
)
#: Faults in sending the correct response.
TRANSFERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "broken-json": "half of the JSON, with a Content-Length that matches the half",
        "truncated": "the connection is closed after half of the body",
        "reset": "the connection is reset before anything is sent",
        "reset-body": "the connection is reset after half of the body",
        "drip": "the body arrives in small pieces, the last one after `seconds`",
        "delay": "the response arrives `seconds` later",
    }
)


@dataclass(frozen=True)
class Fault:
    """A fault. It affects the requests that meet all its conditions.

    :param kind: one of :data:`RESPONSES` or :data:`TRANSFERS`.
    :param times: maximum number of affected requests. ``None`` means no limit.
    :param every: affect every n-th request. ``every=50, times=1`` affects only the fiftieth.
    :param probability: probability, from 0 to 1, that a request is affected. The sandbox's seed makes it repeatable.
    :param page: affect only requests for this page. Other requests are not counted.
    :param retry_after: value of the ``Retry-After`` header. ``None`` sends no header.
    :param seconds: duration of ``drip`` and ``delay``.
    :raises ValueError: if the kind is unknown or a value is out of range.
    """

    kind: str
    times: int | None = None
    every: int = 1
    probability: float = 1.0
    page: int | None = None
    retry_after: str | None = None
    seconds: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in RESPONSES and self.kind not in TRANSFERS:
            raise ValueError(f"Unknown fault {self.kind!r}. Choose from {', '.join([*RESPONSES, *TRANSFERS])}.")
        if self.every < 1 or not 0 <= self.probability <= 1 or (self.times is not None and self.times < 0):
            raise ValueError(f"{self}: every must be at least 1, probability from 0 to 1, times at least 0.")
        if self.seconds < 0:
            raise ValueError(f"{self}: seconds must be at least 0.")

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Parse ``kind[:name=value,...]``, e.g. ``503:probability=0.05,retry_after=2``.

        :raises ValueError: if the string is invalid. The message says why.
        """
        kind, _, arguments = text.partition(":")
        given: dict[str, Any] = {}
        # A comma is a separator only before another name, because a Retry-After date contains commas.
        for argument in re.split(r",(?=\w+=)", arguments) if arguments else ():
            name, _, value = argument.partition("=")
            if name not in _PARSERS:
                raise ValueError(f"{text!r}: unknown condition {name!r}. Choose from {', '.join(_PARSERS)}.")
            try:
                given[name] = _PARSERS[name](value)
            except ValueError:
                raise ValueError(f"{text!r}: {name} cannot be {value!r}.") from None
        return cls(kind, **given)

    def __str__(self) -> str:
        arguments = [
            f"{field.name}={getattr(self, field.name)}"
            for field in fields(self)
            if field.name != "kind" and getattr(self, field.name) != field.default
        ]
        return self.kind + (":" + ",".join(arguments) if arguments else "")


_PARSERS: Final[Mapping[str, Callable[[str], Any]]] = MappingProxyType(
    {"times": int, "every": int, "probability": float, "page": int, "retry_after": str, "seconds": float}
)


class FaultPlan:
    """Chooses the fault for each request. If several faults match, the first one is used."""

    def __init__(self, faults: Iterable[Fault | str] = (), *, seed: int = 0) -> None:
        self.faults = tuple(fault if isinstance(fault, Fault) else Fault.parse(fault) for fault in faults)
        self._seen = [0] * len(self.faults)
        self._hit = [0] * len(self.faults)
        self._random = random.Random(seed)  # noqa: S311 - a run must be repeatable; nothing is secret here

    def choose(self, page: int | None) -> Fault | None:
        """Return the fault for the next request, if any. ``page`` is ``None`` if it is not a billing request."""
        chosen = None
        for i, fault in enumerate(self.faults):
            if fault.page is not None and fault.page != page:
                continue
            self._seen[i] += 1
            if (
                chosen is None
                and (fault.times is None or self._hit[i] < fault.times)
                and self._seen[i] % fault.every == 0
                and (fault.probability == 1 or self._random.random() < fault.probability)
            ):
                self._hit[i] += 1
                chosen = fault
        return chosen


#: Kinds of drift.
MOVES: Final[Mapping[str, Callable[[Ledger], object]]] = MappingProxyType(
    {
        "insert": lambda ledger: ledger.create(),
        "delete-front": lambda ledger: ledger.delete_at(0),
        "delete-random": lambda ledger: ledger.delete_random(),
    }
)


@dataclass(frozen=True)
class Drift:
    """A change of the list at every n-th billing request, before the response.

    :param kind: ``insert`` (a new invoice, placed by the order of the list), ``delete-front`` or ``delete-random``.
    :raises ValueError: if the kind is unknown, or ``every`` is below 1.
    """

    kind: str
    every: int

    def __post_init__(self) -> None:
        if self.kind not in MOVES or self.every < 1:
            raise ValueError(f"A drift must be KIND:EVERY, with KIND one of {', '.join(MOVES)} and EVERY at least 1.")

    @classmethod
    def parse(cls, text: str) -> Drift:
        """Parse ``kind:every``, e.g. ``delete-random:7``.

        :raises ValueError: if the string is invalid. The message says why.
        """
        kind, _, every = text.partition(":")
        return cls(kind, int(every) if every.isdecimal() else 0)

    def apply(self, ledger: Ledger, request_number: int) -> None:
        """Change the list if this request is due. Nothing is deleted from an empty list."""
        if request_number % self.every == 0 and (len(ledger) or self.kind == "insert"):
            MOVES[self.kind](ledger)
