"""The commands of ``make distributed``, which kill and start the parts of a deployment."""

from __future__ import annotations

import contextlib
import signal
import sys
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

USAGE = """kill NAME       kills a part and all its processes, without a shutdown; it stays down
start NAME      starts it again
restart NAME    does both
parts           prints all parts with their process ids"""


class Part(Protocol):
    """A part that can be killed and started again."""

    @property
    def pid(self) -> int | None:
        """Its process id; ``None`` while it does not run."""

    def kill(self) -> None:
        """Kill it without a shutdown."""

    def start(self) -> None:
        """Start it, and wait until it can be used."""


def table(parts: Mapping[str, Part]) -> str:
    """Return a line for each part: its name, and its process id."""
    width = max(map(len, parts))
    return "\n".join(f"  {name.ljust(width)}   {part.pid or 'down'}" for name, part in parts.items())


def obey(command: str, parts: Mapping[str, Part]) -> str:
    """Carry out a command, and return what it prints."""
    words = command.split()
    if words == ["parts"]:
        return table(parts)
    if len(words) != 2 or words[0] not in ("kill", "start", "restart") or words[1] not in parts:
        return f"{USAGE}\nNAME is one of: {', '.join(parts)}" if words else ""
    verb, name = words
    try:
        if verb != "start":
            parts[name].kill()
        if verb != "kill" and parts[name].pid is None:
            parts[name].start()
    except RuntimeError as error:
        return str(error)
    return table({name: parts[name]})


def typed() -> Iterator[str]:
    """Yield the lines of standard input. There are none if it is closed, or belongs to a program in the foreground."""
    signal.signal(signal.SIGTTIN, signal.SIG_IGN)  # reading in the background is an error then, and stops nothing
    with contextlib.suppress(OSError):
        yield from sys.stdin or ()
