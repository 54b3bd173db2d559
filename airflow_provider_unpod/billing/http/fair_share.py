"""Shares a rate limit among many workers that have no store and no lock in common.

A worker learns about the others only from responses, which say how many requests are left until the window ends. This
is enough to spread the requests of all workers over the window:

- *The line.* A window that is used evenly has used ``limit`` * (time passed / window length) requests. Below this line
  requests go out immediately. A worker that has just started may also use an eighth of the limit.
- *The crowd.* Above the line a worker waits. It estimates the number of workers from the requests of the others,
  divided by its own. It waits 0.4 slots (a slot is window length / limit) for each worker, and more for the requests
  above the line. If the window is exhausted by then, it picks a random time in the next window.
- *Refused.* A refused worker waits for a longer, random time, and longer still if it is refused again. If there are
  more workers than requests, the others need every request.

The constants come from a search over simulated loads. ``benchmarks/many_workers.py`` has the simulation, and
``tests/billing/http/test_fair_share.py`` the bounds that it keeps.

All times are seconds on one monotonic clock. The class uses no threads, no headers and no clock, because the benchmark
of many workers simulates it.
"""

from __future__ import annotations

import random

#: Share of the limit that a worker may use above the line in its first window.
_CREDIT = 0.13
#: Smallest share of the window assumed to have passed. Earlier than that, a few requests look like a crowd.
_EARLIEST = 0.43
#: Slots to wait for each worker, because the line already delays those that are too early, and for each request above
#: the line, because other workers wait for the same ones. Waits differ by up to this share, so that workers spread out.
_SLOTS_PER_WORKER, _SLOTS_PER_REQUEST_AHEAD, _JITTER = 0.42, 2.4, 0.2
#: A crowd of up to the first multiple of the limit fits into a window, and spreads over the second share of the next
#: one. A larger crowd spreads over the third, because every refused request is lost for another worker.
_FITS, _CLOSER, _APART = 1.25, 0.4, 1.6
#: Largest estimate of the number of workers, as a multiple of the limit.
_LARGEST_CROWD = 3.0
#: A refused worker multiplies its estimate of the crowd: by up to 1 + the first factor if it is refused early in the
#: window, and by the second factor for each refusal in a row. It waits at most as many windows as the third says.
_REFUSED_EARLY, _REFUSED_AGAIN, _LONGEST_RETREAT = 2.3, 1.9, 5.0
#: The API reports the end of a window in whole seconds, so a window may last one second longer.
_ROUNDING = 1.0
#: Window length in the API's documentation, assumed until two windows have been seen.
_DOCUMENTED_WINDOW = 60.0


class FairShare:
    """Decides when this worker may send its next request. Not thread-safe."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._random = rng or random.Random()  # noqa: S311  # no secret
        self.limit: int | None = None
        #: End of the current window. ``None`` if it is unknown.
        self.ends: float | None = None
        self._length = _DOCUMENTED_WINDOW
        self._used = 0
        self._mine = self._mine_before = 0
        self._next = 0.0
        self._first_window = True
        self._refusals = 0
        self._refused_in: float | None = -1.0  # the end of that window

    @property
    def remaining(self) -> int | None:
        """Requests left in the current window, according to the last response."""
        return None if self.limit is None else max(0, self.limit - self._used)

    def learn(self, now: float, limit: int, remaining: int, ends: float, *, new_window: bool) -> None:
        """Record a response that reported ``remaining`` of ``limit`` requests until ``ends``."""
        if new_window or self.ends is None:
            self._begin_window(now, ends)
        self.limit = max(1, limit, remaining)
        # Responses may arrive out of order. Within one window, the largest number is the latest.
        self._used = max(self._used, self.limit - remaining)

    def served(self, now: float) -> None:
        """Record that the response just passed to :meth:`learn` was not a refusal."""
        self._mine += 1
        self._refusals = 0
        if self.limit is None or self.ends is None or now >= self.ends:
            return
        ahead = self._used - self._line(now)
        if ahead < 0 and self._used < self.limit:
            return
        slot, workers = self._length / self.limit, self._workers(now)
        slots = workers * _SLOTS_PER_WORKER + max(ahead, 0.0) * _SLOTS_PER_REQUEST_AHEAD
        slots *= self._random.uniform(1 - _JITTER, 1 + _JITTER)
        wait = slots * slot
        if self._used + slots < self.limit and now + wait < self.ends:
            self._not_before(now + wait)
        else:
            spread = (workers - 1) * slot * (_CLOSER if workers < _FITS * self.limit else _APART)
            self._not_before(self.ends + max(_ROUNDING, self._random.random() * spread))

    def refused(self, now: float, wait: float, patience: float = float("inf")) -> None:
        """Record a refused request and postpone the next one.

        :param wait: minimum wait in seconds.
        :param patience: maximum wait in seconds, at least ``wait``.
        """
        if now < self._next and self._refused_in == self.ends:
            return  # another request in flight was refused, too
        self._refused_in = self.ends
        self._refusals += 1
        growth = _REFUSED_AGAIN ** min(self._refusals - 1, 9)
        if self.limit is None or self.ends is None or now >= self.ends:
            # There are other workers, but their number is unknown.
            apart = wait * self._random.random() * min(_LONGEST_RETREAT, 0.5 * growth)
            self._not_before(now + min(wait + apart, patience))
            return
        crowd = self._workers(now) * (1.0 + _REFUSED_EARLY * (1.0 - self._passed(now))) * growth
        windows = min(_LONGEST_RETREAT, (crowd - 1) / self.limit)
        apart = max(_ROUNDING, self._random.random() * windows * self._length)
        self._not_before(min(max(self.ends, now + wait) + apart, now + patience))

    def hold(self, now: float, in_flight: int) -> float | None:
        """Return the seconds until the next request, ``inf`` to wait for a response, or ``None`` to send it now."""
        if now < self._next:
            return self._next - now
        if self.limit is None or self.ends is None or not in_flight:
            return None
        if now >= self.ends or in_flight >= max(1, self._mine):
            return float("inf")  # a response will say how many requests are left
        used = self._used + in_flight
        return None if used < min(self._line(now), self.limit) else float("inf")

    def _begin_window(self, now: float, ends: float) -> None:
        if self.ends is not None:
            self._first_window = False
            # A server with a sliding window reports a later end each time, before the reported one has passed.
            if now >= self.ends - _ROUNDING:
                self._length = min(self._length, ends - self.ends)
        self._length = max(1.0, self._length, ends - now)
        self._mine_before, self._mine = self._mine, 0
        self._used, self.ends = 0, ends

    def _passed(self, now: float) -> float:
        """Return the share of the window that has passed, from 0 to 1."""
        assert self.ends is not None
        return min(1.0, max(0.0, 1.0 - (self.ends - now) / self._length))

    def _line(self, now: float) -> float:
        """Return the number of requests that an evenly used window would have used by ``now``."""
        assert self.limit is not None
        return self.limit * (self._passed(now) + (_CREDIT if self._first_window else 0.0))

    def _workers(self, now: float) -> float:
        """Estimate how many workers share the limit."""
        assert self.limit is not None
        passed = max(_EARLIEST, self._passed(now))
        mine = max(1.0, self._mine + self._mine_before * (1.0 - passed))
        others = max(0, self._used - self._mine)
        return min(_LARGEST_CROWD * self.limit, 1.0 + others / passed / mine)

    def _not_before(self, time: float) -> None:
        self._next = max(self._next, time)
