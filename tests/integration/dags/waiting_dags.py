"""DAGs that the tests of waiting run: each task instance waits for one invoice."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import dag, task

from airflow_provider_unpod.sensors.invoice import UnpodInvoiceSensor


@dag(schedule=None)
def wait_for_many() -> None:
    @task
    def invoices(dag_run: Any = None) -> list[int]:
        return list(dag_run.conf["invoices"])

    UnpodInvoiceSensor.partial(task_id="wait", deferrable=True, poke_interval=2, timeout=600).expand(
        invoice_id=invoices()
    )


@dag(schedule=None)
def wait_in_every_mode() -> None:
    modes: dict[str, dict[str, Any]] = {
        "poke": {"mode": "poke"},
        "reschedule": {"mode": "reschedule"},
        "deferrable": {"deferrable": True},
    }
    for name, options in modes.items():
        UnpodInvoiceSensor(
            task_id=name,
            invoice_id="{{ dag_run.conf['invoice'] }}",
            poke_interval=2,
            timeout=600,
            **{"deferrable": False, **options},
        )


@dag(schedule=None)
def wait_in_vain() -> None:
    for name, soft_fail in (("fails", False), ("skips", True)):
        UnpodInvoiceSensor(
            task_id=name,
            invoice_id="{{ dag_run.conf['invoice'] }}",
            deferrable=True,
            poke_interval=1,
            timeout=3,
            soft_fail=soft_fail,
            retries=2,
        )


wait_for_many()
wait_in_every_mode()
wait_in_vain()
