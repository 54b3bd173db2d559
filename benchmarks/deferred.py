"""Waiting on a real scheduler and triggerer: ``python -m benchmarks.deferred``. Needs Airflow 3.3.

Two hundred deferred sensors whose invoices are all paid within a minute; then two hundred payments that a watcher
reports while its triggerer is killed ten times.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from airflow_provider_unpod.sandbox import Sandbox
from tools.local_airflow import COMPONENTS, FINISHED, LocalAirflow
from tools.servers import end_group

INVOICES = 2_000
INTERVAL = 5.0  # seconds; of the sensors in the DAG
PAYING = 50.0  # seconds, from the first payment to the last
DAGS = Path(__file__).resolve().parent / "dags"


def pending(sandbox: Sandbox, number: int) -> list[int]:
    """``number`` pending invoices, spread over the whole list; all others are settled."""
    ids = sandbox.ledger.ids()
    chosen = ids[:: len(ids) // number][:number]
    for one in ids:
        sandbox.ledger.set_status(one, "pending" if one in chosen else "paid")
    return chosen


def rows(airflow: LocalAirflow, query: str, *values: str) -> list[tuple[Any, ...]]:
    """Query Airflow's database, because its API returns at most a hundred rows."""
    with closing(sqlite3.connect(f"file:{airflow.home / 'airflow.db'}?mode=ro", uri=True, timeout=60)) as database:
        return database.execute(query, values).fetchall()


# --- the sensors


def states(airflow: LocalAirflow, run_id: str) -> Counter[str]:
    found = rows(airflow, "select state from task_instance where run_id = ? and task_id = 'wait'", run_id)
    return Counter(state for (state,) in found)


def deferred(airflow: LocalAirflow, invoices: list[int]) -> str:
    """Start a run with a deferred wait for each invoice, and return its id."""
    run_id = airflow.trigger("wait_deferred", conf={"invoices": invoices})
    airflow.wait_for(lambda: states(airflow, run_id)["deferred"] == len(invoices), "all to be deferred", 900, 1)
    return run_id


def requests_per_interval(sandbox: Sandbox, intervals: int) -> list[int]:
    counts = []
    for _ in range(intervals):
        before = sandbox.stats["requests"]
        time.sleep(INTERVAL)
        counts.append(sandbox.stats["requests"] - before)
    return counts


def pay_all(sandbox: Sandbox, invoices: list[int]) -> list[float]:
    """Pay the invoices, and return the time of each payment."""
    paid: list[float] = []
    for one in invoices:
        if paid:
            time.sleep(PAYING / len(invoices))
        sandbox.pay(one)
        paid.append(time.time())
    return paid


def moment(stored: str) -> float:
    return datetime.fromisoformat(stored).replace(tzinfo=timezone.utc).timestamp()


def wait(airflow: LocalAirflow, sandbox: Sandbox, invoices: list[int], intervals: int) -> None:
    """Print the table row for this number of waits."""
    began = time.monotonic()
    run_id = deferred(airflow, invoices)
    took = time.monotonic() - began
    counts = requests_per_interval(sandbox, intervals)
    paid = pay_all(sandbox, invoices)
    airflow.wait_for(
        lambda: sum(states(airflow, run_id)[state] for state in FINISHED) == len(invoices), "the waits to end", 900, 1
    )
    # Airflow schedules a deferred task at the moment when it stores the trigger's event.
    ended = rows(
        airflow,
        "select map_index, scheduled_dttm, end_date from task_instance where run_id = ? and task_id = 'wait'",
        run_id,
    )
    event = [moment(scheduled) - paid[index] for index, scheduled, _ in ended]
    success = [moment(end) - paid[index] for index, _, end in ended]
    print(
        f"| {len(invoices)} | {statistics.median(counts):g} (at most {max(counts)}) "
        f"| {states(airflow, run_id)['success']} | {statistics.median(event):.1f} s (at most {max(event):.1f} s) "
        f"| {statistics.median(success):.1f} s (at most {max(success):.1f} s) | {took:.0f} s |",
        flush=True,
    )


# --- the watcher


EVENTS = "select event.id, event.extra from asset_event event order by event.id"
#: The events that have started runs of the downstream DAG.
STARTED = EVENTS.replace("order", "where event.id in (select event_id from dagrun_asset_event) order")


