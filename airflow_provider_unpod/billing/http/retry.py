"""Trying one request again: how often, after how long, and what is said when it is given up."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, TypeVar

import tenacity

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_unpod.billing.errors import UnpodError
    from airflow_provider_unpod.billing.http.cancellation import Cancellation
    from airflow_provider_unpod.billing.http.rate_limit import Pacing

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often one request is tried, and how long is waited between the tries (seconds).

    The n-th wait is drawn evenly from 0 to ``first_wait`` * 2ⁿ⁻¹, but to ``max_wait`` at most. Where the API says how
    long to wait, that is what is waited; if it is more than what is left of ``max_total_wait``, not at all:
    the request fails at once. With the defaults a list of 200 pages at 9 % faults fails once in a million reads.
    """

    attempts: int = 8
    first_wait: float = 0.5
    max_wait: float = 30.0
    max_total_wait: float = 300.0

    def backoff(self, attempt: int) -> float:
        """The wait after the ``attempt``-th try (1-based) failed."""
        # Full jitter: clients that failed together come back one by one.
        most = min(self.max_wait, self.first_wait * 2.0 ** min(attempt - 1, 30))
        return random.uniform(0.0, most)  # noqa: S311  # no secret


DEFAULT_RETRY = RetryPolicy()
#: For whoever looks again and again: a look that fails is soon made again, and nobody shall wait long to hear of it.
POLL_RETRY = RetryPolicy(attempts=3)


class Retryable(Exception):
    """A try failed in a way that may pass. ``error`` is what it becomes if it does not."""

    def __init__(self, error: UnpodError, cause: BaseException | None, asked_wait: float | None) -> None:
        super().__init__(error.message)
        self.error = error
        self.cause = cause
        #: Seconds that the API asked to wait.
        self.asked_wait = asked_wait


class Tries:
    """The tries of one request, and the time that may still be waited for them."""

    def __init__(self, policy: RetryPolicy, pacing: Pacing, cancellation: Cancellation | None) -> None:
        self._policy = policy
        self._pacing = pacing
        self._cancellation = cancellation
        self._reason = ""
        #: Seconds that may still be waited.
        self.patience = policy.max_total_wait

    def run(self, attempt: Callable[[], T]) -> T:
        """What ``attempt`` gives, tried again while it raises :class:`Retryable`.

        :raises UnpodError: that of the last try, when there are no more.
        :raises Cancelled: if the reading is cancelled during a wait.
        """
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Retryable),
            wait=self._wait,
            stop=self._stop,
            sleep=self._sleep,
            retry_error_callback=self._give_up,
        )(attempt)

    def _wait(self, state: tenacity.RetryCallState) -> float:
        fault, number = _fault_of(state), state.attempt_number
        self._reason = f"try {number} failed: {fault.error.message.rstrip('.')}"
        if fault.asked_wait is None:
            return min(self._policy.backoff(number), self.patience)
        # No longer than a request may wait: a moment years away must not disable the client for good.
        self._pacing.pause(min(fault.asked_wait, self._policy.max_total_wait))
        # Many tasks are told the same moment: a little later each spreads them.
        return fault.asked_wait + random.uniform(0.0, min(1.0, fault.asked_wait * 0.05))  # noqa: S311  # no secret

    def _stop(self, state: tenacity.RetryCallState) -> bool:
        too_long = (_fault_of(state).asked_wait or 0.0) > self.patience
        return too_long or self.patience <= 0 or state.attempt_number >= self._policy.attempts

    def _sleep(self, seconds: float) -> None:
        self.patience -= seconds
        self._pacing.sleep(seconds, self._reason, self._cancellation)

    def _give_up(self, state: tenacity.RetryCallState) -> NoReturn:
        fault = _fault_of(state)
        why = f"given up after {state.attempt_number} tries"
        if fault.asked_wait is not None and fault.asked_wait > self.patience:
            most = self._policy.max_total_wait
            why = f"asked to wait {fault.asked_wait:.0f} s, where at most {most:.0f} s are waited for one request"
        error = fault.error
        text = f"{error.message.rstrip('.')}; {why}."
        raise type(error)(text, status=error.status, url=error.url, page=error.page) from fault.cause


def _fault_of(state: tenacity.RetryCallState) -> Retryable:
    fault = state.outcome.exception() if state.outcome else None
    if not isinstance(fault, Retryable):
        raise RuntimeError("only a passing fault is retried")
    return fault
