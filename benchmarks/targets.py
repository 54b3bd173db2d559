"""Targets of the benchmarks, and the exit status of a program that misses one.

A machine that does other work makes times, CPU and memory worse, never better. A measurement that misses such a target
is made again, at most twice, and the best one counts as a whole. A wrong result is never measured again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

#: Measurements of a noisy target that is missed, the first one included.
ATTEMPTS = 3


@dataclass(frozen=True)
class Target:
    """A target: ``measured`` must be at most ``limit``.

    :ivar noisy: other load on the machine can make it worse.
    """

    what: str
    limit: float
    measured: float
    noisy: bool = False

    @property
    def reached(self) -> bool:
        return self.measured <= self.limit


def settled(measure: Callable[[], list[Target]]) -> list[Target]:
    """Measure, and again while only noisy targets are missed.

    :return: the targets of the best measurement, or of one with a wrong result.
    """
    best = measure()
    for _ in range(ATTEMPTS - 1):
        missed = [target for target in best if not target.reached]
        if not missed or not all(target.noisy for target in missed):
            break
        print(
            f"\nMeasured again, because of: {'; '.join(target.what for target in missed)}", file=sys.stderr, flush=True
        )
        best = min(best, measure(), key=_distance)
    return best


def _distance(measurement: list[Target]) -> tuple[bool, int, float]:
    """Order measurements: first one with a wrong result, then by the number of missed targets and the worst of them."""
    missed = [target for target in measurement if not target.reached]
    wrong = any(not target.noisy for target in missed)
    return not wrong, len(missed), max((target.measured / target.limit for target in missed if target.noisy), default=0)


def verdict(targets: Iterable[Target]) -> int:
    """Print a line for each missed target to standard error, and return the exit status."""
    missed = [target for target in targets if not target.reached]
    for target in missed:
        print(f"Missed: {target.what} must be at most {target.limit:g}, got {target.measured:.4g}.", file=sys.stderr)
    return 1 if missed else 0
