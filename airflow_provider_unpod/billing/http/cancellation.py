"""Stopping a reading from outside. Nothing heavy in here: DAG files import it by way of the triggers."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Cancelled(Exception):
    """The reading that a request belongs to was cancelled. Raised to the code that cancelled, never to users."""


class Cancellation:
    """Ends one reading from any thread: its requests in flight are cut and its waits wake up, at once.

    Not undone: a reading that starts anew needs a new one. Only a name look-up in progress cannot be cut short.
    """

    def __init__(self) -> None:
        # Re-entrant, because a signal handler may cancel while this very thread is inside.
        self._lock = threading.RLock()
        self._actions: list[Callable[[], None]] = []
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        """Cut and wake everything that belongs to this reading; later requests of it are not even sent."""
        with self._lock:
            self._cancelled = True
            for action in self._actions:
                action()

    @contextmanager
    def calling(self, action: Callable[[], None]) -> Iterator[None]:
        """Call ``action`` if the reading is cancelled while the body runs.

        :raises Cancelled: if it was cancelled before.
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
        """:raises Cancelled: if the reading was cancelled."""
        if self._cancelled:
            raise Cancelled
