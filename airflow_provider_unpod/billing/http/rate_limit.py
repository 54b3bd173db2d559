"""When the next request may go out: one budget for all threads of a client, and every wait between two tries.

The API says with each answer how many requests are left and when the count starts anew (``X-RateLimit-Remaining``,
``X-RateLimit-Reset`` in Unix seconds). Waiting before the budget is overdrawn costs nothing; being refused costs a
request, and on a shared account somebody else's too.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_unpod.billing.http.cancellation import Cancellation

log = logging.getLogger(__name__)

#: A window that ends later than this (seconds) is not waited for: the documented ones last a minute, and a daily
#: limit, or a header that makes no sense, must not stop a client that has not been refused anything.
LONGEST_WINDOW = 120.0
#: ``X-RateLimit-Reset`` comes in whole seconds: the window may end up to one second after it.
_ROUNDING = 1.0
#: Clocks that differ by less are taken to agree; the ``Date`` header itself is only exact to the second.
_CLOCK_TOLERANCE = 2.0
#: Waits from this many seconds on are worth a line in the log.
_WORTH_A_LINE = 3.0


class Clock:
    """Time as the pacing sees it."""

    def monotonic(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        return time.time()

    def wait(self, condition: threading.Condition, seconds: float | None) -> None:
        """Give ``condition`` up for at most ``seconds``, ``None``: until it is notified."""
        condition.wait(seconds)


@dataclass(frozen=True, slots=True)
class Budget:
    """What the API said last about its rate limit; ``None`` where it said nothing that can be used."""

    limit: int | None
    remaining: int | None
    #: Seconds until ``remaining`` starts anew.
    resets_in: float | None

    def __str__(self) -> str:
        if self.remaining is None or self.resets_in is None:
            return "none announced"
        of = f" of {self.limit}" if self.limit else ""
        return f"{self.remaining}{of} requests left for {self.resets_in:.0f} s"


class Pacing:
    """Lets requests out as the rate limit allows. Thread-safe."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self._condition = threading.Condition()
        self._in_flight = 0
        self._limit: int | None = None
        self._remaining: int | None = None
        self._reset: float | None = None  # as the API named it: to tell one window from the next
        self._window_ends: float | None = None  # on our own monotonic clock
        self._paused_until = 0.0
        self._announced_until = 0.0

    @property
    def budget(self) -> Budget:
        """A snapshot, for progress lines."""
        with self._condition:
            ends = self._window_ends
            left = None if ends is None else max(0.0, ends - self._clock.monotonic())
            return Budget(self._limit, self._remaining, left)

    def enter(self, cancellation: Cancellation | None, patience: float) -> float:
        """Wait until one more request may go out, and count it as in flight.

        :param patience: the longest wait in seconds that the caller accepts.
        :return: the seconds that must still be waited where they are more than ``patience`` (nothing is in flight
            then), else 0.
        :raises Cancelled: if ``cancellation`` is or gets cancelled.
        """
        with self._condition:
            if self._hold() is None:
                self._in_flight += 1
                return 0.0
        with cancellation.calling(self._wake) if cancellation else nullcontext(), self._condition:
            while (hold := self._hold()) is not None:
                seconds, why = hold
                if seconds is not None and seconds > patience:
                    return seconds
                self._wait(seconds, why, cancellation)
            self._in_flight += 1
            return 0.0

    def leave(self, headers: Mapping[str, str] | None) -> None:
        """A request is over; ``headers`` are those of its answer, ``None`` where there was none."""
        with self._condition:
            self._in_flight -= 1
            if headers is not None:
                self._learn(headers)
            self._condition.notify_all()

    def pause(self, seconds: float) -> None:
        """No request of any thread goes out for this long."""
        with self._condition:
            self._paused_until = max(self._paused_until, self._clock.monotonic() + seconds)

    def sleep(self, seconds: float, why: str, cancellation: Cancellation | None) -> None:
        """Wait between two tries of one thread.

        :raises Cancelled: if ``cancellation`` is or gets cancelled.
        """
        with cancellation.calling(self._wake) if cancellation else nullcontext(), self._condition:
            until = self._clock.monotonic() + seconds
            while (left := until - self._clock.monotonic()) > 0:
                self._wait(left, why, cancellation)

    def seconds_until(self, moment: float, headers: Mapping[str, str]) -> float:
        """From now to ``moment`` (Unix seconds of the server), by the server's clock where ours differs."""
        now = self._clock.time()
        try:
            server = parsedate_to_datetime(headers["Date"]).timestamp()
        except (KeyError, TypeError, ValueError, OverflowError, IndexError):
            server = now
        return moment - (now if abs(server - now) <= _CLOCK_TOLERANCE else server)

    def _hold(self) -> tuple[float | None, str] | None:
        """How long nothing may go out and why; ``None``: go. Called with the condition held."""
        now = self._clock.monotonic()
        if now < self._paused_until:
            return self._paused_until - now, "the API's rate limit is used up"
        if self._window_ends is not None and now >= self._window_ends:
            # Until an answer says more, a new window holds what the last one held.
            self._window_ends = self._reset = None
            self._remaining = self._limit or None
        if self._remaining is None or self._remaining > self._in_flight:
            return None
        if self._window_ends is not None:
            of = f" of {self._limit} requests" if self._limit else ""
            return self._window_ends - now, f"the API's rate limit{of} is used up"
        # No window is known: the answers in flight will tell; with none in flight the next request must.
        return (None, "") if self._in_flight else None

    def _wait(self, seconds: float | None, why: str, cancellation: Cancellation | None) -> None:
        if seconds is not None and seconds >= _WORTH_A_LINE:
            until = self._clock.monotonic() + seconds
            # One line for a wait that many threads share.
            if until > self._announced_until + 1:
                self._announced_until = until
                log.info("Waiting %.0f s before the next request to Unpod: %s.", seconds, why)
        self._clock.wait(self._condition, seconds)
        if cancellation:
            cancellation.check()

    def _wake(self) -> None:
        with self._condition:
            self._condition.notify_all()

    def _learn(self, headers: Mapping[str, str]) -> None:
        remaining = _number(headers.get("X-RateLimit-Remaining"))
        reset = _number(headers.get("X-RateLimit-Reset"))
        if remaining is None or reset is None:
            return
        left = max(0, int(remaining))
        if reset == self._reset:
            # Answers overtake each other: within one window the smallest number is the latest.
            self._remaining = left if self._remaining is None else min(self._remaining, left)
            return
        if self._reset is not None and reset < self._reset:
            return  # an answer of the window before
        ends = self.seconds_until(reset, headers) + _ROUNDING
        if 0 < ends <= LONGEST_WINDOW:
            limit = _number(headers.get("X-RateLimit-Limit"))
            self._limit = int(limit) if limit else None
            self._remaining, self._reset = left, reset
            self._window_ends = self._clock.monotonic() + ends


def _number(text: str | None) -> float | None:
    """A header's number, ``None`` for anything that is none, is negative or is beyond all reason."""
    try:
        number = float(text) if text else -1.0
    except ValueError:
        return None
    return number if 0 <= number < 1e15 else None
