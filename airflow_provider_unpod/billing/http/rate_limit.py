"""Paces the requests of all threads of a client, and waits between tries.

Each response reports how many requests are left and when the limit resets (``X-RateLimit-Remaining``,
``X-RateLimit-Reset`` in Unix seconds). The limit belongs to the token, so all workers with this token share it.
:mod:`~airflow_provider_unpod.billing.http.fair_share` computes the share of this client.
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

#: Windows that end later than this (seconds) are ignored. Documented windows last a minute; a daily limit or an invalid
#: header must not slow down a client that was never refused.
LONGEST_WINDOW = 120.0
#: A reset later than this (seconds) is invalid. The longest documented limit lasts a day.
_LATEST_RESET = 32 * 86_400.0
#: ``X-RateLimit-Reset`` is in whole seconds, so the window may end up to one second later.
_ROUNDING = 1.0
#: Clock differences below this (seconds) are ignored. The ``Date`` header is only exact to the second.
_CLOCK_TOLERANCE = 2.0
#: Shortest wait (seconds) that is logged.
_WORTH_A_LINE = 3.0
#: A wait is not logged if it ends at most this much (seconds) after another that was.
_QUIET = 60.0
#: Shortest wait (seconds) for which the log line says how to avoid it.
_WORTH_ADVICE = 15.0


class Clock:
    """The clock of :class:`Pacing`. Tests replace it."""

    def monotonic(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        return time.time()

    def wait(self, condition: threading.Condition, seconds: float | None) -> None:
        """Release ``condition`` for at most ``seconds``. ``None`` waits until it is notified."""
        condition.wait(seconds)


@dataclass(frozen=True, slots=True)
class Budget:
    """The rate limit that the API reported last. Values are ``None`` if it reported none.

    :param limit: requests per window.
    :param remaining: requests left in the current window.
    :param resets_in: seconds until the window ends.
    """

    limit: int | None
    remaining: int | None
    resets_in: float | None

    def __str__(self) -> str:
        if self.remaining is None or self.resets_in is None:
            return "none announced"
        of = f" of {self.limit}" if self.limit else ""
        return f"{self.remaining}{of} requests left for {self.resets_in:.0f} s"


class Pacing:
    """Delays requests to stay within the rate limit. Thread-safe."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self._condition = threading.Condition()
        self._share = FairShare()
        self._in_flight = 0
        self._announced_limit: int | None = None
        self._reset: float | None = None  # X-RateLimit-Reset of the current window, which identifies it
        self._paused_until = 0.0
        self._announced_until = float("-inf")
        self._advised = False

    @property
    def budget(self) -> Budget:
        """The rate limit that the API reported last."""
        with self._condition:
            share = self._share
            if share.ends is None:
                return Budget(None, None, None)
            return Budget(self._announced_limit, share.remaining, max(0.0, share.ends - self.clock.monotonic()))

    def enter(self, cancellation: Cancellation | None, patience: float) -> tuple[float, float]:
        """Wait until one more request may be sent, and count it as in flight.

        :param patience: longest acceptable wait for the rate limit in seconds. A :meth:`pause` does not count.
        :return: seconds waited for it, and seconds still to wait. The second value is 0 if the request may be sent.
            Otherwise it exceeds the remaining ``patience``, and the request is not counted.
        :raises Cancelled: if ``cancellation`` was cancelled.
        """
        with self._condition:
            if self._hold() is None:
                self._in_flight += 1
                return 0.0, 0.0
        waited = 0.0
        with cancellation.calling(self._wake) if cancellation else nullcontext(), self._condition:
            while (seconds := self._hold()) is not None:
                began = self.clock.monotonic()
                if self._is_paused():
                    self._wait(seconds, "another request was asked to wait", cancellation)
                    continue
                if seconds == float("inf"):
                    self._wait(None, "", cancellation)
                elif seconds > patience - waited:
                    return waited, seconds
                else:
                    self._wait(seconds, self._reason(), cancellation, self._advice(seconds))
                waited += self.clock.monotonic() - began
            self._in_flight += 1
            return waited, 0.0

    def leave(self, headers: Mapping[str, str] | None, *, refused: bool = False) -> None:
        """Record the end of a request.

        :param headers: headers of its response. ``None`` if there was none.
        :param refused: whether the response is a 429. The caller then also calls :meth:`refuse`.
        """
        with self._condition:
            self._in_flight -= 1
            if headers is not None and self._learn(headers) and not refused:
                self._share.served(self.clock.monotonic())
            self._condition.notify_all()

    def refuse(self, seconds: float, patience: float) -> None:
        """Postpone the requests of all threads by at least ``seconds``, as a 429 asked.

        :param patience: longest acceptable wait in seconds.
        """
        with self._condition:
            self._share.refused(self.clock.monotonic(), seconds, patience)

    def pause(self, seconds: float) -> None:
        """Send no request of any thread for this many seconds."""
        with self._condition:
            self._paused_until = max(self._paused_until, self.clock.monotonic() + seconds)

    def sleep(self, seconds: float, why: str, cancellation: Cancellation | None) -> None:
        """Wait between two tries of one thread.

        :raises Cancelled: if ``cancellation`` was cancelled.
        """
        with cancellation.calling(self._wake) if cancellation else nullcontext(), self._condition:
            until = self.clock.monotonic() + seconds
            while (left := until - self.clock.monotonic()) > 0:
                self._wait(left, why, cancellation)

    def asked_wait(self, headers: Mapping[str, str], *, refused: bool) -> float | None:
        """Return the seconds that a response asks to wait. ``None`` if it asks for nothing usable.

        :param refused: whether the response is a 429. If so, the end of the window counts as well.
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
        # 0 and times in the past are ignored: the backoff applies instead, to protect the server.
        reset = _number(headers.get("X-RateLimit-Reset"))
        if not refused or reset is None:
            return None
        seconds = self._seconds_until(reset, headers) + _ROUNDING
        return seconds if 0 < seconds < _LATEST_RESET else None

    def _seconds_until(self, server_time: float, headers: Mapping[str, str]) -> float:
        """Return the seconds until ``server_time`` (Unix seconds), by the server's clock if ours differs."""
        now = self.clock.time()
        try:
            server = parsedate_to_datetime(headers["Date"]).timestamp()
        except (KeyError, TypeError, ValueError, OverflowError, IndexError):
            server = now
        return server_time - (now if abs(server - now) <= _CLOCK_TOLERANCE else server)

    def _is_paused(self) -> bool:
        return self.clock.monotonic() < self._paused_until

    def _hold(self) -> float | None:
        """Return the seconds to wait, or ``None`` to send now. The caller holds the condition."""
        now = self.clock.monotonic()
        if self._is_paused():
            return self._paused_until - now
        return self._share.hold(now, self._in_flight)

    def _reason(self) -> str:
        limit = self._announced_limit
        return f"the rate limit{f' of {limit} requests' if limit else ''} of this API token is in use"

    def _advice(self, seconds: float) -> str:
        """Return the advice for long waits, once for each client."""
        if self._advised or seconds < _WORTH_ADVICE or self._announced_limit is None:
            return ""
        self._advised = True
        return " To wait less, give the tasks that use this token a pool with fewer slots."

    def _wait(self, seconds: float | None, why: str, cancellation: Cancellation | None, advice: str = "") -> None:
        if seconds is not None and seconds >= _WORTH_A_LINE:
            now = self.clock.monotonic()
            # Threads wait for different times in the same window: one line is enough. Advice is always logged.
            if advice or now + seconds > self._announced_until + _QUIET:
                self._announced_until = max(self._announced_until, now + seconds)
                log.info("Waiting %.0f s before the next request to Unpod: %s.%s", seconds, why, advice)
        # Checked before the wait too: an earlier cancellation would not wake it.
        if cancellation:
            cancellation.check()
        self.clock.wait(self._condition, seconds)
        if cancellation:
            cancellation.check()

    def _wake(self) -> None:
        with self._condition:
            self._condition.notify_all()

    def _learn(self, headers: Mapping[str, str]) -> bool:
        """Record the rate limit in ``headers``. Return whether they describe the current window."""
        remaining = _number(headers.get("X-RateLimit-Remaining"))
        reset = _number(headers.get("X-RateLimit-Reset"))
        if remaining is None or reset is None or (self._reset is not None and reset < self._reset):
            return False  # no usable header, or a response from the previous window
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
    """Format ``seconds`` for people: "45 s", "15 min", "5 h 12 min", "3 days"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes >= 48 * 60:
        return f"{minutes // (24 * 60)} days"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if minutes % 60 else f"{hours} h"


def utc_time(unix_seconds: float) -> str:
    """Format Unix seconds as ISO 8601 in UTC, to the second."""
    try:
        return datetime.fromtimestamp(unix_seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return "the year 9999"


def _number(text: str | None) -> float | None:
    """Parse the number in a header. ``None`` if it is not a number, negative or absurdly large."""
    try:
        number = float(text) if text else -1.0
    except ValueError:
        return None
    return number if 0 <= number < 1e15 else None
