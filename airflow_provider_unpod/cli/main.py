"""From arguments to an exit status: the frame around every command.

Results go to standard output and everything else to standard error. Exit status: 0 for success, 1 where the answer is
no (an export that does not verify, two that differ, a connection that does not work, an invoice that does not exist), 2
for arguments that cannot work, 3 for what may pass by itself, 130 for Ctrl-C.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.cli.definition import COMMANDS, DESCRIPTION

if TYPE_CHECKING:
    from airflow_provider_unpod.billing.errors import UnpodError

OK, NO, USAGE, TRANSIENT = 0, 1, 2, 3


def parser() -> argparse.ArgumentParser:
    """The parser of ``python -m airflow_provider_unpod``."""
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
        sys.stdout.flush()  # here, where a failure becomes a message
        return status
    except BrokenPipeError:
        # The reader of the output has closed it, as `head` does.
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

    # What is read from an export is there or not; while one is written, a store may be out of order for a while.
    final = isinstance(error, UnpodInvoiceNotFound) or (isinstance(error, ExportError) and name != "export")
    return NO if error.permanent or final else TRANSIENT


def _drop_output() -> None:
    """Send what is still buffered nowhere, since Python writes it once more when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(error: object, status: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return status


def _prepare_process() -> None:
    # Without it Airflow 3 looks for connections in the environment only, and finds none of its database.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    import airflow  # noqa: F401  # sets logging up, which is undone below

    root = logging.getLogger()
    root.handlers[:] = [logging.StreamHandler(sys.stderr)]
    root.setLevel(logging.WARNING)
    # What goes wrong there is raised as well, and becomes one line.
    logging.getLogger("airflow").setLevel(logging.CRITICAL)
