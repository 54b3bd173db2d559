"""The command line of the sandbox. It starts a server, or controls a running one if a command is given."""

from __future__ import annotations

import argparse
import asyncio
import errno
import json
import signal
import sys
import urllib.error
import urllib.parse
import urllib.request
from datetime import date
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Final, NoReturn, get_args

from airflow_provider_unpod.sandbox import settings as options
from airflow_provider_unpod.sandbox.faults import MOVES, RESPONSES, TRANSFERS, Drift, Fault
from airflow_provider_unpod.sandbox.ledger import Dialect, Order
from airflow_provider_unpod.sandbox.settings import Settings

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from types import FrameType

    from airflow_provider_unpod.sandbox.server import Server

PROGRAM: Final = "python -m airflow_provider_unpod.sandbox"
DEFAULT_PORT: Final = 3001
ACTIONS: Final = ("pay", "fail", "refund", "cancel", "delete", "show")
COMMANDS: Final = (*ACTIONS, "create", "faults", "stats")


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit status."""
    if arguments and arguments[0] in COMMANDS:
        return _control(_client_parser().parse_args(arguments))
    return _serve(_server_parser().parse_args(arguments))


# The server


def _server_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="A local stand-in for the Unpod billing API, to try Airflow DAGs against. It is not Unpod.",
        epilog=f"To control a running sandbox: {PROGRAM} {{{','.join(COMMANDS)}}} (see {PROGRAM} pay --help).",
    )
    _add_ledger(parser)
    _add_behavior(parser)
    _add_disturbances(parser)
    return parser


def _add_ledger(parser: argparse.ArgumentParser) -> None:
    """Add the options of the server and its invoices."""
    default = Settings()
    add = parser.add_argument
    add("--port", type=int, default=DEFAULT_PORT, help="port of 127.0.0.1; 0 picks a free one (default %(default)s)")
    add(
        "--invoices",
        type=int,
        default=default.invoices,
        help="invoices of the first organization (default %(default)s)",
    )
    add("--org", dest="orgs", action="append", help="organization handle; repeatable (default: three organizations)")
    add("--token", default=default.token, help="the valid API token (default %(default)s)")
    add("--seed", type=int, default=default.seed, help="seed of invoices, faults and drift (default %(default)s)")
    add(
        "--today",
        type=_checked(_day),
        metavar="YYYY-MM-DD",
        help="create invoices for the 180 days before this day (default: the current day in UTC)",
    )


def _add_behavior(parser: argparse.ArgumentParser) -> None:
    """Add the options of how the API responds."""
    default = Settings()
    add = parser.add_argument
    add(
        "--order",
        choices=get_args(Order),
        default=default.order,
        help="which invoices are first in the list (default %(default)s)",
    )
    add(
        "--dialect",
        choices=get_args(Dialect),
        default=default.dialect,
        help="key that holds the rows (default %(default)s)",
    )
    add(
        "--max-page-size",
        type=int,
        default=default.max_page_size,
        help="a larger page_size is reduced to it (default %(default)s)",
    )
    add("--fixed-page-size", type=int, help="rows per page, regardless of page_size")
    add(
        "--end",
        choices=get_args(options.End),
        default=default.end,
        help="response to a page past the end (default %(default)s)",
    )
    add(
        "--count",
        choices=get_args(options.Count),
        default=default.count,
        help="`count` in the responses (default %(default)s)",
    )
    add(
        "--unknown-org",
        choices=get_args(options.UnknownOrg),
        default=default.unknown_org,
        help="response to an unknown organization handle (default %(default)s)",
    )


def _add_disturbances(parser: argparse.ArgumentParser) -> None:
    """Add the options of limits, delays, faults and changes of the list."""
    default = Settings()
    add = parser.add_argument
    add("--rate-limit", type=int, help="requests per window (default: no limit)")
    add(
        "--rate-window",
        type=float,
        default=default.rate_window,
        help="length of the window in seconds (default %(default)s)",
    )
    add("--latency", type=float, default=default.latency, help="milliseconds before each response (default 0)")
    add(
        "--fault",
        dest="faults",
        action="append",
        type=_checked(Fault.parse),
        metavar="KIND[:NAME=VALUE,...]",
        help=f"repeatable; kinds: {', '.join([*RESPONSES, *TRANSFERS])}; names: times, every, probability, page, "
        "retry_after, seconds",
    )
    add(
        "--drift",
        action="append",
        type=_checked(Drift.parse),
        metavar="KIND:EVERY",
        help=f"change the list at each EVERY-th billing request; repeatable; kinds: {', '.join(MOVES)}",
    )


def _checked(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Wrap ``parse`` so that argparse shows its error message. It hides that of a ``ValueError``."""

    def check(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return check


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"must be a date such as 2026-07-01, got {text!r}") from None


