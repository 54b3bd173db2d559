"""The requests that may be made in a day beyond the pages that a wait needs at every poll."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from airflow_provider_unpod.billing.http.settings import DAILY_REQUESTS

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

log = logging.getLogger(__name__)

_DAY = 86_400.0
#: Seconds of polls from which a day is estimated.
_JUDGED_AFTER, _JUDGED_ANEW_AFTER = 300.0, 3_600.0


class Allowance:
    """Spreads ``daily`` requests evenly over each day. Thread-safe: several polls may share it.

    Pages that a wait needs are always read, and reduce the allowance. The rest is for reading the list again bit by
    bit, and for complete reads of a list that is in no order.

    :param daily: requests a day.
    :param saved: requests saved already.
    :param clock: returns the time in seconds.
    """

    def __init__(
        self, daily: int = DAILY_REQUESTS, *, saved: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.daily = daily
        self._clock = clock
        self._lock = threading.Lock()
        self._left = saved
        self._at = clock()
        self._first_poll: float | None = None
        self._needed = 0  # requests since then
        self._warned = False

    def balance(self) -> list[float]:
        """Return the requests that are left, and the Unix time, for :meth:`continue_from`."""
        with self._lock:
            return [self._left, time.time()]

    def continue_from(self, balance: Sequence[float]) -> None:
        """Continue from the :meth:`balance` of another process."""
        left, at = balance
        self._left = min(float(self.daily), left + self.daily * max(0.0, time.time() - at) / _DAY)

    def grants(self, requests: int) -> bool:
        """Return whether this many requests may be made now. Up to a day's requests are saved for a long read."""
        with self._lock:
            now = self._clock()
            self._left = min(float(self.daily), self._left + self.daily * (now - self._at) / _DAY)
            self._at = now
            return self._left >= min(requests, self.daily) > 0

    def spend(self, requests: int) -> None:
        """Count requests that were granted."""
        with self._lock:
            self._left -= requests

    def spend_on_poll(self, requests: int, *, first: bool) -> None:
        """Count the requests that a poll needed. Warn once if a day of such polls exceeds the allowance.

        :param first: whether it was the first poll of a list, which is not repeated.
        """
        if first:
            return
        with self._lock:
            # What is needed must not use up the requests of more than the next day.
            self._left = max(min(self._left, -float(self.daily)), self._left - requests)
            now = self._clock()
            if self._first_poll is None:
                self._first_poll = now
                return
            self._needed += requests
            passed = now - self._first_poll
            too_many = passed >= _JUDGED_AFTER and self._needed * _DAY > self.daily * passed
            a_day = self._needed * _DAY / max(passed, 1.0)
            warn, self._warned = too_many and not self._warned, self._warned or too_many
            if passed >= _JUDGED_ANEW_AFTER:
                self._first_poll, self._needed = now, 0
        if warn:
            log.warning(
                "Use a longer `poke_interval`, or raise `daily_requests` of the connection if the plan allows more: "
                "the wanted invoices need about %s requests a day, and `daily_requests` is %s. Until then, invoices "
                "that are inserted out of order and changes of settled invoices may go unnoticed.",
                f"{a_day:,.0f}",
                f"{self.daily:,}",
            )


_shared: WeakValueDictionary[Hashable, Allowance] = WeakValueDictionary()


def allowance_for(organization: Hashable, daily: int) -> Allowance:
    """Return the allowance that all polls of an organization share in this process."""
    allowance = _shared.get(organization)
    if allowance is None or allowance.daily != daily:
        allowance = _shared[organization] = Allowance(daily)
    return allowance
