"""``make demo``: the example DAGs on a real Airflow, against a sandbox of the Unpod API. Leaves nothing running.

The exported files stay in ``.demo/``; Airflow itself lives in a temporary folder.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import datetime, timedelta, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from airflow_provider_unpod.export import read_export
from airflow_provider_unpod.sandbox import Sandbox
from tools.local_airflow import NEEDS_DATABASE, REPOSITORY, LocalAirflow, example_airflow
from tools.servers import end_at_signals

OUTPUT = REPOSITORY / ".demo"
#: The invoice that the sensor waits for; pending in every new sandbox.
INVOICE = 101
STARTED_BY_US = ("unpod_invoices_to_xcom", "unpod_all_organizations", "unpod_wait_for_payment")
EXPECTED = (
    *STARTED_BY_US,
    "unpod_monthly_export",
    "unpod_month_close",
    "unpod_book_payment",
    "unpod_on_paid",
    "unpod_nightly_books",
)


def main() -> int:
    end_at_signals()
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:4.0f} s] {text}", flush=True)

    shutil.rmtree(OUTPUT, ignore_errors=True)
    home = Path(tempfile.mkdtemp(prefix="unpod-demo-"))
    os.environ["AIRFLOW_HOME"] = str(home)  # reading the export imports Airflow in this process, too
    print("The example DAGs on a real Airflow, with a sandbox in place of Unpod. This takes about two minutes.\n")
    try:
        with Sandbox() as sandbox:
            month = f"{datetime.now(timezone.utc).replace(day=1) - timedelta(days=1):%Y-%m}"  # last month
            say(f"The sandbox of the Unpod API is up: {sandbox.url}, {len(sandbox.ledger)} invoices.")
            say(f"Starting Airflow {version('apache-airflow')}: API server, DAG processor, triggerer, scheduler ...")
            with example_airflow(home, sandbox, OUTPUT) as airflow:
                say(f"Airflow is up: {airflow.url}")
                play(airflow, sandbox, say)
                runs = finished_runs(airflow)
                say("All DAG runs have ended. Stopping Airflow ...")
            report(sandbox, month, runs)
    except (KeyboardInterrupt, SystemExit) as ended:
        shutil.rmtree(home, ignore_errors=True)
        if isinstance(ended, SystemExit):
            raise
        print("\nInterrupted; everything is stopped.")
        return 130
    except RuntimeError as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    shutil.rmtree(home, ignore_errors=True)
    print(f"\nDone after {time.monotonic() - began:.0f} s; nothing is left running. To play with it: make airflow")
    return 0 if all(run["state"] == "success" for run in runs) else 1


def play(airflow: LocalAirflow, sandbox: Sandbox, say: Callable[[str], None]) -> None:
    """Start the DAGs that have no schedule, and pay the invoice once the sensor waits for it."""
    airflow.wait_for(lambda: set(EXPECTED) <= airflow.dags(), "the example DAGs to be parsed")
    say("The DAGs are parsed. unpod_monthly_export was started by its schedule; the demo starts three more.")
    airflow.unpause(NEEDS_DATABASE)
    run_ids = {dag_id: airflow.trigger(dag_id) for dag_id in STARTED_BY_US}

    def waits() -> bool:
        tasks = airflow.tasks("unpod_wait_for_payment", run_ids["unpod_wait_for_payment"])
        return any(task["state"] == "deferred" for task in tasks)

    airflow.wait_for(waits, "the sensor to be deferred")
    say(f"unpod_wait_for_payment waits for invoice {INVOICE} in the triggerer, without a worker. Paying it now.")
    pay_until_noticed(airflow, sandbox, say)
    for dag_id, run_id in run_ids.items():
        airflow.finished(dag_id, run_id)
    say("The export, the sums and the wait have succeeded. Waiting for the DAGs that they started ...")


def pay_until_noticed(airflow: LocalAirflow, sandbox: Sandbox, say: Callable[[str], None]) -> None:
    """Pay one invoice after the other until the watcher reports one: it reports only changes after its first poll."""
    pending = [invoice.id for invoice in sandbox.ledger.invoices() if invoice.status == "pending"]
    next_payment = time.monotonic()

    def noticed() -> bool:
        nonlocal next_payment
        if time.monotonic() >= next_payment:
            next_payment = time.monotonic() + 25
            sandbox.pay(pending.pop())  # the oldest first, which is the one that the sensor waits for
        return bool(airflow.runs("unpod_on_paid"))

    airflow.wait_for(noticed, "unpod_on_paid to start", 120)
    say("The asset watcher has reported the payment and started unpod_on_paid.")


def finished_runs(airflow: LocalAirflow) -> list[dict[str, Any]]:
    """All runs and what started them, once each expected DAG has a run and none is still running."""

    def ended() -> list[dict[str, Any]] | None:
        runs = airflow.runs()
        complete = {run["dag_id"] for run in runs} >= set(EXPECTED)
        return runs if complete and all(run["state"] in ("success", "failed") for run in runs) else None

    runs: list[dict[str, Any]] = airflow.wait_for(ended, "all DAGs to end", 120)
    return [{**run, "started_by": started_by(airflow, run)} for run in runs]


def started_by(airflow: LocalAirflow, run: dict[str, Any]) -> str:
    """The cause of a run, in words."""
    if run["run_type"] == "asset_triggered":
        events = airflow.asset_events(run["dag_id"], run["dag_run_id"])
        sources = {event["source_dag_id"] or "its watcher" for event in events}
        return f"asset {events[0]['name']}, by {', '.join(sorted(sources))}" if events else "an asset"
    if run["triggered_by"] == "operator":
        return "unpod_wait_for_payment"
    return {"scheduled": "its schedule", "manual": "this demo"}.get(run["run_type"], str(run["run_type"]))


def report(sandbox: Sandbox, month: str, runs: list[dict[str, Any]]) -> None:
    """Print the results in tables."""
    folder = OUTPUT / "exports" / "monthly" / month
    export = read_export(str(folder))
    truth = sum(f"{invoice.invoice_date:%Y-%m}" == month for invoice in sandbox.ledger.invoices())
    how = export.manifest["evidence"]["consistency"]
    print(f"\nInvoices of {sandbox.org_handle} in {month}: {export.count} exported, {truth} in the sandbox.")
    print(f"Certified by {(folder / '_manifest.json').relative_to(REPOSITORY)}, consistency {how!r}. Totals:\n")
    table(
        ("currency", "status", "invoices", "amount"),
        [
            (currency, status, total["count"], total["amount"])
            for currency, statuses in export.totals.items()
            for status, total in statuses.items()
        ],
        right=(2, 3),
    )
    print("\nFiles:\n")
    files = sorted(file for file in OUTPUT.rglob("*") if file.is_file() and not file.name.startswith("."))
    table(
        ("file", "bytes"),
        [(str(file.relative_to(REPOSITORY)), f"{file.stat().st_size:,}") for file in files],
        right=(1,),
    )
    print("\nDAG runs and what started them:\n")
    table(("DAG", "started by", "result"), [(run["dag_id"], run["started_by"], run["state"]) for run in runs])
    report_books()
    books = json.loads((OUTPUT / "books" / f"{month}.json").read_text())
    booked = ", ".join(f"{currency} {amount}" for currency, amount in books["revenue"].items())
    print(f"\nBooked by unpod_month_close for {month}: {booked}")


def report_books() -> None:
    """Print what was loaded into the database, and how the ledger differs."""
    with closing(sqlite3.connect(OUTPUT / "books.db")) as database:
        (rows,) = database.execute("SELECT count(*) FROM unpod_invoices").fetchone()
    compared = json.loads((OUTPUT / "exports" / "nightly-differences" / "reconciliation.json").read_text())
    print(f"\nLoaded by unpod_nightly_books into the table unpod_invoices: {rows} rows. Compared with the ledger:\n")
    table(
        ("invoice", "differs in", "export", "ledger"),
        [
            (one["id"], ", ".join(one["outcomes"]), *(_amounts(one[side]) for side in ("here", "there")))
            for one in compared["differences"]
        ],
        right=(2, 3),
    )


def _amounts(rows: list[dict[str, Any]]) -> str:
    return ", ".join(f"{row['amount']} {row['currency']}" for row in rows) or "nothing"


def table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]], right: tuple[int, ...] = ()) -> None:
    """Print rows in columns, each as wide as its widest cell; ``right`` columns are aligned to the right."""
    lines = [tuple(map(str, row)) for row in (head, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for number, line in enumerate(lines):
        cells = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        print(("  " + "  ".join(cells)).rstrip())
        if number == 0:
            print("  " + "  ".join("-" * width for width in widths))


if __name__ == "__main__":
    sys.exit(main())
