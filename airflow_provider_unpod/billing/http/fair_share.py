"""One worker's share of a rate limit that many workers spend, without a store or a lock between them.

All that a worker knows of the others is what each response says: so many requests of the limit are left until the
window ends. That is enough to spread the requests of all over the window:

- *The line.* A window that is spent evenly has used ``limit`` * (time passed / window length) requests. As long as
  less is used, requests go out at once; a worker that has just begun may also use a tenth of the limit.
- *The crowd.* Above the line a worker waits. What the others used, over what it used itself, estimates how many
  workers share the limit; each waits as many slots (window length / limit) as there are workers, and as many as the
  window is ahead of the line. If the window is used up by then, it draws a moment of the next one at random.
- *Refused.* A worker that is refused stays away for longer, at random, and longer still when refused again: in a
  crowd larger than the limit the others need every request that there is.

All times are seconds on one monotonic clock. Knows no threads, no headers and no clock: the benchmark of many workers
simulates this very class.
"""

from __future__ import annotations

import random

#: The share of the limit that a worker which has just begun may use before it looks at the line.
_CREDIT = 0.1
#: A window is taken to have lasted at least this share of its length: earlier, a few requests look like a crowd.
_EARLIEST = 0.25
#: Slots waited for each other worker. Less than 1: the line stops those who come too early.
_SLOTS_PER_WORKER = 0.75
#: A crowd is at most this many times the limit.
_LARGEST_CROWD = 3.0
#: A worker that is refused waits like one of a crowd that is so many times larger, the more the earlier in the window
#: it happens, and by this factor more each time in a row; but no more than so many windows.
_REFUSED_EARLY, _REFUSED_AGAIN, _LONGEST_RETREAT = 3.0, 1.2, 5.0
#: The ends of windows come in whole seconds: a window may last one second more.
_ROUNDING = 1.0
#: Until two windows were seen: what the API documents.
_DOCUMENTED_WINDOW = 60.0


class FairShare:
    """Decides from the responses when this worker's next request may go out. Not thread-safe."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._random = rng or random.Random()  # noqa: S311  # no secret
        self.limit: int | None = None
        #: When the current window ends; ``None``: nothing is known.
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
        """Requests left in the current window, as the last response said."""
        return None if self.limit is None else max(0, self.limit - self._used)

    def learn(self, now: float, limit: int, remaining: int, ends: float, *, new_window: bool) -> None:
        """A response says that ``remaining`` of ``limit`` requests are left until ``ends``."""
        if new_window or self.ends is None:
            self._begin_window(now, ends)
        self.limit = max(1, limit, remaining)
        # Responses overtake each other: within one window the largest number is the latest.
        self._used = max(self._used, self.limit - remaining)

    def served(self, now: float) -> None:
        """The response that :meth:`learn` has just seen was not a refusal."""
        self._mine += 1
        self._refusals = 0
        if self.limit is None or self.ends is None or now >= self.ends:
            return
        ahead = self._used - self._line(now)
        if ahead < 0 and self._used < self.limit:
            return
        slot, workers = self._length / self.limit, self._workers(now)
        wait = (max(ahead, 0.0) + workers * _SLOTS_PER_WORKER) * slot * self._random.uniform(0.5, 1.5)
        if self._used + wait / slot < self.limit and now + wait < self.ends:
            self._not_before(now + wait)
        else:
            self._not_before(self.ends + max(_ROUNDING, self._random.random() * (workers - 1) * slot))

    def refused(self, now: float, wait: float, patience: float = float("inf")) -> None:
        """The request was refused.

        :param wait: seconds to stay away at least.
        :param patience: seconds that the caller waits at most, not less than ``wait``; nothing later is drawn.
        """
        if now < self._next and self._refused_in == self.ends:
            return  # another request in flight was refused, too
        self._refused_in = self.ends
        self._refusals += 1
        growth = _REFUSED_AGAIN ** min(self._refusals - 1, 9)
        if self.limit is None or self.ends is None or now >= self.ends:
            # Nothing is known of the others, but there are some.
            apart = wait * self._random.random() * min(_LONGEST_RETREAT, 0.5 * growth)
            self._not_before(now + min(wait + apart, patience))
            return
        crowd = self._workers(now) * (1.0 + _REFUSED_EARLY * (1.0 - self._passed(now))) * growth
        windows = min(_LONGEST_RETREAT, (crowd - 1) / self.limit)
        apart = max(_ROUNDING, self._random.random() * windows * self._length)
        self._not_before(min(max(self.ends, now + wait) + apart, now + patience))

    def hold(self, now: float, in_flight: int) -> float | None:
        """Seconds until the next request may go out, ``inf``: when a response comes; ``None``: now."""
        if now < self._next:
            return self._next - now
        if self.limit is None or self.ends is None or not in_flight:
            return None
        if now >= self.ends or in_flight >= max(1, self._mine):
            return float("inf")  # first see what is left
        used = self._used + in_flight
        return None if used < min(self._line(now), self.limit) else float("inf")

    def _begin_window(self, now: float, ends: float) -> None:
        if self.ends is not None:
            self._first_window = False
            # A server whose window slides names a later end each time, before the one that it named is over.
            if now >= self.ends - _ROUNDING:
                self._length = min(self._length, ends - self.ends)
        self._length = max(1.0, self._length, ends - now)
        self._mine_before, self._mine = self._mine, 0
        self._used, self.ends = 0, ends

    def _passed(self, now: float) -> float:
        """The share of the window that is over."""
        assert self.ends is not None
        return min(1.0, max(0.0, 1.0 - (self.ends - now) / self._length))

    def _line(self, now: float) -> float:
        """Requests that are used by now if the window is spent evenly."""
        assert self.limit is not None
        return self.limit * (self._passed(now) + (_CREDIT if self._first_window else 0.0))

    def _workers(self, now: float) -> float:
        """How many workers like this one share the limit."""
        assert self.limit is not None
        passed = max(_EARLIEST, self._passed(now))
        mine = max(1.0, self._mine + self._mine_before * (1.0 - passed))
        others = max(0, self._used - self._mine)
        return min(_LARGEST_CROWD * self.limit, 1.0 + others / passed / mine)

    def _not_before(self, moment: float) -> None:
        self._next = max(self._next, moment)
