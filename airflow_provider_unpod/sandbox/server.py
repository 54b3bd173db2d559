"""Serves the Unpod billing API over HTTP, and a control API under ``/sandbox/`` that the real one does not have."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import struct
import threading
import time
from collections import Counter, deque
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiohttp import web

from airflow_provider_unpod.sandbox.faults import RESPONSES, TRANSFERS, Drift, Fault, FaultPlan
from airflow_provider_unpod.sandbox.ledger import Ledger, LedgerInvoice
from airflow_provider_unpod.sandbox.settings import DEFAULT_PAGE_SIZE, EXPIRED_TOKEN, Settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

BILLING: Final = "/api/v2/platform/organisation/billing/"
ORGANIZATIONS: Final = "/api/v2/platform/organizations/"
AUTH_SCHEMES: Final = frozenset({"token", "jwt", "bearer"})
#: Number of requests in the log of the statistics.
REMEMBERED: Final = 1_000
#: Seconds between two pieces of a drip.
DRIP_INTERVAL: Final = 0.05
#: Faults that break the connection. Statistics count them by name instead of by HTTP status.
BREAKS: Final = frozenset({"truncated", "reset", "reset-body"})
#: SO_LINGER with a timeout of zero, so that closing the socket sends a reset.
_LINGER_RESET: Final = struct.pack("ii", 1, 0)


class Reply(NamedTuple):
    """A response before any fault is applied to it."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: dict[str, str] | None = None


def _message(status: int, text: str) -> Reply:
    return _json({"status_code": status, "message": text}, status)


def _json(value: Any, status: int = 200) -> Reply:
    return Reply(status, json.dumps(value).encode())


