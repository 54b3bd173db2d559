"""Wait until an invoice is paid, without holding a worker; then start the DAG that books it."""

from __future__ import annotations

import json
from typing import Any

from airflow.providers.common.compat.sdk import Param, dag, task

from airflow_provider_unpod.sensors.invoice import UnpodInvoiceSensor

try:
    from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
except ImportError:  # Airflow 2 without the standard provider
    from airflow.operators.trigger_dagrun import TriggerDagRunOperator


@dag(schedule=None, params={"invoice_id": Param(101, type=["integer", "string"])}, tags=["unpod", "example"])
def unpod_wait_for_payment() -> None:
    paid = UnpodInvoiceSensor(
        task_id="paid",
        invoice_id="{{ params.invoice_id }}",
        deferrable=True,
        poke_interval=5,  # seconds; in production 60 or more
        timeout=7 * 24 * 3600,
    )
    book = TriggerDagRunOperator(
        task_id="book",
        trigger_dag_id="unpod_book_payment",
        conf={"invoice_id": "{{ params.invoice_id }}", "invoice": "{{ ti.xcom_pull('paid') | tojson }}"},
    )
    paid >> book


@dag(schedule=None, tags=["unpod", "example"])
def unpod_book_payment() -> None:
    @task
    def book(dag_run: Any = None) -> str:
        invoice = json.loads(dag_run.conf["invoice"])
        return f"Booked {invoice['amount']} {invoice['currency']} of invoice {dag_run.conf['invoice_id']}."

    book()


unpod_wait_for_payment()
unpod_book_payment()
