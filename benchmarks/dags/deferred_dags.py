"""DAGs of ``benchmarks.deferred``: one wait per invoice, and a watcher."""

from __future__ import annotations

from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import Asset, AssetWatcher, dag, task

from airflow_provider_unpod.sensors.invoice import UnpodInvoiceSensor
from airflow_provider_unpod.triggers.invoice import UnpodInvoiceEventTrigger

paid = UnpodInvoiceEventTrigger(unpod_conn_id="unpod_watched", to_statuses="paid", poke_interval=1)


@dag(schedule=None)
def wait_deferred() -> None:
    @task
    def invoices(dag_run: Any = None) -> list[int]:
        return list(dag_run.conf["invoices"])

    UnpodInvoiceSensor.partial(
        task_id="wait", deferrable=True, poke_interval=5, timeout=3600, unpod_conn_id="unpod_waited"
    ).expand(invoice_id=invoices())


@dag(schedule=[Asset("paid", watchers=[AssetWatcher(name="paid", trigger=paid)])])
def on_paid() -> None:
    EmptyOperator(task_id="nothing")  # needs no worker


wait_deferred()
on_paid()