class Stats:
    """Statistics of API requests, without control requests. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_flight = 0
        self.reset()

    def reset(self) -> None:
        """Clear everything except the number of requests in flight."""
        with self._lock:
            self._requests = 0
            self._max_in_flight = self._in_flight
            self._paths: Counter[str] = Counter()
            self._statuses: Counter[str] = Counter()
            self._log: deque[dict[str, Any]] = deque(maxlen=REMEMBERED)

    def begin(self, path: str, page: str | None, page_size: str | None) -> dict[str, Any]:
        """Count a request. The caller sets ``status`` of the returned entry."""
        entry: dict[str, Any] = {"path": path, "page": page, "page_size": page_size, "status": None}
        with self._lock:
            self._requests += 1
            self._in_flight += 1
            self._max_in_flight = max(self._max_in_flight, self._in_flight)
            self._paths[path] += 1
            self._log.append(entry)
        return entry

    def end(self, entry: dict[str, Any]) -> None:
        """Count a response. ``status`` of the entry is an HTTP status, or the kind of fault if none was sent."""
        with self._lock:
            self._in_flight -= 1
            self._statuses[str(entry["status"])] += 1

    def as_dict(self) -> dict[str, Any]:
        """``requests``, ``paths``, ``statuses``, ``in_flight``, ``max_in_flight`` and ``log``, the oldest first."""
        with self._lock:
            return {
                "requests": self._requests,
                "paths": dict(self._paths),
                "statuses": dict(self._statuses),
                "in_flight": self._in_flight,
                "max_in_flight": self._max_in_flight,
                "log": [dict(entry) for entry in self._log],
            }


class RateLimit:
    """Allows ``limit`` requests per window of ``window`` seconds. A window begins with its first request.

    Refused requests count too.

    :param clock: returns Unix seconds. A benchmark replaces it to simulate time.
    """

    def __init__(self, limit: int, window: float, clock: Callable[[], float] = time.time) -> None:
        self._limit = limit
        self._window = window
        self._clock = clock
        self._used = 0
        self._reset_at = 0.0

    def spend(self) -> tuple[bool, dict[str, str]]:
        """Count a request. Return whether it is allowed, and the rate-limit headers of its response."""
        now = self._clock()
        if now >= self._reset_at:
            self._used, self._reset_at = 0, now + self._window
        self._used += 1
        allowed = self._used <= self._limit
        headers = {
            "Date": formatdate(now, usegmt=True),
            "X-RateLimit-Limit": str(self._limit),
            "X-RateLimit-Remaining": str(max(0, self._limit - self._used)),
            "X-RateLimit-Reset": str(math.ceil(self._reset_at)),
        }
        if not allowed:
            headers["Retry-After"] = str(max(1, math.ceil(self._reset_at - now)))
        return allowed, headers


class Server:
    """The API without the socket. Ledgers, statistics and faults are thread-safe.

    :raises ValueError: if a fault or a drift cannot be parsed.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.ledgers = {
            org: Ledger(
                settings.invoices >> i,
                seed=settings.seed + i,
                order=settings.order,
                dialect=settings.dialect,
                today=settings.today,
            )
            for i, org in enumerate(settings.orgs)
        }
        self.stats = Stats()
        self.set_faults(*settings.faults)
        self._drift = [drift if isinstance(drift, Drift) else Drift.parse(drift) for drift in settings.drift]
        self._billing_requests = 0
        self._rate_limit = RateLimit(settings.rate_limit, settings.rate_window) if settings.rate_limit else None

    def set_faults(self, *faults: Fault | str) -> None:
        """Replace all faults. Without arguments, remove all of them.

        :raises ValueError: if one of them cannot be parsed.
        """
        self.plan = FaultPlan(faults, seed=self.settings.seed)

    def application(self) -> web.Application:
        """Build the application with the routes of the API and of the control API."""
        app = web.Application()
        app.add_routes(
            [
                web.get(BILLING, self._api(self._billing), allow_head=False),
                web.get(ORGANIZATIONS, self._api(self._organizations), allow_head=False),
                web.get(BILLING.rstrip("/"), _append_slash, allow_head=False),
                web.get(ORGANIZATIONS.rstrip("/"), _append_slash, allow_head=False),
                *Control(self).routes(),
            ]
        )
        return app

    # The API

    def _api(self, endpoint: Callable[[web.Request], Reply]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Wrap ``endpoint`` with latency, drift, rate limit and faults."""

        async def handle(request: web.Request) -> web.StreamResponse:
            entry = self.stats.begin(request.path, request.query.get("page"), request.query.get("page_size"))
            try:
                if self.settings.latency:
                    await asyncio.sleep(self.settings.latency / 1_000)
                self._drift_on(request)
                reply, fault = self._outcome(request, endpoint)
                entry["status"] = fault.kind if fault and fault.kind in BREAKS else reply.status
                return await _send_badly(request, reply, fault) if fault else _response(reply)
            except ConnectionResetError:  # clients are expected to give up on a drip
                return web.Response()
            finally:
                self.stats.end(entry)

        return handle

    def _drift_on(self, request: web.Request) -> None:
        ledger = self.ledgers.get(request.headers.get("Org-Handle", ""))
        if request.path == BILLING and ledger is not None:
            self._billing_requests += 1
            for drift in self._drift:
                drift.apply(ledger, self._billing_requests)

    def _outcome(self, request: web.Request, endpoint: Callable[[web.Request], Reply]) -> tuple[Reply, Fault | None]:
        """Return the reply, and the fault to apply when it is sent."""
        allowed, headers = self._rate_limit.spend() if self._rate_limit else (True, {})
        fault = self.plan.choose(_page(request)) if allowed else Fault("429")
        if fault is not None and fault.kind in RESPONSES:
            reply, fault = _fault_reply(fault), None
        else:
            reply = endpoint(request)
        return reply._replace(headers={**headers, **(reply.headers or {})}), fault

    def _refusal(self, request: web.Request) -> Reply | None:
        """Return the error reply for a missing or wrong token. ``None`` if the token is valid."""
        authorization = request.headers.get("Authorization")
        if not authorization:
            return _message(401, "Authentication credentials were not provided.")
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() not in AUTH_SCHEMES:
            return _message(401, "Authentication credentials were not provided.")
        if token == EXPIRED_TOKEN:
            return _message(403, "Token has expired.")
        return None if token == self.settings.token else _message(401, "Invalid token.")

    def _unknown_org(self) -> Reply:
        if self.settings.unknown_org == "404":
            return _message(404, "Not found.")
        if self.settings.unknown_org == "403":
            return _message(403, "Invalid organization handle.")
        return _json({"message": "Organization Handle Not Found", "errors": "Organization Handle Not Found"}, 206)

    def _organizations(self, request: web.Request) -> Reply:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        data = [
            {
                "id": number,
                "name": handle.replace(".", " ").title(),
                "domain_handle": handle,
                "created_at": "2024-01-15T10:30:00Z",
            }
            for number, handle in enumerate(self.ledgers, start=1)
        ]
        message = "Organizations fetched successfully"
        return _json({"count": len(data), "status_code": 200, "message": message, "data": data})

    def _billing(self, request: web.Request) -> Reply:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        handle = request.headers.get("Org-Handle")
        if not handle:
            return _message(400, "Org-Handle header is required.")
        if (ledger := self.ledgers.get(handle)) is None:
            return self._unknown_org()
        settings = self.settings
        page = _positive(request.query.get("page"), 1)
        page_size = _positive(request.query.get("page_size"), DEFAULT_PAGE_SIZE)
        if page is None or page_size is None:
            return _message(400, "Invalid parameters provided.")
        rows, count = ledger.page_json(page, settings.fixed_page_size or min(page_size, settings.max_page_size))
        if rows == b"[]" and page > 1 and settings.end == "404":
            return _message(404, "Invalid page.")
        head = {"right": b'"count":%d,' % count, "null": b'"count":null,', "missing": b""}[settings.count]
        return Reply(
            200,
            b'{%s"status_code":200,"message":"Billing data fetched successfully","%s":%s}'
            % (head, settings.dialect.encode(), rows),
        )


class Control:
    """The control API under ``/sandbox/``: changes invoices, sets faults, reads statistics. It needs no token."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the control API."""
        return [
            web.get("/sandbox/invoices/{id}", self._guard(self._show)),
            web.post("/sandbox/invoices", self._guard(self._create)),
            web.post("/sandbox/invoices/{id}/{action:pay|fail|refund|cancel}", self._guard(self._act)),
            web.delete("/sandbox/invoices/{id}", self._guard(self._delete)),
            web.get("/sandbox/faults", self._guard(self._faults)),
            web.put("/sandbox/faults", self._guard(self._set_faults)),
            web.get("/sandbox/stats", self._guard(self._stats)),
            web.delete("/sandbox/stats", self._guard(self._reset_stats)),
        ]

    @staticmethod
    def _guard(
        endpoint: Callable[[web.Request, dict[str, Any]], Reply],
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Call ``endpoint`` with the JSON object of the body, and turn its errors into error responses."""

        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                text = await request.text()
                body = json.loads(text) if text else {}
                if not isinstance(body, dict):
                    raise ValueError("The body must be a JSON object.")
                return _response(endpoint(request, body))
            except LookupError as error:
                return _response(_message(404, str(error.args[0])))
            except (ValueError, TypeError) as error:
                return _response(_message(400, str(error)))

        return handle

    def _ledger(self, request: web.Request) -> Ledger:
        """Return the ledger of the organization in the query (``?org=acme``). Default: the first organization."""
        ledgers = self._server.ledgers
        handle = request.query.get("org", next(iter(ledgers)))
        if handle not in ledgers:
            raise LookupError(f"This sandbox has no organization {handle!r}. Choose from {', '.join(ledgers)}.")
        return ledgers[handle]

    def _show(self, request: web.Request, body: dict[str, Any]) -> Reply:
        return self._invoice(self._ledger(request).get(request.match_info["id"]))

    def _create(self, request: web.Request, body: dict[str, Any]) -> Reply:
        if unknown := body.keys() - {"amount", "currency", "status", "charge_type", "extra"}:
            raise ValueError(f"An invoice has no field {', '.join(sorted(unknown))}. Put other fields into `extra`.")
        if not isinstance(body.get("amount", ""), str):
            raise ValueError('amount must be a decimal number as a string, e.g. "299.00".')
        return self._invoice(self._ledger(request).create(**body), 201)

    def _act(self, request: web.Request, body: dict[str, Any]) -> Reply:
        ledger = self._ledger(request)
        act = {"pay": ledger.pay, "fail": ledger.fail, "refund": ledger.refund, "cancel": ledger.cancel}
        return self._invoice(act[request.match_info["action"]](request.match_info["id"]))

    def _delete(self, request: web.Request, body: dict[str, Any]) -> Reply:
        return self._invoice(self._ledger(request).delete(request.match_info["id"]))

    def _invoice(self, invoice: LedgerInvoice, status: int = 200) -> Reply:
        """Return the invoice as a row of the API, with its id in both dialects."""
        return _json({"id": invoice.id, **invoice.row(self._server.settings.dialect)}, status)

    def _faults(self, request: web.Request, body: dict[str, Any]) -> Reply:
        return _json({"faults": [str(fault) for fault in self._server.plan.faults]})

    def _set_faults(self, request: web.Request, body: dict[str, Any]) -> Reply:
        faults = body.get("faults")
        if not isinstance(faults, list) or not all(isinstance(fault, str) for fault in faults):
            raise ValueError('The body must be {"faults": ["500:every=7", ...]}.')
        self._server.set_faults(*faults)
        return self._faults(request, body)

    def _stats(self, request: web.Request, body: dict[str, Any]) -> Reply:
        return _json(self._server.stats.as_dict())

    def _reset_stats(self, request: web.Request, body: dict[str, Any]) -> Reply:
        self._server.stats.reset()
        return self._stats(request, body)


async def _append_slash(request: web.Request) -> web.StreamResponse:
    # Like Django, redirects a URL without its trailing slash.
    raise web.HTTPMovedPermanently(request.rel_url.with_path(request.path + "/").with_query(request.query))


def _positive(text: str | None, default: int) -> int | None:
    if text is None:
        return default
    return int(text) if text.isdecimal() and text.isascii() and 0 < len(text) <= 9 and int(text) > 0 else None


def _page(request: web.Request) -> int | None:
    return _positive(request.query.get("page"), 1) if request.path == BILLING else None


def _fault_reply(fault: Fault) -> Reply:
    status, content_type, body = RESPONSES[fault.kind]
    headers = {"Retry-After": fault.retry_after} if fault.retry_after is not None else None
    return Reply(status, body, content_type, headers)


def _response(reply: Reply) -> web.Response:
    return web.Response(
        status=reply.status, body=reply.body, content_type=reply.content_type, headers=reply.headers or None
    )


async def _send_badly(request: web.Request, reply: Reply, fault: Fault) -> web.StreamResponse:
    """Send a correct reply with ``fault`` (one of :data:`TRANSFERS`) applied."""
    assert fault.kind in TRANSFERS
    body = reply.body
    half = body[: len(body) // 2]
    if fault.kind == "broken-json":
        return _response(reply._replace(body=half))
    if fault.kind == "delay":
        await asyncio.sleep(fault.seconds)
        return _response(reply)
    if fault.kind == "reset":
        _reset(request)
        return web.Response()
    response = web.StreamResponse(status=reply.status, headers=reply.headers or None)
    response.content_type = reply.content_type
    response.content_length = len(body)
    await response.prepare(request)
    if fault.kind == "drip":
        pieces = max(1, math.ceil(fault.seconds / DRIP_INTERVAL))
        size = max(1, math.ceil(len(body) / pieces))
        for start in range(0, len(body), size):
            await asyncio.sleep(fault.seconds / pieces)
            await response.write(body[start : start + size])
        return response
    await response.write(half)
    if fault.kind == "reset-body":
        _reset(request)
    elif request.transport is not None:
        request.transport.close()
    return response


def _reset(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        request.transport.abort()


def listen(port: int) -> socket.socket:
    """Create a socket that listens on ``port`` of 127.0.0.1. 0 picks a free port.

    :raises OSError: if the port is in use or not allowed.
    """
    return socket.create_server(("127.0.0.1", port), backlog=1_024)


async def start(server: Server, listener: socket.socket) -> web.AppRunner:
    """Start to serve on ``listener``. The runner's ``cleanup()`` stops it, without waiting for responses."""
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=0.02)
    await runner.setup()
    await web.SockSite(runner, listener, backlog=1_024).start()
    return runner
