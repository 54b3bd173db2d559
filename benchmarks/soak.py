"""A soak test of half an hour: ``python -m benchmarks.soak``. Needs Airflow 3.3 and Linux.

A process exports every few seconds from an API that fails now and then, and leaves readings early. A triggerer always
has a hundred waits; twenty of them are paid at a time, and twenty others take their place. Memory, threads, descriptors
and connections are measured when nothing is under way. The results are written to ``docs/reliability.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import json
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import time
import urllib.request
from collections import Counter, deque
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from statistics import median

from airflow_provider_unpod.sandbox import Sandbox
from benchmarks.documents import RELIABILITY, machine, replace_section
from benchmarks.tables import Table
from tools.local_airflow import LocalAirflow, descendants

DAGS = Path(__file__).resolve().parent / "dags"
#: Runs of waits that are deferred at the same time, and the waits of each.
RUNS, WAITS = 5, 20
EXPORT_EVERY = 5.0  # seconds
#: The least share of the exports that there is time for; faults delay some. With fewer, the process died or hung.
EXPORTED_SHARE = 0.5
#: The exporting process meets them in turn; ``""``: none.
FAULTS = ("", "500:times=3", "reset:times=2", "truncated:times=2", "429:times=1,retry_after=1", "206:times=1", "")
#: What the polls of the triggerer meet, again and again.
LASTING_FAULTS = ("500:every=11", "reset:every=17")
#: Growth that is not a leak: between two quarters of the time, allocators and caches settle within it.
MEMORY_RATIO, COUNT_MORE = 1.08, 3


@dataclass(frozen=True)
class Footprint:
    """Resources of a process at one time. ``memory`` is in MiB."""

    memory: float
    threads: float
    descriptors: float
    connections: float


def footprint(pid: int) -> Footprint:
    """Measure a process, from Linux's ``/proc``."""
    process = Path("/proc", str(pid))
    status = dict(re.findall(r"^(VmRSS|Threads):\s*(\d+)", (process / "status").read_text(), re.M))
    descriptors = []
    for descriptor in (process / "fd").iterdir():
        with contextlib.suppress(OSError):
            descriptors.append(str(descriptor.readlink()))
    tables = (process / "net").glob("tcp*")  # tcp, and tcp6 where the machine has IPv6
    listed = [line for table in tables for line in table.read_text().splitlines()[1:]]
    connections = {f"socket:[{line.split()[9]}]" for line in listed}
    return Footprint(
        int(status["VmRSS"]) / 1024, int(status["Threads"]), len(descriptors), len(connections & {*descriptors})
    )


