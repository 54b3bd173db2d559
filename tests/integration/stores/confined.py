"""Exports and waits by a worker that may write nothing but 2 MiB of temporary space. Run as a script; prints JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from airflow_provider_unpod.export import read_export
from airflow_provider_unpod.hooks.unpod import UnpodHook
from airflow_provider_unpod.operators.billing import UnpodBillingOperator
from airflow_provider_unpod.sensors.invoice import UnpodInvoiceSensor
from airflow_provider_unpod.triggers.invoice import UnpodInvoiceTrigger


async def event_of(trigger: UnpodInvoiceTrigger) -> object:
    async for event in trigger.run():
        return event.payload
    return None


def tried(**options: object) -> str:
    """Return the error of an export. Empty if there is none."""
    try:
        UnpodBillingOperator(task_id="export", **options).execute({})  # type: ignore[arg-type]  # by the test
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def waited_for(invoice_id: int) -> list[object]:
    """Return the status of a paid invoice as a poke and as a trigger find it."""
    poke = UnpodInvoiceSensor(task_id="wait", invoice_id=invoice_id, deferrable=False).execute({})
    event: Any = asyncio.run(event_of(UnpodInvoiceTrigger(invoice_id=invoice_id)))
    return [poke["status"], event["result"]["status"]]


def main() -> None:
    store, read_only = sys.argv[1:]
    found: dict[str, object] = {"user": os.getuid()}
    found["capabilities"] = next(
        line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff")
    )
    found["to XCom"] = tried(statuses="failed")
    found["to a store"] = tried(output_path=store)
    found["read back"] = 0 if found["to a store"] else sum(1 for _ in read_export(store))
    paid: Any = next(invoice.invoice_id for invoice in UnpodHook().iter_invoices() if invoice.status == "paid")
    found["waits"] = waited_for(paid)
    found["to a read-only folder"] = tried(output_path=f"file://{read_only}/export")
    found["too many"] = tried(output_path=f"{store}-many", unpod_conn_id="unpod_many")
    print(json.dumps(found))


main()
