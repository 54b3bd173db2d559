"""Start finance DAGs when invoices are paid, fail, are refunded or become overdue.

A watcher in the triggerer polls Unpod and reports each *change* of a status once. After a crash, a change may be
reported again with the same key. A task that books something should store the keys and skip known ones.
"""

from __future__ import annotations

import os
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
    AssetWatcher = None  # type: ignore[assignment,misc]  # on Airflow 3 it is a class


#: Seconds between two polls, which the three watchers share. A poll costs at least one request. Every 60 seconds, this
#: is 1,440 requests a day; the free plan has 10,000. Every 5 seconds, as in the demo, it is 17,280.
POLL_INTERVAL = float(os.environ.get("UNPOD_POLL_INTERVAL", "60"))


def changes_to(status: str) -> Asset:
    """Return the asset that is updated when invoices change to ``status``."""
    name = f"unpod_invoices_{status}"
    if AssetWatcher is None:
        return Asset(name)
    trigger = UnpodInvoiceEventTrigger(to_statuses=status, poke_interval=POLL_INTERVAL)
    return Asset(name, watchers=[AssetWatcher(name=name, trigger=trigger)])


def line(invoice: Invoice) -> str:
    """Describe an invoice in a few words."""
    return f"{invoice.invoice_id}: {invoice.amount:f} {invoice.currency}"


@dag(schedule=[changes_to("paid")], tags=["unpod", "example"])
def unpod_on_paid() -> None:
    """### On a payment

    Starts when invoices are paid, and books each payment. Needs no schedule: a watcher in the triggerer reports the
    payments (Airflow 3). To start it, pay an invoice: `python -m airflow_provider_unpod.sandbox pay 101`.

    A run that is started by hand has no payments to book, and books nothing.
    """

    @task
    def book(triggering_asset_events: Any = None) -> list[str]:
        """One booking per payment. The key is the same if a payment is reported again, so book it as a unique id."""
        return [
            f"Booked {line(Invoice(change['invoice']))} under {change['key']}"
            for change in transitions_of(triggering_asset_events)
        ]

    book()


@dag(schedule=[changes_to("failed")], tags=["unpod", "example"])
def unpod_on_failed() -> None:
    """### On a failed charge

    Starts when charges fail, and writes an alert for each of them (Airflow 3). To start it, let a charge fail:
    `python -m airflow_provider_unpod.sandbox fail 105`.

    A run that is started by hand has no failed charges, and writes no alert.
    """

    @task
    def alert(triggering_asset_events: Any = None) -> list[str]:
        """Replace this with a message to the people who follow up on failed charges."""
        return [f"Charge failed: {line(Invoice(one['invoice']))}" for one in transitions_of(triggering_asset_events)]

    alert()


@dag(schedule=[changes_to("refunded")], tags=["unpod", "example"])
def unpod_on_refunded() -> None:
    """### On a refund

    Starts when invoices are refunded, and reverses each booking (Airflow 3). To start it, refund an invoice:
    `python -m airflow_provider_unpod.sandbox refund 102`.

    A run that is started by hand has no refunds, and reverses nothing.
    """

    @task
    def reverse(triggering_asset_events: Any = None) -> list[str]:
        """One reversal per refund, with the status that the invoice had before."""
        return [
            f"Reversed {line(Invoice(one['invoice']))}, which was {one['from']}"
            for one in transitions_of(triggering_asset_events)
        ]

    reverse()


@dag(schedule="@daily", start_date=datetime(2026, 1, 1, tzinfo=timezone.utc), catchup=False, tags=["unpod", "example"])
def unpod_overdue() -> None:
    """### Overdue invoices

    Lists the pending invoices that are past their due date, every day; without a due date, seven days after the
    invoice date. Becoming overdue changes no status, so no watcher reports it.
    """

    @task
    def dun() -> list[str]:
        """One line per overdue invoice."""
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
