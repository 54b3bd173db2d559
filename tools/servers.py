"""Servers on this machine: free ports, waiting until they respond, and their end with all their processes.

Each server has a process group of its own, so Ctrl-C, SIGTERM and the end of the terminal reach only the tool that has
started it. The tool must therefore stop all of them, whatever the user sends meanwhile: see `end_at_signals`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Self

T = TypeVar("T")
STARTUP_TIMEOUT = 60.0  # seconds
#: Ctrl-C, ``kill``, and a terminal or a session that was closed.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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


def end_at_signals() -> None:
    """Let the first of Ctrl-C, SIGTERM and SIGHUP end this process by an exception, and ignore those that follow.

    The exception leaves all ``with`` blocks, which stop what they have started. Signals that were ignored before, e.g.
    by ``nohup``, stay ignored.
    """

    def end(number: int, _frame: object) -> None:
        for each in ENDING:
            signal.signal(each, lambda *_: None)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    for each in ENDING:
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, end)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Postpone Ctrl-C, SIGTERM and SIGHUP to the end of the block, so that it starts or stops all of its processes."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals in the main thread
        return
    arrived: list[int] = []
    before = {each: signal.signal(each, lambda number, _: arrived.append(number)) for each in ENDING}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        if arrived:
            signal.raise_signal(arrived[0])


def end_group(leader: subprocess.Popen[bytes], how: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to the process group of a process that was started with ``start_new_session``, and await its end.

    The group may outlive its leader, and then it gets the signal, too. A leader that takes half a minute is killed.
    """
    for each in (how, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader.pid, each)
        with contextlib.suppress(subprocess.TimeoutExpired):
            leader.wait(30)
            return


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
        with uninterrupted():
            self._process = subprocess.Popen(
                self._command, stdin=silent, stdout=silent, stderr=silent, start_new_session=True
            )
        wait_until(self._listens, f"{self._command[0]} to listen on port {self._port}", STARTUP_TIMEOUT, 0.05)

    def kill(self) -> None:
        """Kill it with SIGKILL. It may be called more than once."""
        with uninterrupted():
            if self._process is not None:
                end_group(self._process)
                self._process = None

    @property
    def pid(self) -> int | None:
        """Its process id; ``None`` while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def _listens(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"{self._command[0]} ended with status {self._process.returncode}.")
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
            return True
        return False
