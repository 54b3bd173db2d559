"""Servers on this machine: free ports, waiting until they respond, and their end with all their processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

T = TypeVar("T")
STARTUP_TIMEOUT = 60.0  # seconds


def free_port() -> int:
    """Return a free port of 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_until(condition: Callable[[], T], what: str, timeout: float = 90.0, interval: float = 0.2) -> T:
    """Return the first true value of ``condition()``, which is called every ``interval`` seconds.

    :raises RuntimeError: if there is none within ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"Timed out after {timeout:.0f} s waiting for {what}.")
        time.sleep(interval)
    return value


def end_group(leader: subprocess.Popen[bytes], how: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to the process group of a process that was started with ``start_new_session``, and await its end.

    The group may outlive its leader, and then it gets the signal, too.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader.pid, how)
    leader.wait(30)


class Server:
    """A program that listens on a port of 127.0.0.1; a context manager.

    :raises RuntimeError: if it ends, or does not listen within a minute.
    """

    def __init__(self, command: list[str], port: int) -> None:
        self._command = command
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, again too, and wait until it listens."""
        silent = subprocess.DEVNULL
        self._process = subprocess.Popen(
            self._command, stdin=silent, stdout=silent, stderr=silent, start_new_session=True
        )
        wait_until(self._listens, f"{self._command[0]} to listen on port {self._port}", STARTUP_TIMEOUT, 0.05)

    def kill(self) -> None:
        """Kill it with SIGKILL. It may be called more than once."""
        if self._process is not None:
            end_group(self._process)
            self._process = None

    def _listens(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"{self._command[0]} ended with status {self._process.returncode}.")
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
            return True
        return False
