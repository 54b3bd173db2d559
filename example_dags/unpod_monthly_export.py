"""Export last month's invoices every month, as files with a manifest that proves them complete.

unpod_month_close.py is scheduled on the asset that this DAG updates.
"""

from __future__ import annotations

import os

import pendulum
from airflow.providers.common.compat.sdk import Asset, dag
from airflow.timetables.interval import CronDataIntervalTimetable

from airflow_provider_unpod.operators.billing import UnpodBillingOperator

# In production: "s3://my_aws_connection@my-bucket/unpod"
EXPORTS = os.environ.get("UNPOD_EXPORTS", "file:///tmp/unpod-exports")


@dag(
    schedule=CronDataIntervalTimetable("@monthly", timezone="UTC"),
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["unpod", "example"],
)
def unpod_monthly_export() -> None:
    """### Monthly export

    Exports all invoices of the month before the run: gzipped JSON lines and a `_manifest.json` that certifies them,
    in one folder per month below `UNPOD_EXPORTS`, with a report for people: *Browse*, *Unpod Billing*. Running a month
    again replaces its export.

    The task updates the asset `unpod_monthly_invoices`, which starts `unpod_month_close`.
    """
    UnpodBillingOperator(
        task_id="export",
        output_path=EXPORTS + "/monthly/{{ data_interval_start.strftime('%Y-%m') }}",
        invoice_date_from="{{ data_interval_start | ts }}",
        invoice_date_to="{{ data_interval_end | ts }}",
        compression="gzip",
        report=True,
        outlets=[Asset("unpod_monthly_invoices")],
    )


unpod_monthly_export()
