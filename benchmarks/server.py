"""The sandbox in a process of its own, whose invoices can be read and changed from here."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Concatenate, ParamSpec, TypeVar

from airflow_provider_unpod.sandbox import Sandbox

P = ParamSpec("P")
T = TypeVar("T")


class Server:
    """A running sandbox: ``with Server(invoices=1_000) as server: server.call(requests)``.

    :param settings: as :class:`~airflow_provider_unpod.sandbox.settings.Settings`.
    """

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    def __enter__(self) -> Server:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._settings), daemon=True)
        self._process.start()
        theirs.close()
        self.url: str = self.call(_url)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._pipe.close()
        self._process.join(10)

    def call(self, function: Callable[Concatenate[Sandbox, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function of a module on the sandbox, in its process, and return the result.

        :raises EOFError: if the process has ended.
        """
        self._pipe.send((function, args, kwargs))
        result: T = self._pipe.recv()
        return result


def _serve(pipe: Connection, settings: dict[str, Any]) -> None:
    with Sandbox(**settings) as sandbox:
        while True:
            try:
                function, args, kwargs = pipe.recv()
            except EOFError:
                return
            pipe.send(function(sandbox, *args, **kwargs))


def _url(sandbox: Sandbox) -> str:
    return sandbox.url


def connection(sandbox: Sandbox) -> str:
    """The Airflow connection as JSON."""
    return sandbox.connection_json()


def ids(sandbox: Sandbox) -> list[int]:
    """All ids in list order: the truth about the list."""
    return sandbox.ledger.ids()


def requests(sandbox: Sandbox) -> int:
    """The number of API requests so far."""
    made: int = sandbox.stats["requests"]
    return made


def create(sandbox: Sandbox) -> int:
    """Create an invoice, and return its id."""
    return sandbox.create().id


def faults(sandbox: Sandbox, *kinds: str) -> None:
    """Replace all faults."""
    sandbox.faults(*kinds)


def keep_pending(sandbox: Sandbox, pending: list[int]) -> None:
    """Mark these invoices as pending, and all others as paid."""
    chosen = set(pending)
    for one in sandbox.ledger.ids():
        sandbox.ledger.set_status(one, "pending" if one in chosen else "paid")


def pay(sandbox: Sandbox, invoice_ids: list[int]) -> None:
    """Pay these invoices."""
    for one in invoice_ids:
        sandbox.pay(one)
