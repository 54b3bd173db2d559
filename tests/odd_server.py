"""A server that repeats the request's headers in its response. The organization handle selects how."""

from __future__ import annotations

import json

from tests.billing.faulty_server import FaultyServer, Request, Step, answer, page

#: The organization handles.
KINDS = ("redirect", "echo-400", "echo-401", "echo-403", "echo-206", "echo-page", "echo-row")
TOKEN = "tok-5EcReT-of-the-odd-server"


def odd_server() -> FaultyServer:
    """Return the server as a context manager that starts it."""
    return FaultyServer(otherwise=_answer)


def _answer(request: Request) -> list[Step]:
    said = json.dumps(dict(request.headers))
    kind = request.headers.get("org-handle", "")
    if kind == "redirect":
        return answer(said, 302, {"Location": f"/elsewhere?{request.headers['authorization'].replace(' ', '+')}"})
    if kind == "echo-page":
        return answer(f"<html>{said}</html>")
    if kind == "echo-row":
        return page(results=[{"id": said, "amount": said, "currency": "USD", "status": "paid"}])
    status = int(kind.removeprefix("echo-"))
    return answer({"status_code": status, "message": said, "errors": said}, status)
