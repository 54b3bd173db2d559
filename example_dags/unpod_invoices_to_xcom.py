"""Few invoices: read them into XCom, and add them up in a task."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from typing import Any

from airflow.providers.common.compat.sdk import dag, task

from airflow_provider_unpod.operators.billing import UnpodBillingOperator


@dag(schedule=None, tags=["unpod", "example"])
def unpod_invoices_to_xcom() -> None:
    invoices = UnpodBillingOperator(task_id="invoices", statuses=["paid", "pending"])

    @task
    def sum_by_currency(records: list[dict[str, Any]]) -> dict[str, str]:
        """Money comes as decimal text: Decimal keeps every digit of it, float does not."""
        sums: defaultdict[str, Decimal] = defaultdict(Decimal)
        for record in records:
            sums[record["currency"]] += Decimal(record["amount"])
        return {currency: str(amount) for currency, amount in sorted(sums.items())}

    sum_by_currency(invoices.output)


unpod_invoices_to_xcom()
