"""Trying one request again: how often, after how long, and when to give up."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_unpod.billing.errors import UnpodRateLimited
from airflow_provider_unpod.billing.http.rate_limit import duration, moment

if TYPE_CHECKING:
    from airflow_provider_unpod.billing.errors import UnpodError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often one request is tried, and how long it may wait. All times are in seconds.

    After a fault, the n-th wait is drawn evenly from 0 to ``first_wait`` * 2ⁿ⁻¹, at most ``max_wait``, or is what the
    server asks for. With the defaults, a list of 200 pages at 9 % faults fails once in a million reads.

    :param attempts: tries of one request, rate-limited ones not counted; 1: no second try for any reason.
    :param first_wait: longest wait after the first fault.
    :param max_wait: longest wait after any fault.
    :param max_total_wait: longest sum of the waits after faults. A longer wait that the server asks for fails at once.
    :param max_rate_limit_wait: longest sum of the waits for the API's rate limit, which are progress and not faults.
        A longer wait, as for a used-up daily quota, fails at once.
    """

    attempts: int = 8
    first_wait: float = 0.5
    max_wait: float = 30.0
    max_total_wait: float = 300.0
    max_rate_limit_wait: float = 900.0

    def backoff(self, attempt: int) -> float:
        """The wait after the ``attempt``-th try (1-based) failed."""
        # Full jitter: clients that failed together come back one by one.
        most = min(self.max_wait, self.first_wait * 2.0 ** min(attempt - 1, 30))
        return random.uniform(0.0, most)  # noqa: S311  # no secret


DEFAULT_RETRY = RetryPolicy()
#: For pollers: the next poll comes soon anyway, so give up early.
POLL_RETRY = RetryPolicy(attempts=3, max_rate_limit_wait=300.0)


@dataclass(frozen=True, slots=True)
class Failure:
    """A try without a usable response.

    :ivar kind: the error that it becomes if it is the last try.
    :ivar retryable: whether the same request may succeed when it is sent again.
    :ivar asked_wait: seconds that the server asks to wait; ``None``: it says nothing usable.
    :ivar cause: the exception of the network behind it.
    """

    kind: type[UnpodError]
    message: str
    retryable: bool = False
    asked_wait: float | None = None
    status: int | None = None
    cause: BaseException | None = None


class Tries:
    """The tries of one request: counts them and what they wait, and says when the next one makes no sense."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._waited = 0.0
        self._waited_for_limit = 0.0
        #: Tries that failed, rate-limited ones not counted.
        self.failed = 0
        self._refused = 0

    @property
    def patience(self) -> float:
        """Seconds that may still be waited for the rate limit."""
        return self._policy.max_rate_limit_wait - self._waited_for_limit

    def waited_for_limit(self, seconds: float) -> None:
        """Count a wait for the rate limit."""
        self._waited_for_limit += seconds

    def wait_after(self, failure: Failure) -> float | None:
        """Seconds until the next try; ``None`` if there is none, which :meth:`final_message` explains."""
        # Without a time to wait, a 429 is a fault like any other.
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
        """The message for the caller when there is no next try.

        :param now: Unix seconds.
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
            return f"{said}; asked to wait {duration(asked)}, and one request waits at most {most} {self._spent()}."
        return f"{said}; given up after {self.failed + self._refused} tries."

    def too_long(self, seconds: float, now: float, said: str = "") -> str:
        """The message of a rate limit that is used up for longer than one request may wait.

        :param now: Unix seconds.
        :param said: the API's own words.
        """
        most = duration(self._policy.max_rate_limit_wait)
        return (
            f"Retry after {moment(now + seconds)}: the rate limit of this API token is used up for "
            f"{duration(seconds)}, and one request waits for it at most {most} {self._spent()}. {said}"
        ).rstrip()

    def _spent(self) -> str:
        return f"(waited so far: {duration(self._waited + self._waited_for_limit)})"
