"""All components that read invoices. Each has a separate API and connection, ``unpod_<use>``."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import Asset, AssetWatcher, dag, task

from airflow_provider_unpod.hooks.unpod import UnpodHook
from airflow_provider_unpod.operators.billing import UnpodBillingOperator
from airflow_provider_unpod.sensors.invoice import UnpodInvoiceSensor
from airflow_provider_unpod.transitions import transitions_of
from airflow_provider_unpod.triggers.invoice import UnpodInvoiceEventTrigger

RETRIES = {"retries": 3, "retry_delay": timedelta(seconds=5)}


@dag(schedule=None, default_args=RETRIES)
def read() -> None:
    @task
    def hook() -> list[Any]:
        return sorted([invoice.key, invoice.status] for invoice in UnpodHook("unpod_hook").iter_invoices())

    hook()
    UnpodBillingOperator(
        task_id="operator",
        unpod_conn_id="unpod_operator",
        output_path="{{ dag_run.conf['output'] }}",
        partition_by=["currency", "status", "month"],  # many files, so that a store can go down between two
    )


@dag(schedule=None, default_args=RETRIES)
def wait() -> None:
    modes: dict[str, dict[str, Any]] = {
        "poke": {"mode": "poke", "poke_interval": 2},
        "reschedule": {"mode": "reschedule", "poke_interval": 15},
        "deferrable": {"deferrable": True, "poke_interval": 2},
    }
    for mode, options in modes.items():
        UnpodInvoiceSensor(
            task_id=mode,
            unpod_conn_id=f"unpod_{mode}",
            invoice_id=f"{{{{ dag_run.conf['{mode}'] }}}}",
            timeout=1800,
            **{"deferrable": False, **options},
        )


PAID = UnpodInvoiceEventTrigger(unpod_conn_id="unpod_event", to_statuses="paid", poke_interval=2)


@dag(schedule=[Asset("paid", watchers=[AssetWatcher(name="paid", trigger=PAID)])], default_args=RETRIES)
def book() -> None:
    @task
    def booked(triggering_asset_events: Any = None) -> list[list[Any]]:
        return [[change["key"], change["invoice_id"]] for change in transitions_of(triggering_asset_events)]

    booked()


read()
wait()
book()
