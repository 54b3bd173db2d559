"""Cancels a read from another thread. Keep the imports light: DAG files import this module through the triggers."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Cancelled(Exception):
    """The read that a request belongs to was cancelled. Only the code that cancelled it sees this exception."""


class Cancellation:
    """Cancels one read from any thread: closes its requests in flight and wakes its waits immediately.

    A cancellation is final: a new read needs a new object. A DNS lookup in progress cannot be interrupted.
    """

    def __init__(self) -> None:
        # Re-entrant, because a signal handler may call cancel() while this thread holds the lock.
        self._lock = threading.RLock()
        self._actions: list[Callable[[], None]] = []
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        """Cancel all requests and waits of this read. Later requests are not sent."""
        with self._lock:
            self._cancelled = True
            for action in self._actions:
                action()

    @contextmanager
    def calling(self, action: Callable[[], None]) -> Iterator[None]:
        """Call ``action`` if the read is cancelled while the body runs.

        :raises Cancelled: if it has been cancelled already.
        """
        with self._lock:
            self.check()
            self._actions.append(action)
        try:
            yield
        finally:
            with self._lock:
                self._actions.remove(action)

    def check(self) -> None:
        """Raise :class:`Cancelled` if the read was cancelled."""
        if self._cancelled:
            raise Cancelled
