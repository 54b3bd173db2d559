"""Compares the results of all uses with the ledgers of the APIs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow_provider_unpod.export import ExportError, read_export
from airflow_provider_unpod.sandbox import Sandbox
from benchmarks.faults.deployment import SENSORS, USES, World
from tools.distributed import BUCKET, STORE_CONNECTION


def truth(api: Sandbox) -> list[list[Any]]:
    """Id and status of all invoices."""
    return sorted([invoice.id, invoice.status] for invoice in api.ledger.invoices())


def wrong(world: World, output: str, waited_for: Mapping[str, int]) -> dict[str, str]:
    """Return the errors in the results, by use. Correct uses are omitted."""
    airflow = world.deployment.airflow
    found = {}
    for use in ("hook", *SENSORS):
        result = airflow.result(USES[use], world.runs[USES[use]], use)
        if use == "hook":
            problem = "" if result == truth(world.apis[use]) else "rows lost, doubled or changed"
        else:
            right = (result["id"], result["status"]) == (waited_for[use], "paid")
            problem = "" if right else f"ended with {result['id']} {result['status']}"
        found[use] = problem
    found["operator"] = wrong_export(world, output)
    deliveries = Counter(delivered(world, waited_for["event"]))
    found["event"] = "" if len(deliveries) == 1 else f"delivered under {len(deliveries)} keys"
    return {use: problem for use, problem in found.items() if problem}


def wrong_export(world: World, output: str) -> str:
    """Return the errors in an export. Empty if it is complete, correct and the only one in its folder."""
    os.environ[f"AIRFLOW_CONN_{STORE_CONNECTION.upper()}"] = world.deployment.store.connection
    try:
        export = read_export(output)
        rows = sorted([record["id"], record["status"]] for record in export)
    except ExportError as error:
        return str(error)
    if rows != truth(world.apis["operator"]):
        return "rows lost, doubled or changed"
    listed = {"_manifest.json", *(each["path"] for each in export.manifest["files"])}
    litter = files_of(world, output) - listed
    return f"litter: {sorted(litter)}" if litter else ""


def files_of(world: World, output: str) -> set[str]:
    """All files in the folder of an export, relative to it."""
    below = output.partition(f"@{BUCKET}/")[2]
    folder = world.deployment.store.bucket / below if below else Path(output.removeprefix("file://"))
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def delivered(world: World, invoice: int) -> list[str]:
    """The key of each delivery of a payment to the DAG that the event trigger starts."""
    airflow = world.deployment.airflow
    runs = [run["dag_run_id"] for run in airflow.runs("book") if run["state"] == "success"]
    changes = [change for run in runs for change in airflow.result("book", run, "booked")]
    return [key for key, number in changes if number == invoice]
