"""Uses every component once: hook, operator with XCom and files, sensor in each mode, event trigger."""

from __future__ import annotations

import os
from typing import Any

from airflow.providers.common.compat.sdk import Asset, dag, task

from airflow_provider_unpod.export import read_export
from airflow_provider_unpod.hooks.unpod import UnpodHook
from airflow_provider_unpod.operators.billing import UnpodBillingOperator
from airflow_provider_unpod.sensors.invoice import UnpodInvoiceSensor
from airflow_provider_unpod.triggers.invoice import UnpodInvoiceEventTrigger

FOLDER = os.environ["UNPOD_SMOKE"]
MODES = {
    "poke": {"mode": "poke", "deferrable": False},
    "reschedule": {"mode": "reschedule", "deferrable": False},
    "deferred": {"deferrable": True},
}


@dag(schedule=None)
def unpod_smoke() -> None:
    @task
    def hook() -> int:
        return sum(1 for _ in UnpodHook().iter_invoices())

    to_xcom = UnpodBillingOperator(task_id="to_xcom")
    to_files = UnpodBillingOperator(task_id="to_files", output_path=f"{FOLDER}/export", outlets=[Asset("smoke")])

    @task
    def read_back() -> int:
        return len(list(read_export(f"{FOLDER}/export")))

    waits: list[Any] = [
        UnpodInvoiceSensor(
            task_id=mode,
            invoice_id=f"{{{{ dag_run.conf['{mode}'] }}}}",
            poke_interval=1,
            timeout=120,
            **options,  # type: ignore[arg-type]  # each is what its name says
        )
        for mode, options in MODES.items()
    ]

    @task
    def event_trigger() -> str:
        path, _ = UnpodInvoiceEventTrigger().serialize()
        return path

    previous: Any = None
    for step in (hook(), to_xcom, to_files, read_back(), *waits, event_trigger()):
        if previous is not None:
            previous >> step
        previous = step


unpod_smoke()
