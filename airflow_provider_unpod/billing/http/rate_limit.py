"""Decides when the next request may go out: one gate for all threads of a client, and every wait between two tries.

The API says with each response how many requests are left and when the count starts anew (``X-RateLimit-Remaining``,
``X-RateLimit-Reset`` in Unix seconds). The limit belongs to the token, so all workers that use it spend it together:
:mod:`~airflow_provider_unpod.billing.http.fair_share` decides what of it is this client's.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from airflow_provider_unpod.billing.http.fair_share import FairShare

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_unpod.billing.http.cancellation import Cancellation

log = logging.getLogger(__name__)

#: A window that ends later than this (seconds) is not paced: the documented ones last a minute, and a daily limit, or
#: a header that makes no sense, must not stop a client that has not been refused anything.
LONGEST_WINDOW = 120.0
#: A reset later than this (seconds) is a header that makes no sense: the longest documented limit is a day's.
_LATEST_RESET = 32 * 86_400.0
#: ``X-RateLimit-Reset`` comes in whole seconds: the window may end up to one second after it.
_ROUNDING = 1.0
#: Clocks that differ by less are taken to agree; the ``Date`` header itself is only exact to the second.
_CLOCK_TOLERANCE = 2.0
#: Waits from this many seconds on are worth a line in the log.
_WORTH_A_LINE = 3.0
#: After a line in the log, this many seconds without another one.
_QUIET = 60.0
#: Waits from this many seconds on are worth the advice how to shorten them.
_WORTH_ADVICE = 15.0


class Clock:
    """Time as the pacing sees it."""

    def monotonic(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        return time.time()

    def wait(self, condition: threading.Condition, seconds: float | None) -> None:
        """Release ``condition`` for at most ``seconds``; ``None``: until it is notified."""
        condition.wait(seconds)


@dataclass(frozen=True, slots=True)
class Budget:
    """The latest rate limit that the API reported; ``None`` where it reported nothing usable."""

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
        self.clock = clock or Clock()
        self._condition = threading.Condition()
        self._share = FairShare()
        self._in_flight = 0
        self._announced_limit: int | None = None
        self._reset: float | None = None  # as the API named it, to distinguish one window from the next
        self._paused_until = 0.0
        self._announced_until = 0.0
        self._advised = False

    @property
    def budget(self) -> Budget:
        """A snapshot, for progress lines."""
        with self._condition:
            share = self._share
            if share.ends is None:
                return Budget(None, None, None)
            return Budget(self._announced_limit, share.remaining, max(0.0, share.ends - self.clock.monotonic()))

    def enter(self, cancellation: Cancellation | None, patience: float) -> tuple[float, float]:
        """Wait until one more request may go out, and count it as in flight.

        :param patience: the longest wait in seconds that the caller accepts.
        :return: the seconds that were waited, and the seconds that must still be waited. Unless the latter are 0,
            they are more than what is left of ``patience``, and nothing is in flight.
        :raises Cancelled: if ``cancellation`` is or gets cancelled.
        """
        with self._condition:
            if self._hold() is None:
                self._in_flight += 1
                return 0.0, 0.0
        with cancellation.calling(self._wake) if cancellation else nullcontext(), self._condition:
            began = self.clock.monotonic()
            while (seconds := self._hold()) is not None:
                waited = self.clock.monotonic() - began
                if seconds == float("inf"):
                    self._wait(None, "", cancellation)
                elif seconds > patience - waited:
                    return waited, seconds
                else:
                    self._wait(seconds, self._reason(), cancellation)
            self._in_flight += 1
            return self.clock.monotonic() - began, 0.0

    def leave(self, headers: Mapping[str, str] | None, *, refused: bool = False) -> None:
        """A request is over; ``headers`` are those of its response, ``None`` where there was none.

        :param refused: the response is a 429. :meth:`refuse` follows, with what it asks for.
        """
        with self._condition:
            self._in_flight -= 1
            if headers is not None and self._learn(headers) and not refused:
                self._share.served(self.clock.monotonic())
            self._condition.notify_all()

    def refuse(self, seconds: float, patience: float) -> None:
        """A 429 asks to wait for ``seconds``: no request of any thread goes out before, nor all of them right after.

        :param patience: the longest wait in seconds that the caller accepts.
        """
        with self._condition:
            self._share.refused(self.clock.monotonic(), seconds, patience)

    def pause(self, seconds: float) -> None:
        """No request of any thread goes out for this long."""
        with self._condition:
            self._paused_until = max(self._paused_until, self.clock.monotonic() + seconds)

    def sleep(self, seconds: float, why: str, cancellation: Cancellation | None) -> None:
        """Wait between two tries of one thread.

        :raises Cancelled: if ``cancellation`` is or gets cancelled.
        """
        with cancellation.calling(self._wake) if cancellation else nullcontext(), self._condition:
            until = self.clock.monotonic() + seconds
            while (left := until - self.clock.monotonic()) > 0:
                self._wait(left, why, cancellation)

    def asked_wait(self, headers: Mapping[str, str], *, refused: bool) -> float | None:
        """Seconds that a response asks to wait; ``None`` where it says nothing that makes sense.

        :param refused: the response is a 429, so that the end of its window is when to come back.
        """
        text = (headers.get("Retry-After") or "").strip()
        try:
            seconds = float(text)
        except ValueError:
            try:
                seconds = self._seconds_until(parsedate_to_datetime(text).timestamp(), headers)
            except (TypeError, ValueError, OverflowError, IndexError):
                seconds = 0.0
        if 0 < seconds < float("inf"):
            return seconds
        # "Now" and the past are of no use: the backoff decides, or a server that says 0 would be flooded.
        reset = _number(headers.get("X-RateLimit-Reset"))
        if not refused or reset is None:
            return None
        seconds = self._seconds_until(reset, headers) + _ROUNDING
        return seconds if 0 < seconds < _LATEST_RESET else None

    def _seconds_until(self, moment: float, headers: Mapping[str, str]) -> float:
        """From now to ``moment`` (Unix seconds of the server), by the server's clock where ours differs."""
        now = self.clock.time()
        try:
            server = parsedate_to_datetime(headers["Date"]).timestamp()
        except (KeyError, TypeError, ValueError, OverflowError, IndexError):
            server = now
        return moment - (now if abs(server - now) <= _CLOCK_TOLERANCE else server)

    def _hold(self) -> float | None:
        """How long nothing may go out; ``None``: go. Called with the condition held."""
        now = self.clock.monotonic()
        if now < self._paused_until:
            return self._paused_until - now
        return self._share.hold(now, self._in_flight)

    def _reason(self) -> str:
        limit = self._announced_limit
        return f"the rate limit{f' of {limit} requests' if limit else ''} of this API token is in use"

    def _wait(self, seconds: float | None, why: str, cancellation: Cancellation | None) -> None:
        if seconds is not None and seconds >= _WORTH_A_LINE:
            now = self.clock.monotonic()
            # One line for a wait that many threads share, and a line a minute at most.
            if now + seconds > self._announced_until + 1:
                self._announced_until = now + max(seconds, _QUIET)
                log.info("Waiting %.0f s before the next request to Unpod: %s.%s", seconds, why, self._advice(seconds))
        # Also before: a cancellation that came ahead of this wait has woken nobody.
        if cancellation:
            cancellation.check()
        self.clock.wait(self._condition, seconds)
        if cancellation:
            cancellation.check()

    def _advice(self, seconds: float) -> str:
        """Given once: the remedy is the same each time."""
        if self._advised or seconds < _WORTH_ADVICE or self._announced_limit is None:
            return ""
        self._advised = True
        return " To wait less, give the tasks that use this token a pool with fewer slots."

    def _wake(self) -> None:
        with self._condition:
            self._condition.notify_all()

    def _learn(self, headers: Mapping[str, str]) -> bool:
        """Whether the headers say how much is left in a window that is current."""
        remaining = _number(headers.get("X-RateLimit-Remaining"))
        reset = _number(headers.get("X-RateLimit-Reset"))
        if remaining is None or reset is None or (self._reset is not None and reset < self._reset):
            return False  # nothing usable, or a response of the window before
        left = int(remaining)
        now = self.clock.monotonic()
        if reset == self._reset:
            ends = self._share.ends
            assert ends is not None
        else:
            seconds = self._seconds_until(reset, headers)
            if not -_ROUNDING < seconds <= LONGEST_WINDOW:
                return False
            ends = now + seconds
        limit = _number(headers.get("X-RateLimit-Limit"))
        self._announced_limit = int(limit) if limit else None
        known = self._announced_limit or self._share.limit or left + 1
        self._share.learn(now, known, left, ends, new_window=reset != self._reset)
        self._reset = reset
        return True


def duration(seconds: float) -> str:
    """``seconds`` in words: "45 s", "15 min", "5 h 12 min", "3 days"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes >= 48 * 60:
        return f"{minutes // (24 * 60)} days"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if minutes % 60 else f"{hours} h"


def moment(unix_seconds: float) -> str:
    """A moment as ISO 8601 in UTC, to the second."""
    try:
        return datetime.fromtimestamp(unix_seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return "the year 9999"


def _number(text: str | None) -> float | None:
    """A header's number; ``None`` if it is not a number, is negative or is absurdly large."""
    try:
        number = float(text) if text else -1.0
    except ValueError:
        return None
    return number if 0 <= number < 1e15 else None
