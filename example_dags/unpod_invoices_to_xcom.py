"""Read a few invoices into XCom, and add them up in a task."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from typing import Any

from airflow.providers.common.compat.sdk import dag, task

from airflow_provider_unpod.operators.billing import UnpodBillingOperator


@dag(schedule=None, tags=["unpod", "example"])
def unpod_invoices_to_xcom() -> None:
    """### Invoices to XCom

    Reads all paid and pending invoices into XCom, and adds up their amounts per currency. Start it by hand.

    XCom is for small organizations: the operator returns at most 256 KiB. See `unpod_monthly_export` for files.
    """
    invoices = UnpodBillingOperator(task_id="invoices", statuses=["paid", "pending"])

    @task
    def sum_by_currency(records: list[dict[str, Any]]) -> dict[str, str]:
        """Amounts are decimal strings. Decimal keeps every digit, float does not."""
        sums: defaultdict[str, Decimal] = defaultdict(Decimal)
        for record in records:
            sums[record["currency"]] += Decimal(record["amount"])
        return {currency: str(amount) for currency, amount in sorted(sums.items())}

    sum_by_currency(invoices.output)  # type: ignore[arg-type]  # at run time, the operator's result


unpod_invoices_to_xcom()
