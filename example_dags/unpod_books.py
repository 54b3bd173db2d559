"""Load invoices into a database every night, compare them with a ledger, and compute revenue every month.

`unpod_nightly_books` exports what has changed since last night, loads it into the table `unpod_invoices`, compares it
with the ledger and reports the differences. `unpod_month_revenue` adds up the revenue of last month in the table.
"""

from __future__ import annotations

import os
from contextlib import closing
from decimal import Decimal
from typing import Any

import pendulum
from airflow.providers.common.compat.sdk import AirflowFailException, Asset, BaseHook, dag, task
from airflow.timetables.interval import CronDataIntervalTimetable

from airflow_provider_unpod.operators.billing import UnpodBillingOperator
from airflow_provider_unpod.operators.reconcile import UnpodReconcileOperator
from airflow_provider_unpod.transfers.unpod_to_sql import UnpodToSqlOperator

# In production: "s3://my_aws_connection@my-bucket/unpod"
EXPORTS = os.environ.get("UNPOD_EXPORTS", "file:///tmp/unpod-exports")
# A connection to PostgreSQL, or to SQLite as in the demo.
BOOKS_DB = "unpod_books_db"
TABLE = "unpod_invoices"


@dag(
    schedule="@daily",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,  # each export of changes is based on the one before
    is_paused_upon_creation=True,  # until the connection to the database exists
    tags=["unpod", "example"],
)
def unpod_nightly_books() -> None:
    """### Nightly books

    Loads the changes since last night into the table `unpod_invoices`, and compares them with the ledger. If nothing
    has changed, its tasks are skipped, also when it is started by hand after a run that has loaded everything. Unpause
    it when the connection `unpod_books_db` exists.

    The comparison only warns: an alert with a list is more useful at night than a failed task. Both operators read
    the export by its fingerprint, so that what is loaded is what was certified.
    """
    export = UnpodBillingOperator(
        task_id="export_changes",
        output_path=f"{EXPORTS}/nightly",
        export_mode="changes",
        compression="gzip",
    )
    load = UnpodToSqlOperator(
        task_id="load",
        export_path=f"{EXPORTS}/nightly",
        export_id="{{ ti.xcom_pull('export_changes')['export_id'] }}",
        manifest_sha256="{{ ti.xcom_pull('export_changes')['manifest_sha256'] }}",
        sql_conn_id=BOOKS_DB,
        table=TABLE,
        create_table=True,
        outlets=[Asset("unpod_books")],
    )
    compare = UnpodReconcileOperator(
        task_id="compare_with_ledger",
        export_path=f"{EXPORTS}/nightly",
        export_id="{{ ti.xcom_pull('export_changes')['export_id'] }}",
        manifest_sha256="{{ ti.xcom_pull('export_changes')['manifest_sha256'] }}",
        sql="SELECT id, amount, currency FROM ledger",
        sql_conn_id=BOOKS_DB,
        on_difference="warn",
        output_path=f"{EXPORTS}/nightly-differences",
    )

    @task
    def alert(comparison: Any) -> list[str]:
        """Return the lines of an alert, one for each invoice that differs. Send them to your team."""
        return [f"{one['id']}: {', '.join(one['outcomes'])}" for one in comparison["first_differences"]]

    export >> load >> compare
    alert(compare.output)


@dag(
    schedule=CronDataIntervalTimetable("@monthly", timezone="UTC"),
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    is_paused_upon_creation=True,
    tags=["unpod", "example"],
)
def unpod_month_revenue() -> None:
    """### Revenue of a month

    Adds up the exact revenue of last month by currency, in the table that `unpod_nightly_books` fills. Unpause it when
    that DAG has run once, or its task fails.
    """

    @task
    def revenue(data_interval_start: Any = None, data_interval_end: Any = None) -> dict[str, str]:
        """Add up the paid invoices of the interval. Not done in SQL, because SQLite would round."""
        sums: dict[str, Decimal] = {}
        hook: Any = BaseHook.get_hook(BOOKS_DB)
        if not hook.inspector.has_table(TABLE):
            raise AirflowFailException(f"Start unpod_nightly_books first: it creates the table {TABLE}.")
        with closing(hook.get_conn()) as connection:
            cursor = connection.cursor()
            cursor.execute(f"SELECT currency, amount, invoice_date FROM {TABLE} WHERE status = 'paid'")  # a constant
            for currency, amount, invoice_date in cursor:
                # PostgreSQL returns a datetime, SQLite an ISO 8601 string.
                dated = pendulum.parse(str(invoice_date))
                if data_interval_start <= dated < data_interval_end:
                    sums[currency] = sums.get(currency, Decimal(0)) + Decimal(amount)
        return {currency: str(amount) for currency, amount in sorted(sums.items())}

    revenue()


unpod_nightly_books()
unpod_month_revenue()
