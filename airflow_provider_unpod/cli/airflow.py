"""Adds the commands to the ``airflow`` command line of Airflow 3.3 and later."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from airflow_provider_unpod.cli.definition import COMMANDS, DESCRIPTION


def get_cli_commands() -> list[Any]:
    """Return the commands for Airflow's command line. Airflow calls this, see `cli` in the provider's metadata."""
    from airflow.cli.cli_config import ActionCommand, Arg, GroupCommand

    commands = []
    for command in COMMANDS:
        options = (
            Arg(option.flags, **option.settings)  # type: ignore[no-untyped-call]  # Airflow's own
            for option in command.options
        )
        commands.append(ActionCommand(command.name, command.help, partial(_run, command.name), tuple(options)))
    return [GroupCommand("unpod", DESCRIPTION, tuple(commands))]


def _run(name: str, given: Any) -> None:
    from airflow_provider_unpod.cli.main import run

    sys.exit(run(name, given))
