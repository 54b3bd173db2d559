"""Finance DAGs that start by themselves: on a payment, on a failed or overdue invoice, on a refund.

Nobody asks again and again whether an invoice "is paid": a watcher in the triggerer tells each *change* once. A task
may still get a change twice, after a crash, and then with the same key: whoever books something remembers the keys.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from airflow.providers.common.compat.sdk import Asset, dag, task

from airflow_provider_unpod.billing.invoice import PENDING, Invoice
from airflow_provider_unpod.hooks.unpod import UnpodHook
from airflow_provider_unpod.transitions import transitions_of
from airflow_provider_unpod.triggers.invoice import UnpodInvoiceEventTrigger

try:
    from airflow.sdk import AssetWatcher
except ImportError:  # Airflow 2 has no watchers
    AssetWatcher = None


def changes_to(status: str) -> Asset:
    """The asset that is updated whenever invoices change to ``status``."""
    name = f"unpod_invoices_{status}"
    if AssetWatcher is None:
        return Asset(name)
    # All three share one poll of the API. In production 60 seconds or more.
    trigger = UnpodInvoiceEventTrigger(to_statuses=status, poke_interval=5)
    return Asset(name, watchers=[AssetWatcher(name=name, trigger=trigger)])


def line(invoice: Invoice) -> str:
    return f"{invoice.invoice_id}: {invoice.amount:f} {invoice.currency}"


@dag(schedule=[changes_to("paid")], tags=["unpod", "example"])
def unpod_on_paid() -> None:
    @task
    def book(triggering_asset_events: Any = None) -> list[str]:
        """One booking for each payment; the key makes it safe to book again."""
        return [
            f"Booked {line(Invoice(change['invoice']))} under {change['key']}"
            for change in transitions_of(triggering_asset_events)
        ]

    book()


@dag(schedule=[changes_to("failed")], tags=["unpod", "example"])
def unpod_on_failed() -> None:
    @task
    def alert(triggering_asset_events: Any = None) -> list[str]:
        return [f"Charge failed: {line(Invoice(one['invoice']))}" for one in transitions_of(triggering_asset_events)]

    alert()


@dag(schedule=[changes_to("refunded")], tags=["unpod", "example"])
def unpod_on_refunded() -> None:
    @task
    def reverse(triggering_asset_events: Any = None) -> list[str]:
        return [
            f"Reversed {line(Invoice(one['invoice']))}, which was {one['from']}"
            for one in transitions_of(triggering_asset_events)
        ]

    reverse()


@dag(schedule="@daily", start_date=datetime(2026, 1, 1, tzinfo=timezone.utc), catchup=False, tags=["unpod", "example"])
def unpod_overdue() -> None:
    @task
    def dun() -> list[str]:
        """Falling due is no change of an invoice, but of the date: so it is looked for every day."""
        now = datetime.now(timezone.utc)
        with UnpodHook().iter_invoices(statuses=PENDING) as pending:
            return [
                f"Overdue since {due:%Y-%m-%d}: {line(invoice)}"
                for invoice in pending
                if (due := invoice.expected_payment_by) is not None and due < now
            ]

    dun()


if AssetWatcher is not None:
    unpod_on_paid()
    unpod_on_failed()
    unpod_on_refunded()
unpod_overdue()
