"""One task for each use of the token, including uses that fail. The tasks are independent."""

from __future__ import annotations

import os
from typing import Any

from airflow.providers.common.compat.sdk import dag, task

from airflow_provider_unpod.hooks.unpod import UnpodHook
from airflow_provider_unpod.operators.billing import UnpodBillingOperator
from airflow_provider_unpod.sensors.invoice import UnpodInvoiceSensor
from tests.odd_server import KINDS

EXPORTS = os.environ.get("UNPOD_EXPORTS", "file:///tmp/unpod-exports")
PAID = os.environ.get("UNPOD_TEST_PAID", "101")
PENDING = os.environ.get("UNPOD_TEST_PENDING", "102")


@dag(schedule=None)
def token_everywhere() -> None:
    UnpodBillingOperator(task_id="records")
    UnpodBillingOperator(task_id="files", output_path=f"{EXPORTS}/token")
    UnpodInvoiceSensor(task_id="poke", invoice_id=PAID)
    UnpodInvoiceSensor(task_id="reschedule", invoice_id=PAID, mode="reschedule")
    UnpodInvoiceSensor(task_id="deferred", invoice_id=PENDING, deferrable=True, poke_interval=1)
    UnpodInvoiceSensor(task_id="timeout", invoice_id="never", timeout=1, poke_interval=1)

    @task
    def organizations() -> list[str]:
        hook = UnpodHook()
        print(hook, vars(hook), hook.get_conn(), hook.test_connection())
        return [organization["domain_handle"] for organization in hook.get_organizations()]

    organizations()

    for odd in KINDS:
        arguments: dict[str, Any] = {"unpod_conn_id": "unpod_odd", "org_handle": odd}
        UnpodBillingOperator(task_id=f"records-{odd}", **arguments)
        UnpodBillingOperator(task_id=f"files-{odd}", output_path=f"{EXPORTS}/{odd}", **arguments)
        UnpodInvoiceSensor(task_id=f"poke-{odd}", invoice_id=1, timeout=1, poke_interval=1, **arguments)
        UnpodInvoiceSensor(
            task_id=f"deferred-{odd}", invoice_id=1, deferrable=True, timeout=1, poke_interval=1, **arguments
        )


token_everywhere()
