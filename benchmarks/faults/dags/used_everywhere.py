"""All components that read invoices. Each has a separate API and connection, ``unpod_<use>``."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from airflow.sdk import Asset, AssetWatcher, dag, task

from airflow_provider_unpod.export.spool import Spool
from airflow_provider_unpod.hooks.unpod import UnpodHook
from airflow_provider_unpod.operators.billing import UnpodBillingOperator
from airflow_provider_unpod.sensors.invoice import UnpodInvoiceSensor
from airflow_provider_unpod.transitions import transitions_of
from airflow_provider_unpod.triggers.invoice import UnpodInvoiceEventTrigger

RETRIES = {"retries": 3, "retry_delay": timedelta(seconds=5)}
#: While it has a file of this name, no file of an export may grow beyond 1 KiB: as if the disk were full.
FULL = Path(os.environ["UNPOD_FULL"])


def _no_space_left() -> None:
    sys.dont_write_bytecode = True  # Python may cut compiled modules to that size and keep them
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@contextmanager
def little_space() -> Iterator[None]:
    """``tmpdir``: from the beginning, when records are kept in ``$TMPDIR``; ``disk``: when files are written."""
    if (FULL / "tmpdir").exists():
        _no_space_left()
    partitions = Spool.partitions

    def once_read(spool: Spool) -> Any:
        found = partitions(spool)
        if (FULL / "disk").exists():
            _no_space_left()
        return found

    with mock.patch.object(Spool, "partitions", once_read):
        yield


class Export(UnpodBillingOperator):
    def execute(self, context: Any) -> Any:
        with little_space():
            return super().execute(context)


@dag(schedule=None, default_args=RETRIES)
def read() -> None:
    @task
    def hook() -> list[Any]:
        return sorted([invoice.key, invoice.status] for invoice in UnpodHook("unpod_hook").iter_invoices())

    hook()
    Export(
        task_id="operator",
        unpod_conn_id="unpod_operator",
        output_path="{{ dag_run.conf['output'] }}",
        partition_by=["currency", "status", "month"],  # many files, so that a store can go down between two
    )


@dag(schedule=None, default_args=RETRIES)
def wait() -> None:
    modes: dict[str, dict[str, Any]] = {
        "poke": {"mode": "poke", "poke_interval": 2},
        "reschedule": {"mode": "reschedule", "poke_interval": 15},
        "deferrable": {"deferrable": True, "poke_interval": 2},
    }
    for mode, options in modes.items():
        UnpodInvoiceSensor(
            task_id=mode,
            unpod_conn_id=f"unpod_{mode}",
            invoice_id=f"{{{{ dag_run.conf['{mode}'] }}}}",
            timeout=1800,
            **{"deferrable": False, **options},
        )


PAID = UnpodInvoiceEventTrigger(unpod_conn_id="unpod_event", to_statuses="paid", poke_interval=2)


@dag(schedule=[Asset("paid", watchers=[AssetWatcher(name="paid", trigger=PAID)])], default_args=RETRIES)
def book() -> None:
    @task
    def booked(triggering_asset_events: Any = None) -> list[list[Any]]:
        return [[change["key"], change["invoice_id"]] for change in transitions_of(triggering_asset_events)]

    booked()


read()
wait()
book()