@dataclass
class Soaked:
    """A process, its resources over time, and the work that it has done."""

    name: str
    footprints: list[Footprint]
    work: str
    unexpected: list[str]

    def quarter(self, number: int) -> Footprint:
        """The median footprint of a quarter of the time; the first one (0) warms up."""
        size = max(1, len(self.footprints) // 4)
        return Footprint(*map(median, zip(*map(astuple, self.footprints[number * size :][:size]), strict=True)))

    @property
    def grew(self) -> list[str]:
        """Return the resources that have grown from the second to the last quarter."""
        start, end = asdict(self.quarter(1)), asdict(self.quarter(3))
        bounds = {name: start[name] + COUNT_MORE for name in start} | {"memory": start["memory"] * MEMORY_RATIO}
        return [name for name in start if end[name] > bounds[name]]

    def row(self) -> tuple[str, ...]:
        pairs = zip(astuple(self.quarter(1)), astuple(self.quarter(3)), strict=True)
        return self.name, *(f"{start:.0f} → {end:.0f}" for start, end in pairs), self.work


# --- the process that exports


def exporting(connection: str, control: str, folder: str, until: float) -> None:
    """Export and leave readings early, until a moment (Unix seconds); a line of ``rounds`` for each time."""
    os.environ["AIRFLOW_CONN_UNPOD_DEFAULT"] = connection
    os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "CRITICAL"
    from airflow_provider_unpod.hooks.unpod import UnpodHook
    from airflow_provider_unpod.operators.billing import UnpodBillingOperator

    with Path(folder, "rounds").open("a", buffering=1) as rounds:
        for fault in itertools.cycle(FAULTS):
            if time.time() > until:
                return
            body = json.dumps({"faults": [fault] if fault else []}).encode()
            urllib.request.urlopen(urllib.request.Request(f"{control}/sandbox/faults", body, method="PUT")).close()
            began, error = time.monotonic(), ""
            try:
                UnpodBillingOperator(task_id="export", output_path=f"file://{folder}/export").execute({})
                with UnpodHook().iter_invoices() as invoices:
                    next(invoices)
                next(UnpodHook().iter_invoices())  # not closed, as people do
            except Exception as raised:
                error = type(raised.__cause__ or raised).__name__
            gc.collect()
            line = {"fault": fault, "error": error, "footprint": asdict(footprint(os.getpid()))}
            print(json.dumps(line), file=rounds)
            time.sleep(max(0.0, began + EXPORT_EVERY - time.monotonic()))


def exported(folder: Path, exit_status: int | None, seconds: float) -> Soaked:
    """The result of the process, from its lines and its end.

    :param exit_status: ``None`` if it did not end.
    :param seconds: the time that it had.
    """
    rounds = [json.loads(line) for line in (folder / "rounds").read_text().splitlines()]
    errors = Counter(each["error"] for each in rounds if each["error"])
    unexpected = [str(each) for each in rounds if bool(each["error"]) != each["fault"].startswith("206")]
    if exit_status != 0:
        unexpected.append(f"ended with status {exit_status}")
    if len(rounds) < (least := EXPORTED_SHARE * seconds / EXPORT_EVERY):
        unexpected.append(f"{len(rounds)} exports in {seconds:.0f} s, at least {least:.0f} expected")
    work = f"{len(rounds) - errors.total()} exports, {errors.total()} refused (HTTP 206)"
    return Soaked("a process that exports", [Footprint(**each["footprint"]) for each in rounds], work, unexpected)


# --- the triggerer


class Turnover:
    """Always a hundred waits: the oldest run of twenty is paid, and another one takes its place."""

    def __init__(self, airflow: LocalAirflow, sandbox: Sandbox) -> None:
        self._airflow, self._sandbox = airflow, sandbox
        self._runs: deque[tuple[str, list[int]]] = deque()
        self.ended = 0
        self.footprints: dict[int, list[Footprint]] = {}

    def begin(self) -> None:
        invoices = [self._sandbox.create().id for _ in range(WAITS)]
        self._runs.append((self._airflow.trigger("wait_deferred", conf={"invoices": invoices}), invoices))

    def turn(self) -> None:
        """Measure when all wait; pay the oldest run, and begin another one when it has ended.

        :raises RuntimeError: if a wait fails, or does not begin or end.
        """
        while len(self._runs) < RUNS:
            self.begin()
        self._airflow.wait_for(self._all_deferred, "all to be deferred", 600, 1)
        triggerer = self._airflow.pid_of("triggerer")
        for pid in (triggerer, *descendants(triggerer)):
            self.footprints.setdefault(pid, []).append(footprint(pid))
        run, invoices = self._runs.popleft()
        for invoice in invoices:
            self._sandbox.pay(invoice)
        self._airflow.finished("wait_deferred", run, 600)
        self.ended += WAITS

    def _all_deferred(self) -> bool:
        return all(
            sum(task["state"] == "deferred" for task in self._airflow.tasks("wait_deferred", run)) == WAITS
            for run, _ in self._runs
        )

    def soaked(self) -> list[Soaked]:
        work = f"{self.ended} waits ended, {RUNS * WAITS} at a time"
        names = ("the triggerer's supervisor", "the triggerer's event loop")
        return [Soaked(name, each, work, []) for name, each in zip(names, self.footprints.values(), strict=True)]


def soak(minutes: float) -> list[Soaked]:
    """Run both in parallel."""
    until = time.time() + minutes * 60
    with (
        Sandbox(seed=1, latency=10) as failing,
        Sandbox(seed=2) as sandbox,
        tempfile.TemporaryDirectory(prefix="unpod-soak-") as folder,
        LocalAirflow(
            Path(folder, "airflow"),
            DAGS,
            AIRFLOW_CONN_UNPOD_WAITED=sandbox.connection_json(),
            AIRFLOW_CONN_UNPOD_WATCHED=sandbox.connection_json(),
        ) as airflow,
    ):
        arguments = (failing.connection_json(), failing.url, folder, until)
        process = multiprocessing.get_context("spawn").Process(target=exporting, args=arguments)
        process.start()
        seconds = until - time.time()
        try:
            airflow.wait_for(lambda: {"wait_deferred", "on_paid"} <= airflow.dags(), "the DAGs")
            sandbox.faults(*LASTING_FAULTS)
            turnover = Turnover(airflow, sandbox)
            while time.time() < until:
                turnover.turn()
            process.join(120)
            exit_status = process.exitcode
        finally:
            process.kill()
        return [exported(Path(folder), exit_status, seconds), *turnover.soaked()]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=str(__doc__).splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0, help="by default 30; at least 5 tell something")
    minutes = parser.parse_args().minutes
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that Airflow is stopped
    results = soak(minutes)
    table = Table(f"{minutes:g} minutes", ("", "memory, MiB", "threads", "descriptors", "connections", "work"))
    table.rows = [each.row() for each in results]
    print(f"{table}\n")
    replace_section(RELIABILITY, "benchmarks.soak", f"{machine()}.\n\n{table}")
    faults = [f"{each.name}: {name} grew" for each in results for name in each.grew]
    faults += [f"{each.name}: {line}" for each in results for line in each.unexpected]
    print("\n".join(faults) or "Nothing grew.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
