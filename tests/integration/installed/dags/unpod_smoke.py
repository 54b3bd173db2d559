"""Uses every component once. The second and the third DAG need a scheduler and a triggerer."""

from __future__ import annotations

import os
from typing import Any

from airflow.providers.common.compat.sdk import Asset, dag, task

from airflow_provider_unpod.export import read_export
from airflow_provider_unpod.hooks.unpod import UnpodHook
from airflow_provider_unpod.operators.billing import UnpodBillingOperator
from airflow_provider_unpod.operators.reconcile import UnpodReconcileOperator
from airflow_provider_unpod.sensors.invoice import UnpodInvoiceSensor
from airflow_provider_unpod.transfers.unpod_to_sql import UnpodToSqlOperator
from airflow_provider_unpod.transitions import transitions_of
from airflow_provider_unpod.triggers.invoice import UnpodInvoiceEventTrigger

try:
    from airflow.sdk import AssetWatcher
except ImportError:  # Airflow 2.11 has no asset watchers
    AssetWatcher = None  # type: ignore[assignment, misc]

EXPORT = f"{os.environ['UNPOD_SMOKE']}/export"
MODES: dict[str, dict[str, Any]] = {
    "poke": {"mode": "poke", "deferrable": False},
    "reschedule": {"mode": "reschedule", "deferrable": False},
    "deferred": {"deferrable": True},
}


def wait_for(task_id: str, **options: Any) -> UnpodInvoiceSensor:
    """Wait for the invoice that the run's configuration has under the id of the task."""
    invoice = f"{{{{ dag_run.conf['{task_id}'] }}}}"
    return UnpodInvoiceSensor(task_id=task_id, invoice_id=invoice, poke_interval=1, timeout=300, **options)


@dag(schedule=None)
def unpod_smoke() -> None:
    @task
    def hook() -> int:
        return sum(1 for _ in UnpodHook().iter_invoices())

    to_xcom = UnpodBillingOperator(task_id="to_xcom")
    to_files = UnpodBillingOperator(task_id="to_files", output_path=EXPORT, outlets=[Asset("smoke")])

    @task
    def read_back() -> int:
        return len(list(read_export(EXPORT)))

    to_sql = UnpodToSqlOperator(
        task_id="to_sql", export_path=EXPORT, sql_conn_id="smoke_db", table="invoices", create_table=True
    )
    reconcile = UnpodReconcileOperator(
        task_id="reconcile",
        export_path=EXPORT,
        sql="SELECT invoice_id AS id, amount, currency FROM invoices",
        sql_conn_id="smoke_db",
    )
    waits = [wait_for(mode, **options) for mode, options in MODES.items()]

    previous: Any = None
    for step in (hook(), to_xcom, to_files, read_back(), to_sql, reconcile, *waits):
        if previous is not None:
            previous >> step
        previous = step


@dag(schedule=None)
def unpod_smoke_triggerer() -> None:
    wait_for("triggerer", deferrable=True)


unpod_smoke()
unpod_smoke_triggerer()

if AssetWatcher is not None:
    watcher = AssetWatcher(name="smoke", trigger=UnpodInvoiceEventTrigger(poke_interval=1))

    @dag(schedule=[Asset("watched", watchers=[watcher])])
    def unpod_smoke_watcher() -> None:
        @task
        def changed(triggering_asset_events: Any = None) -> list[str]:
            return [transition["key"] for transition in transitions_of(triggering_asset_events)]

        changed()

    unpod_smoke_watcher()
