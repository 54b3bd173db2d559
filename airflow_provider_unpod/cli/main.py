"""Parses arguments, runs a command and returns its exit status.

Results go to standard output and everything else to standard error. The exit status is 0 for success, 1 for a negative
result (an invalid export, two exports that differ, a connection that does not work, an invoice that does not exist), 2
for invalid arguments, 3 for errors that may be transient, and 130 for Ctrl-C.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.cli.definition import COMMANDS, DESCRIPTION

if TYPE_CHECKING:
    from airflow_provider_unpod.billing.errors import UnpodError

OK, NO, USAGE, TRANSIENT = 0, 1, 2, 3


def parser() -> argparse.ArgumentParser:
    """Build the parser of ``python -m airflow_provider_unpod``."""
    root = argparse.ArgumentParser(prog="python -m airflow_provider_unpod", description=DESCRIPTION)
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        sub = commands.add_parser(command.name, help=command.help, description=command.help)
        for option in command.options:
            sub.add_argument(*option.flags, **option.settings)
    return root


def main(arguments: list[str] | None = None) -> int:
    """Parse the arguments, run the command, and return its exit status."""
    given = parser().parse_args(arguments)
    return run(given.command, given)


def run(name: str, given: argparse.Namespace) -> int:
    """Run a command by name and return its exit status. An error is printed as one line."""
    try:
        if sys.stdout is None:
            return _failed("Standard output is closed.", USAGE)
        status = _run(name, given)
        sys.stdout.flush()  # flushed here, so that a failure is reported
        return status
    except BrokenPipeError:
        # The reader of the output has closed it, for example `head`.
        _drop_output()
        return OK
    except OSError as error:
        if error.filename is None:
            _drop_output()
        return _failed(f"Cannot write {error.filename or 'to standard output'}: {error.strerror}.", USAGE)
    except KeyboardInterrupt:
        return _failed("interrupted", 130)


def _run(name: str, given: argparse.Namespace) -> int:
    from airflow_provider_unpod.billing.errors import UnpodConfigError, UnpodError

    _prepare_process()
    from airflow.providers.common.compat.sdk import AirflowNotFoundException

    from airflow_provider_unpod.cli import commands

    try:
        command: Any = getattr(commands, name)
        return int(command(given))
    except (UnpodConfigError, AirflowNotFoundException) as error:
        return _failed(error, USAGE)
    except UnpodError as error:
        return _failed(error, _status_of(error, name))


def _status_of(error: UnpodError, name: str) -> int:
    from airflow_provider_unpod.billing.errors import UnpodInvoiceNotFound
    from airflow_provider_unpod.export import ExportError

    # A retry does not help to read an export. It may help to write one, because a store may fail for a while.
    final = isinstance(error, UnpodInvoiceNotFound) or (isinstance(error, ExportError) and name != "export")
    return NO if error.permanent or final else TRANSIENT


def _drop_output() -> None:
    """Discard buffered output. Otherwise Python would try to write it again when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(error: object, status: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return status


def _prepare_process() -> None:
    # Without this, Airflow 3 finds only connections in the environment, not those in its database.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    # Airflow 3.1 imports alembic while it logs at level INFO, and alembic then logs each of its plugins.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    import airflow  # noqa: F401  # configures logging and warnings, which are reset below

    # Airflow 2.11 warns about its own settings.
    warnings.filterwarnings("ignore", module=r"airflow\.")
    root = logging.getLogger()
    root.handlers[:] = [logging.StreamHandler(sys.stderr)]
    root.setLevel(logging.WARNING)
    # Airflow also raises the errors that it logs, and each is printed as one line.
    logging.getLogger("airflow").setLevel(logging.CRITICAL)
