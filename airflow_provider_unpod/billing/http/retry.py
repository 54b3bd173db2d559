"""The retry policy: how often a request is retried, how long each wait is, and when to give up."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_unpod.billing.errors import UnpodRateLimited
from airflow_provider_unpod.billing.http.rate_limit import duration, utc_time

if TYPE_CHECKING:
    from airflow_provider_unpod.billing.errors import UnpodError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a request is tried, and how long it may wait. All times are in seconds.

    After the n-th fault, the wait is random between 0 and ``first_wait`` * 2ⁿ⁻¹, at most ``max_wait``. If the server
    asks for a wait, that wait is used instead. With the defaults, a list of 200 pages at 9 % faults fails once in a
    million reads.

    :param attempts: maximum number of tries. Rate-limited tries do not count. 1 disables all retries.
    :param first_wait: longest wait after the first fault.
    :param max_wait: longest wait after any fault.
    :param max_total_wait: longest total wait after faults. If the server asks for more, the request fails immediately.
    :param max_rate_limit_wait: longest total wait for the rate limit, if it is less than that of the client. If the
        limit resets later, for example with a daily quota, the request fails immediately.
    """

    attempts: int = 8
    first_wait: float = 0.5
    max_wait: float = 30.0
    max_total_wait: float = 300.0
    max_rate_limit_wait: float = float("inf")

    def backoff(self, attempt: int) -> float:
        """Return the seconds to wait after try number ``attempt`` (from 1) failed."""
        # Full jitter: clients that failed together retry at different times.
        most = min(self.max_wait, self.first_wait * 2.0 ** min(attempt - 1, 30))
        return random.uniform(0.0, most)  # noqa: S311  # no secret


DEFAULT_RETRY = RetryPolicy()
#: For pollers: the next poll comes soon anyway, so give up early.
POLL_RETRY = RetryPolicy(attempts=3, max_rate_limit_wait=300.0)
#: For the first poll of a deferred wait: the triggerer can wait for the rate limit without occupying a worker.
FIRST_POLL_RETRY = RetryPolicy(attempts=3, max_rate_limit_wait=1.0)


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed try.

    :ivar kind: the error class to raise if there is no other try.
    :ivar retryable: whether the same request may succeed when it is sent again.
    :ivar asked_wait: seconds that the server asks to wait. ``None`` if it does not ask.
    :ivar cause: the underlying network exception.
    """

    kind: type[UnpodError]
    message: str
    retryable: bool = False
    asked_wait: float | None = None
    status: int | None = None
    cause: BaseException | None = None


class Tries:
    """Counts the tries and waits of one request, and decides whether there is another try."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._waited = 0.0
        self._waited_for_limit = 0.0
        #: Number of failed tries, without rate-limited ones.
        self.failed = 0
        self._refused = 0

    @property
    def patience(self) -> float:
        """The seconds that this request may still wait for the rate limit."""
        return self._policy.max_rate_limit_wait - self._waited_for_limit

    def waited_for_limit(self, seconds: float) -> None:
        """Count a wait for the rate limit."""
        self._waited_for_limit += seconds

    def wait_after(self, failure: Failure) -> float | None:
        """Return the seconds until the next try. ``None`` if there is none; :meth:`final_message` says why."""
        # A 429 that does not say how long to wait is treated like any other fault.
        limited = failure.kind is UnpodRateLimited and failure.asked_wait is not None
        self._refused += limited
        self.failed += not limited
        if not failure.retryable or self._policy.attempts == 1 or self.failed >= self._policy.attempts:
            return None
        if failure.asked_wait is not None and limited:
            return failure.asked_wait if failure.asked_wait <= self.patience else None
        left = self._policy.max_total_wait - self._waited
        if left <= 0 or (failure.asked_wait or 0.0) > left:
            return None
        wait = failure.asked_wait or min(self._policy.backoff(self.failed), left)
        self._waited += wait
        return wait

    def final_message(self, failure: Failure, now: float) -> str:
        """Return the error message if there is no next try.

        :param now: current time in Unix seconds.
        """
        asked = failure.asked_wait
        if not failure.retryable:
            return failure.message
        if failure.kind is UnpodRateLimited and asked is not None and asked > self.patience:
            return self.too_long(asked, now, failure.message)
        if self._policy.attempts == 1:
            return failure.message
        said = failure.message.rstrip(".")
        if asked is not None and asked > self._policy.max_total_wait - self._waited:
            most = duration(self._policy.max_total_wait)
            return f"{said}; it asks to wait {duration(asked)}, but a request waits at most {most} {self._spent()}."
        return f"{said}; gave up after {self.failed + self._refused} tries."

    def too_long(self, seconds: float, now: float, said: str = "") -> str:
        """Return the error message for a rate limit that resets later than the request may wait.

        :param now: current time in Unix seconds.
        :param said: the API's own message.
        """
        most = duration(self._policy.max_rate_limit_wait)
        said = said.removeprefix("Try later: ")  # when exactly is said here
        return (
            f"Retry after {utc_time(now + seconds)}: the rate limit of this API token is used up for "
            f"{duration(seconds)}, but a request waits for it at most {most} {self._spent()}. {said}"
        ).rstrip()

    def _spent(self) -> str:
        return f"(waited so far: {duration(self._waited + self._waited_for_limit)})"
