"""The cost of waiting: ``python -m benchmarks.waiting``. Needs Airflow 3.3.

Runs up to ten thousand waits in one triggerer process, with Airflow's own ``TriggerRunner`` and no scheduler; the API
runs in another process. Measures requests, CPU time and memory of the triggerer's process, then how long one wait
blocks the event loop while the API sends a response in small pieces over ten seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import server as sandbox
from benchmarks.server import Server

PENDING_EVERY = 7  # about 15 % of the invoices
SLOW = 10  # seconds until a response is complete


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
    parser.add_argument("--waits", type=int, nargs="*", default=[1, 100, 1_000, 10_000])
    parser.add_argument("--invoices", type=int, default=2_000)
    parser.add_argument("--interval", type=float, default=5.0, help="seconds")
    parser.add_argument("--intervals", type=int, default=4, help="how many are measured")
    arguments = parser.parse_args()
    print(f"{arguments.invoices:,} invoices, one poll every {arguments.interval:g} s\n")
    print("| waits | requests per interval | CPU per interval | memory | block | until reported | block then |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for waits in arguments.waits:
        with api(arguments.invoices) as (server, pending):
            asyncio.run(measure(server, pending, waits, arguments.interval, arguments.intervals))
    with api(arguments.invoices) as (server, pending):
        asyncio.run(stall(server, pending))
    return 0


if __name__ == "__main__":
    sys.exit(main())
