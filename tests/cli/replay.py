"""A server that replays a record of ``check``, with made-up values of the same types."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.billing.faulty_server import FaultyServer, Request, Step, answer

HANDLE = "acme"


@contextmanager
def replayed(record: dict[str, Any], *, connection: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    """The running server, with the connection ``unpod_default`` to it. An unknown page is the last of the record."""
    responses = record["responses"]
    pages = {json.dumps(one.get("request"), sort_keys=True): one for one in responses}
    falling = record.get("findings", {}).get("order") == "by id"

    def respond(request: Request) -> list[Step]:
        if "/organizations/" in request.path:
            return answer({"count": 1, "results": [{"domain_handle": HANDLE}]})
        asked = {name: int(request.query[name]) for name in ("page", "page_size")}
        found = pages.get(json.dumps(asked, sort_keys=True), responses[-1])
        return answer(body_of(found, falling), found.get("status", 200), dict.fromkeys(found.get("headers", ()), "x"))

    with FaultyServer(otherwise=respond) as server:
        fields = {"conn_type": "unpod", "host": server.url, "login": HANDLE, "password": "token"}
        connection.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", json.dumps(fields))
        yield server


def body_of(response: dict[str, Any], falling: bool) -> Any:
    rows = response.get("rows", 0)
    body = value_of(response["body"], 0)
    for name in ("results", "data"):
        shapes = response["body"].get(name) if isinstance(response["body"], dict) else None
        if isinstance(shapes, list):
            # Two thousand is not divided by seven: neither rising nor falling.
            numbers = [10_000 - each if falling else each * 2_000 % 10_007 for each in range(rows)]
            body[name] = [value_of(shapes[each % len(shapes)], number) for each, number in enumerate(numbers)]
            if "count" in body:
                body["count"] = {"missing": None, "equals rows": rows}.get(response["count"], rows * 10)
    return body


def value_of(shape: Any, number: int) -> Any:
    """Return a value of this shape. Ids are made from ``number``."""
    if isinstance(shape, dict):
        return {name: value_of(item, number) for name, item in shape.items()}
    if isinstance(shape, list):
        return [value_of(item, number) for item in shape]
    if not isinstance(shape, str):
        return shape
    if shape.startswith("text: decimal"):
        return "1." + "0" * int(shape.split()[3])
    known = {"integer": number, "decimal": 1.5, "boolean": True, "null": None, "text: date": "2026-02-01"}
    known |= {"text: whole number": "500"}
    known |= {"text: date and time": f"2026-{number % 12 + 1:02}-01T00:00:00Z", "text": f"INV-{number:05}"}
    return known.get(shape, shape)
