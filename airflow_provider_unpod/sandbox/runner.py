"""Runs a sandbox in a thread of the current Python process."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import fields
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_provider_unpod.sandbox.server import Server, listen, start
from airflow_provider_unpod.sandbox.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal
    from types import TracebackType

    from aiohttp import web

    from airflow_provider_unpod.sandbox.faults import Fault
    from airflow_provider_unpod.sandbox.ledger import Ledger, LedgerInvoice


def connection_json(port: int, org_handle: str, token: str) -> str:
    """Return the Airflow connection to a sandbox as JSON, e.g. for ``AIRFLOW_CONN_UNPOD_DEFAULT``."""
    return json.dumps(
        {
            "conn_type": "unpod",
            "host": "http://127.0.0.1",
            "port": port,  # not part of the host, because Airflow 3.3's Test button needs this field
            "login": org_handle,
            "password": token,
        }
    )


class Sandbox:
    """A running sandbox: ``with Sandbox(invoices=250, rate_limit=100) as sandbox: ...``

    It takes the arguments of :class:`~airflow_provider_unpod.sandbox.settings.Settings`, and ``port`` (0 picks a free
    one). All methods are thread-safe. They change the first organization; ``ledgers`` has the others. To simulate an
    outage, leave the ``with`` block and enter it again: the port and the invoices stay the same.

    :raises TypeError: if a setting is unknown.
    :raises ValueError: if a setting is out of range.
    :raises OSError: on entering, if the port is in use.
    """

    def __init__(self, *, port: int = 0, **settings: Any) -> None:
        known = [field.name for field in fields(Settings)]
        if unknown := settings.keys() - set(known):
            raise TypeError(
                f"A sandbox has no setting {', '.join(sorted(unknown))}. Settings are port, {', '.join(known)}."
            )
        for name in ("orgs", "faults", "drift"):
            if name in settings:
                settings[name] = tuple(settings[name])
        self.settings = Settings(**settings)
        self.token = self.settings.token
        self.org_handle = self.settings.orgs[0]
        self._server = Server(self.settings)
        self.port = port
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    # Running

    def __enter__(self) -> Sandbox:
        listener = listen(self.port)
        self.port = listener.getsockname()[1]
        self._started.clear()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listener)), name=f"unpod-sandbox-{self.port}", daemon=True
        )
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._thread is not None and self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
            self._thread = None

    async def _serve(self, listener: Any) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        runner: web.AppRunner | None = None
        try:
            runner = await start(self._server, listener)
            self._started.set()
            await self._stop.wait()
        finally:
            self._started.set()
            if runner is not None:
                await runner.cleanup()

    # Connecting

    @property
    def url(self) -> str:
        """The base URL, e.g. ``http://127.0.0.1:3001``."""
        return f"http://127.0.0.1:{self.port}"

    def connection_json(self, org_handle: str | None = None) -> str:
        """Return the Airflow connection to this sandbox as JSON."""
        return connection_json(self.port, org_handle or self.org_handle, self.token)

    def connection_uri(self, org_handle: str | None = None) -> str:
        """Return the Airflow connection to this sandbox as a URI."""
        login, password = quote(org_handle or self.org_handle, safe=""), quote(self.token, safe="")
        return f"unpod://{login}:{password}@127.0.0.1:{self.port}/http"

    # Its invoices

    @property
    def ledgers(self) -> Mapping[str, Ledger]:
        """The ledger of each organization, by handle."""
        return self._server.ledgers

    @property
    def ledger(self) -> Ledger:
        """The ledger of the first organization."""
        return self._server.ledgers[self.org_handle]

    def create(
        self,
        amount: str | Decimal | int = "299.00",
        currency: str = "USD",
        status: str = "pending",
        *,
        extra: Mapping[str, Any] | None = None,
    ) -> LedgerInvoice:
        """Create an invoice. :meth:`Ledger.create` of ``ledger`` has more options."""
        return self.ledger.create(amount, currency, status, extra=extra)

    def pay(self, invoice_id: int | str) -> LedgerInvoice:
        """Mark an invoice as paid, now.

        :raises UnknownInvoice: if it does not exist. The methods below may raise this too.
        """
        return self.ledger.pay(invoice_id)

    def fail(self, invoice_id: int | str) -> LedgerInvoice:
        """Mark an invoice as failed."""
        return self.ledger.fail(invoice_id)

    def refund(self, invoice_id: int | str) -> LedgerInvoice:
        """Mark an invoice as refunded."""
        return self.ledger.refund(invoice_id)

    def cancel(self, invoice_id: int | str) -> LedgerInvoice:
        """Mark an invoice as cancelled."""
        return self.ledger.cancel(invoice_id)

    def delete(self, invoice_id: int | str) -> LedgerInvoice:
        """Delete an invoice from the list."""
        return self.ledger.delete(invoice_id)

    # Faults and statistics

    def faults(self, *faults: Fault | str) -> None:
        """Replace all faults, e.g. by ``faults("500:times=3")``. ``faults()`` removes all of them.

        :raises ValueError: if one of them cannot be parsed.
        """
        self._server.set_faults(*faults)

    @property
    def stats(self) -> dict[str, Any]:
        """``requests``, ``paths``, ``statuses``, ``in_flight``, ``max_in_flight``, ``log`` since the last reset."""
        return self._server.stats.as_dict()

    def reset_stats(self) -> None:
        """Clear the statistics."""
        self._server.stats.reset()
