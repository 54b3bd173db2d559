"""The daily DAGs of a finance team: exports of all organizations, many waits, a booking for each payment."""

from __future__ import annotations

import os
from contextlib import closing
from datetime import timedelta
from typing import Any

from airflow.sdk import Asset, AssetWatcher, BaseHook, dag, task

from airflow_provider_unpod.hooks.unpod import UnpodHook
from airflow_provider_unpod.operators.billing import UnpodBillingOperator
from airflow_provider_unpod.sensors.invoice import UnpodInvoiceSensor
from airflow_provider_unpod.transitions import transitions_of
from airflow_provider_unpod.triggers.invoice import UnpodInvoiceEventTrigger

RETRIES = {"retries": 3, "retry_delay": timedelta(seconds=5)}


@dag(schedule=None, default_args=RETRIES)
def export_everything() -> None:
    @task
    def organizations() -> list[dict[str, str]]:
        handles = [organization["domain_handle"] for organization in UnpodHook().get_organizations()]
        return [{"org_handle": each, "output_path": f"{os.environ['UNPOD_EXPORTS']}/{each}"} for each in handles]

    UnpodBillingOperator.partial(task_id="export", pool=os.environ["UNPOD_POOL"]).expand_kwargs(organizations())


@dag(schedule=None, default_args=RETRIES)
def wait_for_everything() -> None:
    @task
    def invoices(dag_run: Any = None) -> list[int]:
        return list(dag_run.conf["invoices"])

    UnpodInvoiceSensor.partial(task_id="wait", deferrable=True, poke_interval=5, timeout=1800).expand(
        invoice_id=invoices()
    )


PAID = Asset(
    "paid",
    watchers=[AssetWatcher(name="paid", trigger=UnpodInvoiceEventTrigger(to_statuses="paid", poke_interval=5))],
)


@dag(schedule=[PAID], default_args=RETRIES)
def book_payments() -> None:
    @task
    def book(triggering_asset_events: Any = None) -> None:
        """Insert each payment under its key, or count it as delivered again."""
        hook: Any = BaseHook.get_hook("unpod_books_db")
        with closing(hook.get_conn()) as connection, connection, connection.cursor() as cursor:
            for change in transitions_of(triggering_asset_events):
                invoice = change["invoice"]
                cursor.execute(
                    "INSERT INTO payments VALUES (%s, %s, %s, %s, 1)"
                    " ON CONFLICT (key) DO UPDATE SET deliveries = payments.deliveries + 1",
                    (change["key"], invoice["id"], invoice["amount"], invoice["currency"]),
                )

    book()


export_everything()
wait_for_everything()
book_payments()
