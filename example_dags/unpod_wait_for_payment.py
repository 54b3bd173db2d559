"""Wait until an invoice is paid, without occupying a worker. Then start the DAG that books the payment."""

from __future__ import annotations

import json
from typing import Any

from airflow.providers.common.compat.sdk import AirflowSkipException, Param, dag, task

from airflow_provider_unpod.sensors.invoice import UnpodInvoiceSensor

try:
    from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
except ImportError:  # Airflow 2 without the standard provider
    from airflow.operators.trigger_dagrun import TriggerDagRunOperator  # type: ignore[no-redef]  # the same class


@dag(
    schedule=None,
    params={
        "invoice_id": Param(
            101,
            type=["integer", "string"],
            title="Invoice ID",
            description="The invoice to wait for: its id or, where the API has none, its invoice number.",
        )
    },
    tags=["unpod", "example"],
)
def unpod_wait_for_payment() -> None:
    """### Wait for a payment

    Waits until one invoice is paid, up to seven days. The wait is deferred: it occupies no worker.

    1. Trigger it with the id of a pending invoice; in a new sandbox, 101 is pending.
    2. Pay the invoice: `python -m airflow_provider_unpod.sandbox pay 101`.
    3. Within one `poke_interval` the DAG goes on and starts `unpod_book_payment`.
    """
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
    """### Book a payment

    Books the invoice that `unpod_wait_for_payment` passes in the run's configuration.

    A run that is started by hand has no invoice, and its task is skipped. Start `unpod_wait_for_payment` instead.
    """

    @task
    def book(dag_run: Any = None) -> str:
        """Replace this with a call to your ledger."""
        if "invoice" not in dag_run.conf:
            raise AirflowSkipException("Start unpod_wait_for_payment instead: this run has no invoice to book.")
        invoice = json.loads(dag_run.conf["invoice"])
        return f"Booked {invoice['amount']} {invoice['currency']} of invoice {dag_run.conf['invoice_id']}."

    book()


unpod_wait_for_payment()
unpod_book_payment()
