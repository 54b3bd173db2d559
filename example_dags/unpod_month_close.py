"""Finance: when a month's export is there, check it, and book what every currency brought in."""

from __future__ import annotations

import json
import os
from decimal import Decimal
from typing import Any

import pendulum
from airflow.providers.common.compat.sdk import Asset, ObjectStoragePath, dag, task

from airflow_provider_unpod.export import read_export

# In production: "s3://my_aws_connection@my-bucket/books"
BOOKS = os.environ.get("UNPOD_BOOKS", "file:///tmp/unpod-books")


@dag(
    schedule=[Asset("unpod_monthly_invoices")],
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    tags=["unpod", "example"],
)
def unpod_month_close() -> None:
    @task
    def exports(triggering_asset_events: Any = None, triggering_dataset_events: Any = None) -> list[str]:
        """The manifests of *every* event that started this run: Airflow may have gathered several."""
        by_asset = triggering_asset_events or triggering_dataset_events  # the latter: Airflow 2
        return sorted({event.extra["manifest"] for events in by_asset.values() for event in events})

    @task
    def close(manifest: str) -> dict[str, Any]:
        """Book one month; booking it again overwrites it with the same."""
        export = read_export(manifest)  # refuses what is not certified, not complete or changed
        if export.manifest["evidence"]["consistency"] == "single-pass":
            raise ValueError(f"{manifest} was read without a proof that it is complete.")
        revenue: dict[str, Decimal] = {}
        for record in export:
            if record["status"] == "paid":
                revenue[record["currency"]] = revenue.get(record["currency"], Decimal(0)) + Decimal(record["amount"])
        control = {currency: Decimal(by["paid"]["amount"]) for currency, by in export.totals.items() if "paid" in by}
        if revenue != control:
            raise ValueError(f"{manifest}: the invoices add up to {revenue}, the control totals to {control}.")
        month = export.manifest["selection"]["invoice_date_from"][:7]
        booked = {currency: str(amount) for currency, amount in sorted(revenue.items())}
        books = ObjectStoragePath(BOOKS)
        books.mkdir(parents=True, exist_ok=True)
        (books / f"{month}.json").write_text(json.dumps({"export": export.export_id, "revenue": booked}))
        return {"month": month, "revenue": booked}

    close.expand(manifest=exports())


unpod_month_close()
