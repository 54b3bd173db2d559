"""From arguments to an exit status: the frame around every command.

Results go to standard output and everything else to standard error. Exit status: 0 for success, 1 where the answer is
no (an export that does not verify, two that differ, a connection that does not work), 2 for arguments that cannot
work, 3 for what may pass by itself.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import Any

from airflow_provider_unpod.cli.definition import COMMANDS, DESCRIPTION

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
        return _failed(error, NO if error.permanent else TRANSIENT)
    except BrokenPipeError:
        # The reader of the output has closed it, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return _failed("interrupted", 130)


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
