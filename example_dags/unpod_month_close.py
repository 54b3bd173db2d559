"""Check each new monthly export, and book the revenue per currency."""

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
    """### Month close

    Starts when `unpod_monthly_export` has updated the asset `unpod_monthly_invoices`. For each export it checks every
    byte against the manifest, compares the paid invoices with the manifest's control totals, and writes the revenue
    per currency to `UNPOD_BOOKS`. Booking a month again overwrites its file with the same content.

    A run that is started by hand has no export to book, and books nothing. Start `unpod_monthly_export` instead.
    """

    @task
    def exports(triggering_asset_events: Any = None, triggering_dataset_events: Any = None) -> list[dict[str, str]]:
        """The exports of *all* events that started this run: Airflow may combine several into one run.

        Of two exports of one month the later one replaced the files of the earlier one.
        """
        by_asset = triggering_asset_events or triggering_dataset_events or {}  # Airflow 2 has the second
        events = sorted((event for of_asset in by_asset.values() for event in of_asset), key=lambda one: one.timestamp)
        latest = {event.extra["manifest"]: event.extra for event in events}
        return [
            {name: extra[name] for name in ("manifest", "export_id", "manifest_sha256")} for extra in latest.values()
        ]

    @task
    def close(certified: dict[str, str]) -> dict[str, Any]:
        """Book one month."""
        manifest, export_id = certified["manifest"], certified["export_id"]
        # Raises if a file is missing, changed or not listed in the manifest, or if this is not the export of the event.
        export = read_export(manifest, export_id=export_id, manifest_sha256=certified["manifest_sha256"])
        if export.manifest["evidence"]["consistency"] == "single-pass":
            raise ValueError(f"{manifest} has no proof that it is complete. Export it with consistency='linked'.")
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

    close.expand(certified=exports())


unpod_month_close()
