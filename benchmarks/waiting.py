"""The cost of waiting: ``python -m benchmarks.waiting``. Needs Airflow 3.3, except with ``--waits`` and no number.

First counts the requests of polls with simulated time and an API in memory: of a day, of a search, and until the whole
list was read again. The program fails if one of these exceeds its target.

Then runs up to ten thousand waits in one triggerer process, with Airflow's own ``TriggerRunner`` and no scheduler; the
API runs in another process. Measures requests, CPU time and memory of the triggerer's process, then how long one wait
blocks the event loop while the API sends a response in small pieces over ten seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import random
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate

from airflow_provider_unpod.billing.client import Page
from airflow_provider_unpod.billing.invoice import Invoice
from airflow_provider_unpod.billing.reading.reading import read_list
from airflow_provider_unpod.billing.watching.allowance import Allowance
from airflow_provider_unpod.billing.watching.subscriptions import Snapshot, Wanted
from airflow_provider_unpod.billing.watching.watch import ListWatch
from benchmarks import server as sandbox
from benchmarks.server import Server
from benchmarks.tables import MIB, Table
from benchmarks.targets import Target, verdict

PENDING_EVERY = 7  # about 15 % of the invoices
SLOW = 10  # seconds until a response is complete
LISTS = (1_000, 5_000, 20_000, 200_000)  # invoices
POLLS_A_DAY = 1_440  # one a minute
ORDERS = {"newest first": True, "oldest first": False}


# --- requests, with simulated time


class StillList:
    """An API in memory whose list does not change.

    :param ids: rising ids.
    :param pending: ids of the pending invoices. All others are paid.
    :ivar unseen: rows that no response had since ``forget()``.
    """

    page_size, max_concurrency = 100, 1

    def __init__(self, ids: Sequence[int], *, newest_first: bool, pending: Collection[int] = ()) -> None:
        self._ids = ids[::-1] if newest_first else ids
        self._pending = frozenset(pending)
        self.requests = 0
        self.forget()

    def forget(self) -> None:
        self._seen = bytearray(len(self._ids))
        self.unseen = len(self._ids)

    def get_page(self, page: int, page_size: int, cancellation: object = None) -> Page:
        self.requests += 1
        rows = slice((page - 1) * page_size, page * page_size)
        ids = self._ids[rows]
        self.unseen -= self._seen[rows].count(0)
        self._seen[rows] = bytes([1]) * len(ids)
        if page > 1 and not ids:
            return Page([], None, True)
        return Page([Invoice(self._row(one)) for one in ids], len(self._ids), False)

    def _row(self, one: int) -> dict[str, object]:
        status = "pending" if one in self._pending else "paid"
        return {"id": one, "amount": "49.00", "currency": "USD", "status": status}


class Polls:
    """Polls of a list by a new watch, one a minute. The first one is done."""

    def __init__(self, api: StillList, wanted: Wanted) -> None:
        self._api, self._wanted, self._now = api, wanted, 0.0
        self._watch = ListWatch(api, Allowance(clock=lambda: self._now))
        self.first = self.poll()

    def poll(self) -> int:
        """Poll once. Return the number of requests."""
        before = self._api.requests
        assert isinstance(self._watch.poll(self._wanted), Snapshot)
        self._now += 60
        return self._api.requests - before

    def hours_until_all_was_seen(self, most: float) -> float:
        """Poll until each row was in a response again, for at most ``most`` hours."""
        self._api.forget()
        began = self._now
        while self._api.unseen and self._now - began < most * 3_600:
            self.poll()
        return (self._now - began) / 3_600 if not self._api.unseen else float("inf")


def days(sizes: Iterable[int]) -> Iterator[Table]:
    """Requests of a day for each kind of wait, and the time until those that read in turn have seen the whole list."""
    sizes = list(sizes)
    heads = [f"{size:,}" for size in sizes]
    day = Table("Requests a day at one poll a minute, without the first poll", ("invoices", "at most", *heads))
    limits = [f"{size:,}, at most {_hours(size):g}" for size in sizes]
    turn = Table("Hours until the whole list was read again", ("invoices", *limits))
    for order, newest_first in ORDERS.items():
        for what, most, wait in WAITS:
            title = f"{what}, {order}"
            ended = {size: wait(list(range(1, size + 1)), newest_first) for size in sizes}
            counts = {size: sum(polls.poll() for _ in range(POLLS_A_DAY)) for size, polls in ended.items()}
            day.rows.append((title, f"{most:,}", *(f"{count:,}" for count in counts.values())))
            day.targets += [
                Target(f"requests a day, {title}, {size:,} invoices", most, count) for size, count in counts.items()
            ]
            if wait is for_existing:
                continue
            hours = {size: polls.hours_until_all_was_seen(10 * _hours(size)) for size, polls in ended.items()}
            # Two pages at every poll leave few requests of a day, so there is no target.
            free = wait is for_all_elsewhere
            turn.rows.append((title + free * " (no target)", *(f"{took:.1f}" for took in hours.values())))
            if not free:
                turn.targets += [
                    Target(f"hours until all was read, {title}, {size:,} invoices", _hours(size), took)
                    for size, took in hours.items()
                ]
    yield day
    yield turn


def for_existing(ids: list[int], newest_first: bool) -> Polls:
    return Polls(StillList(ids, newest_first=newest_first), Wanted({ids[len(ids) // 3]}))


def for_missing(ids: list[int], newest_first: bool) -> Polls:
    return Polls(StillList(ids, newest_first=newest_first), Wanted({ids[-1] + 50}))


def for_all(ids: list[int], newest_first: bool) -> Polls:
    return Polls(StillList(ids, newest_first=newest_first, pending=ids[-10:]), Wanted(everything=True))


def for_all_elsewhere(ids: list[int], newest_first: bool) -> Polls:
    middle = len(ids) // 200 * 100 + 20
    pending = ids[middle : middle + 10]
    return Polls(StillList(ids, newest_first=newest_first, pending=pending), Wanted(everything=True))


#: What is waited for, the most requests of a day, and the polls.
WAITS: tuple[tuple[str, int, Callable[[list[int], bool], Polls]], ...] = (
    ("one wait for an invoice that exists", 2 * POLLS_A_DAY, for_existing),
    ("one wait for an invoice that is missing", 3_333, for_missing),
    ("an event trigger, only the ten newest invoices open", 3_333, for_all),
    ("an event trigger, only ten others open, on one page", 3_333, for_all_elsewhere),
)


def _hours(size: int) -> float:
    """Most hours until a list of this size was read again."""
    return 4 * max(1, size / 20_000)


def many_waits(sizes: Iterable[int], polls: int) -> Table:
    """A thousand waits on twenty pages: no poll reads more, however many there were before."""
    table = Table("Requests of a poll of 1,000 waits on 20 pages", ("invoices", "at most", "mean", "measured at most"))
    chosen = random.Random(1)
    for order, newest_first in ORDERS.items():
        for size in (size for size in sizes if size >= 5_000):
            ids = list(range(1, size + 1))
            low = chosen.randrange(size // 100 - 20) * 100
            api = StillList(ids, newest_first=newest_first)
            waits = Polls(api, Wanted(frozenset(chosen.sample(ids[low : low + 2_000], 1_000))))
            counts = [waits.poll() for _ in range(polls)]
            row = f"{size:,}, {order}", "23", f"{statistics.fmean(counts):.1f}", f"{max(counts)}"
            table.rows.append(row)
            table.targets.append(Target(f"requests of a poll, 1,000 waits, {row[0]}", 23, max(counts)))
    return table


#: Ids by the kind of their gaps, and most requests of a search.
IDS: dict[str, tuple[int, Callable[[random.Random, int], list[int]]]] = {
    "without gaps": (7, lambda _, size: list(range(1, size + 1))),
    "gaps of 1 to 9": (7, lambda chance, size: list(accumulate(chance.randint(1, 9) for _ in range(size)))),
    "gaps of 1 to 1,000,000": (17, lambda chance, size: list(accumulate(_wild(chance) for _ in range(size)))),
    "two ranges, far apart": (
        17,
        lambda _, size: [*range(1, 1_001), *range(10**12, 10**12 + size - 1_000)],
    ),
}


def _wild(chance: random.Random) -> int:
    return int(10 ** (6 * chance.random()))


def searches(size: int, samples: int) -> Table:
    """First searches, for invoices that exist and for some that do not."""
    table = Table(
        f"Requests of a first poll for one of {size:,} invoices, mean and at most ({samples} random ones)",
        ("ids", "at most", "it exists", "it is missing"),
    )
    chosen = random.Random(1)
    for kind, (most, make) in IDS.items():
        ids = make(random.Random(2), size)
        existing = set(ids)
        for order, newest_first in ORDERS.items():
            found: list[int] = []
            missing: list[int] = []
            for one in chosen.sample(ids, samples):
                for wanted in (one, ids[-1] + 1, ids[0] - 1, one + 1):
                    counts = found if wanted in existing else missing
                    counts.append(Polls(StillList(ids, newest_first=newest_first), Wanted({wanted})).first)
            figures = [f"{statistics.fmean(counts):.1f}, {max(counts)}" for counts in (found, missing)]
            table.rows.append((f"{kind}, {order}", f"{most}", *figures))
            table.targets += [
                Target(f"requests to find an invoice, ids {kind}, {order}", most, max(found)),
                Target(f'requests for "not yet", ids {kind}, {order}', most, max(missing)),
            ]
    return table


def proof(size: int) -> Table:
    """The requests of a proof that an invoice does not exist, beside those of a complete read."""
    table = Table(f'Requests for "does not exist", {size:,} invoices', ("order", "complete read", "proof"))
    for order, newest_first in ORDERS.items():
        read, proved = (StillList(range(1, size + 1), newest_first=newest_first) for _ in range(2))
        with read_list(read) as reading:
            assert sum(1 for _ in reading) == size
        assert ListWatch(proved).locate(size // 2 * 1_000) is None
        table.rows.append((order, f"{read.requests:,}", f"{proved.requests:,}"))
        table.targets.append(Target(f'requests for "does not exist", {order}', read.requests + 7, proved.requests))
    return table


def memory(size: int) -> Table:
    """Memory of a watch that knows all invoices."""
    table = Table(
        f"Memory for {size:,} invoices, MiB", ("order", "at most", "after the first poll", "peak of 20 polls")
    )
    for order, newest_first in ORDERS.items():
        # A range makes new integers for each response, as a parser of JSON does.
        api = StillList(range(10**9, 10**9 + size), newest_first=newest_first)
        gc.collect()
        tracemalloc.start()
        polls = Polls(api, Wanted(everything=True))
        gc.collect()
        held = tracemalloc.get_traced_memory()[0] / MIB
        for _ in range(20):
            polls.poll()
        peak = tracemalloc.get_traced_memory()[1] / MIB
        tracemalloc.stop()
        table.rows.append((order, "60", f"{held:.0f}", f"{peak:.0f}"))
        table.targets.append(Target(f"MiB for {size:,} invoices, {order}", 60, peak))
    return table


def simulated(sizes: Sequence[int], samples: int) -> Iterator[Table]:
    """All tables that need no Airflow."""
    yield from days(sizes)
    yield many_waits(sizes, polls=60)
    yield searches(max(sizes), samples)
    yield proof(max(sizes))
    yield memory(max(sizes))


# --- many waits in a triggerer


@contextmanager
def api(invoices: int) -> Iterator[tuple[Server, list[int]]]:
    """A sandbox as the default connection, and the ids of its pending invoices."""
    with Server(invoices=invoices) as server:
        pending = server.call(sandbox.ids)[::PENDING_EVERY]
        server.call(sandbox.keep_pending, pending)
        os.environ["AIRFLOW_CONN_UNPOD_DEFAULT"] = server.call(sandbox.connection)
        yield server, pending


def resident() -> float:
    """This process's resident memory in MiB."""
    with open("/proc/self/statm") as statm:  # noqa: PTH123 - a pseudo file
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Blocks:
    """The longest time that the event loop was blocked since the last ``take()``, in seconds."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.task = asyncio.ensure_future(self._watch())

    async def _watch(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.01)
            self.longest = max(self.longest, time.perf_counter() - before - 0.01)

    def take(self) -> float:
        longest, self.longest = self.longest, 0.0
        return longest


async def measure(server: Server, pending: list[int], waits: int, interval: float, intervals: int) -> None:
    import structlog
    from airflow.jobs.triggerer_job_runner import TriggerRunner

    from airflow_provider_unpod.triggers.invoice import UnpodInvoiceTrigger

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    runner = TriggerRunner()  # type: ignore[no-untyped-call]  # Airflow's own has no types
    blocks = Blocks()
    await asyncio.sleep(1.5)
    gc.collect()
    before = resident()
    for number in range(waits):
        trigger = UnpodInvoiceTrigger(invoice_id=pending[number % len(pending)], poke_interval=interval)
        runner.triggers[number] = {
            "task": asyncio.ensure_future(runner.run_trigger(number, trigger)),
            "is_watcher": False,
            "name": str(number),
            "events": 0,
        }
        await asyncio.sleep(0)
    await asyncio.sleep(2 * interval)
    blocks.take()
    requests, cpu, longest = [], [], []
    for _ in range(intervals):
        asked, spent = server.call(sandbox.requests), time.process_time()
        await asyncio.sleep(interval)
        requests.append(server.call(sandbox.requests) - asked)
        cpu.append(time.process_time() - spent)
        longest.append(blocks.take())
    held = resident() - before
    server.call(sandbox.pay, pending)
    paid = time.time()
    fired: list[float] = []
    while len(fired) < waits and time.time() - paid < 5 * interval + 60:
        await asyncio.sleep(0.05)
        fired.extend([time.time() - paid] * len(runner.events))
        runner.events.clear()
    print(
        f"| {waits:,} | {statistics.median(requests):.0f} (at most {max(requests)}) | {statistics.median(cpu):.2f} s "
        f"| {held:.0f} MiB | {max(longest) * 1000:.0f} ms | {max(fired, default=float('nan')):.1f} s, "
        f"{len(fired):,} of them | {blocks.take() * 1000:.0f} ms |",
        flush=True,
    )
    for details in runner.triggers.values():
        details["task"].cancel()
    await asyncio.gather(*(details["task"] for details in runner.triggers.values()), return_exceptions=True)
    blocks.task.cancel()


async def stall(server: Server, pending: list[int]) -> None:
    from airflow_provider_unpod.triggers.invoice import UnpodInvoiceTrigger

    server.call(sandbox.faults, f"drip:seconds={SLOW}")
    events = UnpodInvoiceTrigger(invoice_id=pending[0], poke_interval=0.1).run()
    waiting = asyncio.ensure_future(anext(aiter(events)))
    blocks = Blocks()
    await asyncio.sleep(1)  # imports and the connection are done, the first response is on its way
    first = blocks.take()
    await asyncio.sleep(2 * SLOW)
    then = blocks.take()
    print(f"\nResponses that take {SLOW} s: longest block {first * 1000:.0f} ms at first, {then * 1000:.0f} ms then")
    waiting.cancel()
    await asyncio.wait([waiting, blocks.task], timeout=0)
    blocks.task.cancel()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.waiting", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small lists and few waits: a smoke test")
    parser.add_argument("--waits", type=int, nargs="*", help="in a triggerer. Default: 1, 100, 1,000 and 10,000")
    parser.add_argument("--invoices", type=int, default=2_000, help="that they wait for")
    parser.add_argument("--interval", type=float, default=5.0, help="seconds")
    parser.add_argument("--intervals", type=int, default=4, help="how many are measured")
    arguments = parser.parse_args()
    logging.getLogger("airflow_provider_unpod").setLevel(logging.ERROR)  # a thousand waits exceed the allowance
    checked: list[Target] = []
    for table in simulated(LISTS[:2], 20) if arguments.quick else simulated(LISTS, 150):
        print(f"{table}\n", flush=True)
        checked += table.targets
    waits = arguments.waits
    if waits is None:
        waits = [1, 100] if arguments.quick else [1, 100, 1_000, 10_000]
    if waits:
        in_triggerer(waits, arguments.invoices, arguments.interval, arguments.intervals)
    return verdict(checked)


def in_triggerer(waits: Iterable[int], invoices: int, interval: float, intervals: int) -> None:
    print(f"{invoices:,} invoices, one poll every {interval:g} s\n")
    print("| waits | requests per interval | CPU per interval | memory | block | until reported | block then |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for number in waits:
        with api(invoices) as (server, pending):
            asyncio.run(measure(server, pending, number, interval, intervals))
    with api(invoices) as (server, pending):
        asyncio.run(stall(server, pending))


if __name__ == "__main__":
    sys.exit(main())
