"""Airflow 3: DAGs that start by themselves when invoices are paid, fail, fall due or are refunded.

The triggerer looks at the list once for all three assets. A run may get several transitions, and the same one may
reach two runs: each has a key, and what is written under its key is written once.
"""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

from airflow.providers.common.compat.sdk import Asset, ObjectStoragePath, dag, task

from airflow_provider_unpod.hooks.unpod import UnpodHook
from airflow_provider_unpod.transitions import transitions_of
from airflow_provider_unpod.triggers.invoice import UnpodInvoiceEventTrigger

try:
    from airflow.sdk import AssetWatcher
    from airflow.timetables.assets import AssetOrTimeSchedule
    from airflow.timetables.trigger import CronTriggerTimetable
except ImportError:  # Airflow 2 has no watchers; there this file has no DAGs
    AssetWatcher = None

# In production: "s3://my_aws_connection@my-bucket/books"
BOOKS = os.environ.get("UNPOD_BOOKS", "file:///tmp/unpod-books")


def book(kind: str, transition: dict[str, Any], amount: Decimal) -> str:
    """Write one entry; the same transition again writes the same entry again."""
    folder = ObjectStoragePath(BOOKS) / kind
    folder.mkdir(parents=True, exist_ok=True)
    entry = {"invoice": transition["invoice_id"], "amount": str(amount), "currency": transition["invoice"]["currency"]}
    (folder / f"{transition['key'].replace(':', '-')}.json").write_text(json.dumps(entry))
    return f"{kind}: invoice {entry['invoice']}, {entry['amount']} {entry['currency']}"


if AssetWatcher is not None:

    def invoices_that_become(status: str) -> Asset:
        """An asset with an event whenever invoices change to a status."""
        watcher = AssetWatcher(
            name=f"unpod_{status}",
            trigger=UnpodInvoiceEventTrigger(to_statuses=[status], poke_interval=10),  # seconds; in production 60
        )
        return Asset(f"unpod_{status}_invoices", watchers=[watcher])

    @dag(schedule=[invoices_that_become("paid")], tags=["unpod", "example"])
    def unpod_on_paid() -> None:
        @task
        def book_payments(triggering_asset_events: Any = None) -> list[str]:
            transitions = transitions_of(triggering_asset_events)
            return [book("payments", each, Decimal(each["invoice"]["amount"])) for each in transitions]

        book_payments()

    @dag(schedule=[invoices_that_become("refunded")], tags=["unpod", "example"])
    def unpod_on_refunded() -> None:
        @task
        def book_reversals(triggering_asset_events: Any = None) -> list[str]:
            transitions = transitions_of(triggering_asset_events)
            return [book("reversals", each, Decimal(each["invoice"]["amount"]).copy_negate()) for each in transitions]

        book_reversals()

    @dag(
        # To become overdue nothing happens to an invoice but time: so every morning, too.
        schedule=AssetOrTimeSchedule(
            timetable=CronTriggerTimetable("0 6 * * *", timezone="UTC"), assets=[invoices_that_become("failed")]
        ),
        tags=["unpod", "example"],
    )
    def unpod_dunning() -> None:
        @task
        def alerts(triggering_asset_events: Any = None) -> list[str]:
            """What a reminder is to be sent for; in production this goes to a notifier."""
            failed = transitions_of(triggering_asset_events)
            if failed:
                return [f"the charge of invoice {each['invoice_id']} failed" for each in failed]
            now = datetime.now(timezone.utc)
            with UnpodHook().iter_invoices(statuses="pending") as pending:
                due = [(each, each.expected_payment_by) for each in pending]
            return [f"invoice {each.invoice_id} was due {by:%Y-%m-%d}" for each, by in due if by and by < now]

        alerts()

    unpod_on_paid()
    unpod_on_refunded()
    unpod_dunning()