def _serve(arguments: argparse.Namespace) -> int:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _exit)
    try:
        from airflow_provider_unpod.sandbox.server import Server, listen
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "aiohttp":
            raise
        return _complain("the sandbox needs aiohttp: pip install 'airflow-provider-unpod[sandbox]'")
    given = vars(arguments)
    port = given.pop("port")
    try:
        settings = Settings(**{name: _frozen(value) for name, value in given.items() if value is not None})
    except ValueError as error:
        return _complain(str(error))
    try:
        listener = listen(port)
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            return _complain(f"port {port} of 127.0.0.1 is in use; choose another with --port (0 picks a free one)")
        return _complain(f"cannot listen on port {port} of 127.0.0.1: {error}")
    asyncio.run(_until_signal(Server(settings), listener))
    return 0


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


async def _until_signal(server: Server, listener: socket.socket) -> None:
    from airflow_provider_unpod.sandbox.server import start

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = await start(server, listener)
    print(_greeting(server, listener.getsockname()[1]), flush=True)
    try:
        await stop.wait()
    finally:
        await runner.cleanup()


def _greeting(server: Server, port: int) -> str:
    """Return the text printed at the start: the connection to paste, and commands to try."""
    from airflow_provider_unpod.sandbox.runner import connection_json

    settings = server.settings
    org = settings.orgs[0]
    ledger = server.ledgers[org]
    pending = [str(invoice.id) for invoice in ledger.invoices() if invoice.status == "pending"]
    some = ", ".join(sorted(pending, key=int)[:5]) or "none"
    example = min(pending, key=int, default="101")
    holdings = ", ".join(f"{handle} ({len(held)})" for handle, held in server.ledgers.items())
    at = "" if port == DEFAULT_PORT else f" --port {port}"
    return f"""\
Unpod SANDBOX on http://127.0.0.1:{port}: made-up invoices, not the Unpod service.

  Organizations (invoices): {holdings}
  Pending in {org}, for example: {some}

To connect Airflow, set this in the environment of all its processes:

  export AIRFLOW_CONN_UNPOD_DEFAULT='{connection_json(port, org, settings.token)}'

While DAGs run:

  {PROGRAM} pay {example}{at}     (also: fail, refund, cancel, delete, show)
  {PROGRAM} create --amount 49.00 --currency EUR{at}
  {PROGRAM} faults 500:times=3{at}     (without arguments: no faults)
  {PROGRAM} stats{at}

Ctrl-C stops it."""


# The client


def _client_parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--port", type=int, default=DEFAULT_PORT, help="port of the sandbox (default %(default)s)")
    of_org = argparse.ArgumentParser(add_help=False, parents=[common])
    of_org.add_argument("--org", help="organization handle (default: the first one of the sandbox)")

    parser = argparse.ArgumentParser(prog=PROGRAM)
    commands = parser.add_subparsers(dest="command", required=True)
    for action in ACTIONS:
        command = commands.add_parser(action, parents=[of_org], help=f"{action} an invoice")
        command.add_argument("invoice_id", help="101 or INV-00101")
    create = commands.add_parser("create", parents=[of_org], help="create an invoice")
    create.add_argument("--amount", default="299.00")
    create.add_argument("--currency", default="USD")
    create.add_argument("--status", default="pending")
    faults = commands.add_parser("faults", parents=[common], help="replace all faults; without arguments, end them")
    faults.add_argument("faults", nargs="*", metavar="KIND[:NAME=VALUE,...]")
    stats = commands.add_parser("stats", parents=[common], help="print request statistics")
    stats.add_argument("--reset", action="store_true", help="clear the statistics")
    return parser


def _control(arguments: argparse.Namespace) -> int:
    method, path, body = _control_request(arguments)
    org = getattr(arguments, "org", None)
    query = "?" + urllib.parse.urlencode({"org": org}) if org else ""
    url = f"http://127.0.0.1:{arguments.port}/sandbox/{path}{query}"
    request = urllib.request.Request(url, method=method, data=None if body is None else json.dumps(body).encode())
    # The sandbox is on this machine, so bypass the proxies of the environment.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    port = arguments.port
    try:
        try:
            with opener.open(request, timeout=30) as response:
                body_of_response = json.load(response)
        except urllib.error.HTTPError as error:
            return _complain(json.load(error)["message"])
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        return _complain(f"no sandbox responds on port {port} of 127.0.0.1 ({reason}); see --port")
    except (ValueError, LookupError, TypeError):
        return _complain(f"the server on port {port} of 127.0.0.1 is not a sandbox; see --port")
    print(json.dumps(body_of_response, indent=2 if arguments.command == "stats" else None))
    return 0


def _control_request(arguments: argparse.Namespace) -> tuple[str, str, dict[str, Any] | None]:
    """Return the HTTP method, path and body of a command."""
    command = arguments.command
    if command == "create":
        body = {"amount": arguments.amount, "currency": arguments.currency, "status": arguments.status}
        return "POST", "invoices", body
    if command == "faults":
        return "PUT", "faults", {"faults": arguments.faults}
    if command == "stats":
        return "DELETE" if arguments.reset else "GET", "stats", None
    invoice = f"invoices/{urllib.parse.quote(arguments.invoice_id, safe='')}"
    if command in ("show", "delete"):
        return "GET" if command == "show" else "DELETE", invoice, None
    return "POST", f"{invoice}/{command}", None


def _complain(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return 1
