"""Targets of the benchmarks, and the exit status of a program that misses one.

A machine that does other work makes times, CPU and memory worse, never better. Such a target is measured again when it
is missed, at most twice, and its best figure counts. A wrong result is never measured again.
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

    :return: the targets of the first measurement: noisy ones with their best figure, others with their worst.
    """
    best = measure()
    for _ in range(ATTEMPTS - 1):
        missed = [target for target in best if not target.reached]
        if not missed or not all(target.noisy for target in missed):
            break
        print(
            f"\nMeasured again, because of: {'; '.join(target.what for target in missed)}", file=sys.stderr, flush=True
        )
        again = {target.what: target for target in measure()}
        best = [_better(target, again.get(target.what, target)) for target in best]
    return best


def _better(one: Target, other: Target) -> Target:
    choose = min if one.noisy else max
    return choose(one, other, key=lambda target: target.measured)


def verdict(targets: Iterable[Target]) -> int:
    """Print a line for each missed target to standard error, and return the exit status."""
    missed = [target for target in targets if not target.reached]
    for target in missed:
        print(f"Missed: {target.what} must be at most {target.limit:g}, got {target.measured:.4g}.", file=sys.stderr)
    return 1 if missed else 0