def reported(airflow: LocalAirflow, query: str = EVENTS) -> list[dict[str, Any]]:
    """Return the changes in all events, including repetitions."""
    return [one for _, extra in rows(airflow, query) for one in json.loads(extra)["payload"]["transitions"]]


def kill(airflow: LocalAirflow) -> None:
    """Kill the triggerer without a cleanup, like a power failure."""
    end_group(airflow._components["triggerer"])


def watch(airflow: LocalAirflow, sandbox: Sandbox, invoices: list[int], kills: int) -> None:
    """Pay the invoices and kill the triggerer in between; print what was reported."""
    chance = random.Random(5)
    probe = sandbox.create().id
    airflow.wait_for(lambda: _reports(airflow, sandbox, probe), "the watcher to run", interval=3)
    for number in range(kills):
        share = invoices[number::kills]
        dead_from = chance.randrange(1, len(share))
        for one in share[:dead_from]:
            sandbox.pay(one)
            time.sleep(chance.uniform(0, 0.6))  # so that a kill can fall anywhere between a poll and storing it
        kill(airflow)
        for one in share[dead_from:]:
            sandbox.pay(one)
        airflow._components["triggerer"] = airflow._start("triggerer", COMPONENTS["triggerer"])
        airflow.wait_for(
            lambda last=share[-1]: any(one["invoice_id"] == last for one in reported(airflow)),
            "it to report again",
            180,
        )
    time.sleep(10)  # for late repetitions
    stored, started = ({one["invoice_id"] for one in reported(airflow, query)} for query in (EVENTS, STARTED))
    # Airflow starts one run for a burst of events; the rest of the burst waits for the next event.
    sandbox.ledger.set_status(probe, "pending")
    seen = len(reported(airflow))
    airflow.wait_for(lambda: _reports(airflow, sandbox, probe, seen), "one more run", interval=3)
    keys: dict[int, list[str]] = {}
    for change in reported(airflow, STARTED):
        keys.setdefault(change["invoice_id"], []).append(change["key"])
    missing = [one for one in invoices if one not in keys]
    other_key = [one for one in invoices if len(set(keys.get(one, []))) > 1]
    repeated = sum(len(keys.get(one, [])) - 1 for one in invoices if one in keys)
    print(
        "| transitions | kills | missing | under another key | repeated under the same key | left for the next event |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    print(
        f"| {len(invoices)} | {kills} | {len(missing)} | {len(other_key)} | {repeated} | {len(stored - started)} |",
        flush=True,
    )


def _reports(airflow: LocalAirflow, sandbox: Sandbox, probe: int, after: int = 0) -> bool:
    """Change the probe invoice. Return whether the watcher has reported it and a run has started."""
    sandbox.ledger.set_status(probe, "pending" if sandbox.ledger.get(probe).status == "paid" else "paid")
    return any(one["invoice_id"] == probe for one in reported(airflow, STARTED)[after:])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deferred", description=__doc__)
    parser.add_argument("--sensors", type=int, default=200, help="0: none")
    parser.add_argument("--transitions", type=int, default=200, help="0: none")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--intervals", type=int, default=6, help="of which the requests are counted")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that Airflow is stopped
    with (
        tempfile.TemporaryDirectory() as home,
        Sandbox(invoices=INVOICES) as waited,
        Sandbox(invoices=INVOICES) as watched,
    ):
        waits = pending(waited, arguments.sensors + 1) if arguments.sensors else []
        changes = pending(watched, arguments.transitions) if arguments.transitions else []
        with LocalAirflow(
            Path(home),
            DAGS,
            AIRFLOW_CONN_UNPOD_WAITED=waited.connection_json(),
            AIRFLOW_CONN_UNPOD_WATCHED=watched.connection_json(),
            # By default a killed triggerer counts as alive for 30 s, and its triggers are not taken over until then.
            AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD="6",
            AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC="1",
        ) as airflow:
            airflow.wait_for(lambda: {"wait_deferred", "on_paid"} <= airflow.dags(), "the DAGs")
            if changes:
                watch(airflow, watched, changes, arguments.kills)
            if waits:
                print(
                    "\n| waits | requests per interval | succeeded | paid to event | paid to success | until deferred |"
                )
                print("| ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
                wait(airflow, waited, waits[:1], arguments.intervals)
                wait(airflow, waited, waits[1:], arguments.intervals)
    return 0


if __name__ == "__main__":
    sys.exit(main())
