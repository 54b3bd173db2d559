"""Many workers with one token: refused requests and total time.

A simulation of the protocol (:class:`FairShare`) in virtual time, from a cold start: nobody knows of anybody, and all
begin within a second. Beside it the whole client, in threads, against the sandbox with a rate limit, on one clock that
may run faster for both. ``python -m benchmarks.many_workers --help``.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import math
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import median

from airflow_provider_unpod.billing.client import UnpodClient
from airflow_provider_unpod.billing.errors import UnpodError
from airflow_provider_unpod.billing.http.fair_share import FairShare
from airflow_provider_unpod.billing.http.rate_limit import Clock, Pacing
from airflow_provider_unpod.billing.reading.reading import read_list
from airflow_provider_unpod.billing.reading.windows import planned_requests
from airflow_provider_unpod.sandbox import Sandbox
from airflow_provider_unpod.sandbox.server import RateLimit
from benchmarks.targets import Target, verdict

#: The free plan.
LIMIT, WINDOW = 100, 60.0
INVOICES = 450
CONCURRENCY = 4
#: Simulations of one case.
SEEDS = 20
#: Workers of the cases with targets: at most this share of HTTP 429, and this multiple of requests / limit.
CASES, MOST_REFUSED, LONGEST = (8, 64, 128), 0.1, 1.15
TIMES = "\N{MULTIPLICATION SIGN}{:.2f}"


@dataclass
class Outcome:
    """The outcome of the requests of all workers."""

    workers: int
    limit: int = LIMIT
    window: float = WINDOW
    served: int = 0
    refused: int = 0
    seconds: float = 0.0
    failed: int = 0

    @property
    def refused_share(self) -> float:
        return self.refused / max(1, self.served + self.refused)

    @property
    def wall(self) -> float:
        """Return the time relative to the minimum, requests / limit."""
        return self.seconds / (self.served / self.limit * self.window)


@dataclass
class Worker:
    share: FairShare
    wanted: int
    in_flight: int = 0
    done: int = 0


@dataclass
class Simulation:
    """Events in virtual time: a worker wakes, a request arrives, a response comes back.

    :ivar ramp: seconds within which the workers begin, at random. It matters: the first ones use requests before the
        others can be seen.
    """

    workers: int
    requests: int = planned_requests(INVOICES, 100)
    seed: int = 0
    limit: int = LIMIT
    window: float = WINDOW
    latency: float = 0.05
    ramp: float = 1.0
    events: list[tuple[float, int, str, int, tuple[int, float, bool]]] = field(default_factory=list)

    def run(self) -> Outcome:
        self.rng = random.Random(self.seed)
        self.order = itertools.count()
        self.resets = 0.0
        self.used = 0
        self.outcome = Outcome(self.workers, self.limit, self.window)
        self.all = [Worker(FairShare(random.Random(self.rng.random())), self.requests) for _ in range(self.workers)]
        self.began = self.rng.random()  # the API reports the end of a window in whole seconds
        for number in range(self.workers):
            self.push(self.began + self.ramp * self.rng.random(), "wake", number)
        while self.events:
            now, _, kind, number, said = heapq.heappop(self.events)
            if kind == "arrive":
                self.arrive(now, number)
            elif kind == "respond":
                self.respond(now, number, *said)
            else:
                self.send(now, number)
        return self.outcome

    def push(self, at: float, kind: str, number: int, said: tuple[int, float, bool] = (0, 0.0, False)) -> None:
        heapq.heappush(self.events, (at, next(self.order), kind, number, said))

    def send(self, now: float, number: int) -> None:
        worker = self.all[number]
        # The reader requests the first page alone, since it contains the count.
        while worker.wanted and worker.in_flight < (CONCURRENCY if worker.done else 1):
            hold = worker.share.hold(now, worker.in_flight)
            if hold is not None:
                if hold != math.inf:
                    self.push(now + hold + 1e-6, "wake", number)
                return
            worker.wanted -= 1
            worker.in_flight += 1
            self.push(now + self.rng.uniform(0.2, 0.5) * self.latency, "arrive", number)

    def arrive(self, now: float, number: int) -> None:
        if now >= self.resets:
            self.used, self.resets = 0, now + self.window
        self.used += 1  # refused requests are charged, too
        said = (max(0, self.limit - self.used), float(math.ceil(self.resets)), self.used > self.limit)
        self.push(now + self.rng.uniform(0.2, 0.5) * self.latency, "respond", number, said)

    def respond(self, now: float, number: int, remaining: int, reset: float, refused: bool) -> None:
        worker = self.all[number]
        share = worker.share
        worker.in_flight -= 1
        if share.ends is None or reset >= share.ends:
            share.learn(now, self.limit, remaining, reset, new_window=reset != share.ends)
        if refused:
            share.refused(now, reset - now)
            worker.wanted += 1
            self.outcome.refused += 1
        else:
            share.served(now)
            worker.done += 1
            self.outcome.served += 1
            self.outcome.seconds = now - self.began
        self.send(now, number)


class FasterClock(Clock):
    """A clock that runs ``speed`` times as fast as the real one."""

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self.began = time.time(), time.monotonic()

    def monotonic(self) -> float:
        return self.began[1] + (time.monotonic() - self.began[1]) * self.speed

    def time(self) -> float:
        return self.began[0] + (time.monotonic() - self.began[1]) * self.speed

    def wait(self, condition: threading.Condition, seconds: float | None) -> None:
        condition.wait(None if seconds is None else seconds / self.speed)


@dataclass(frozen=True)
class Case:
    """``workers`` that begin at the same time, each with a list of ``invoices``, and ``limit`` requests a minute."""

    workers: int
    limit: int = LIMIT
    invoices: int = INVOICES

    def simulate(self, seed: int) -> Outcome:
        return Simulation(self.workers, planned_requests(self.invoices, 100), seed, self.limit).run()

    def measure(self, speed: float) -> Outcome:
        """Each worker is a thread with a separate client, which reads the whole list once with the proof."""
        clock, outcome = FasterClock(speed), Outcome(self.workers, self.limit)
        with Sandbox(invoices=self.invoices, rate_limit=self.limit, rate_window=WINDOW) as sandbox:
            sandbox._server._rate_limit = RateLimit(self.limit, WINDOW, clock.time)

            def export(_: int) -> bool:
                with UnpodClient(sandbox.url, sandbox.token, sandbox.org_handle) as client:
                    client._pacing = Pacing(clock)
                    try:
                        with read_list(client) as reading:
                            return sum(1 for _ in reading) == self.invoices
                    except UnpodError as error:
                        print(error, file=sys.stderr)
                        return False

            began = clock.monotonic()
            with ThreadPoolExecutor(self.workers) as pool:
                outcome.failed = list(pool.map(export, range(self.workers))).count(False)
            outcome.seconds = clock.monotonic() - began
            statuses = sandbox.stats["statuses"]
        outcome.served, outcome.refused = statuses["200"], statuses.get("429", 0)
        return outcome

    def targets(self, measured: list[Outcome]) -> list[Target]:
        """The targets of the documented limit. Chance decides about a single run, so the median of all runs counts."""
        workers = f"{self.workers} workers"
        failed = Target(f"failed, {workers}", 0, max(each.failed for each in measured))
        if self not in map(Case, CASES):
            return [failed]
        refused, wall = (median(each.refused_share for each in measured), median(each.wall for each in measured))
        return [
            failed,
            Target(f"share of HTTP 429, {workers}", MOST_REFUSED, refused),
            Target(f"time relative to requests / limit, {workers}", LONGEST, wall),
        ]

    def row(self, simulated: list[Outcome], measured: list[Outcome]) -> str:
        """All simulations and measurements, as a row in markdown."""
        cells = [
            self.workers,
            max(each.served for each in measured),
            spread([each.refused_share for each in simulated], "{:.1%}"),
            spread([each.refused_share for each in measured], "{:.1%}"),
            spread([each.wall for each in simulated], TIMES),
            spread([each.wall for each in measured], TIMES),
            max(each.failed for each in measured),
        ]
        return f"| {' | '.join(map(str, cells))} |"


def spread(figures: list[float], style: str) -> str:
    """The median, and the least and the greatest of several figures."""
    middle, least, most = (style.format(figure) for figure in (median(figures), min(figures), max(figures)))
    return middle if least == most else f"{middle} ({least} to {most})"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many_workers", description=str(__doc__).splitlines()[0])
    parser.add_argument("workers", nargs="*", type=int, default=list(CASES), help="default: 8 64 128")
    parser.add_argument("--limit", type=int, default=LIMIT, help="requests a minute (default: 100)")
    parser.add_argument("--invoices", type=int, default=INVOICES, help="length of each list (default: 450)")
    parser.add_argument("--speed", type=float, default=1.0, help="of the clock; 10 takes one minute instead of twelve")
    parser.add_argument("--rounds", type=int, default=1, help="measurements of each case")
    arguments = parser.parse_args()
    print("| workers | requests | 429, simulated | 429, measured | time, simulated | time, measured | failed |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    targets = []
    for workers in arguments.workers:
        case = Case(workers, arguments.limit, arguments.invoices)
        simulated = [case.simulate(seed) for seed in range(SEEDS)]
        measured = [case.measure(arguments.speed) for _ in range(arguments.rounds)]
        targets += case.targets(measured)
        print(case.row(simulated, measured), flush=True)
    return verdict(targets)


if __name__ == "__main__":
    sys.exit(main())
