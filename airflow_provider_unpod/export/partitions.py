"""Which partition an invoice belongs to, and what its files are called."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from zoneinfo import ZoneInfo

    from airflow_provider_unpod.billing.invoice import Invoice
    from airflow_provider_unpod.export.options import ExportOptions
    from airflow_provider_unpod.export.spool import Partition

#: What Hive, Spark, DuckDB and pyarrow take for "no value".
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


def partitioner(options: ExportOptions) -> Callable[[Invoice], Partition]:
    """A function that gives the values of ``options.partition_by`` for an invoice."""
    if not options.partition_by:
        return lambda _: ()
    values: dict[str, Callable[[Invoice], str]] = {
        "currency": lambda invoice: invoice.currency_code,
        "status": lambda invoice: invoice.status_key,
        "month": partial(_month, timezone=options.timezone),
    }
    parts = tuple(values[key] for key in options.partition_by)
    return lambda invoice: tuple(part(invoice) for part in parts)


def file_names(found: list[Partition], export_id: str, options: ExportOptions) -> Iterator[tuple[str, Partition]]:
    """Each partition with the path of its file, in Hive layout.

    Files of a partitioned export are numbered: file systems that do not tell ``usd`` from ``USD`` put two partitions
    into one folder. An export that is not partitioned has one file, even if it is empty.
    """
    if not options.partition_by:
        yield f"invoices-{export_id}{options.file_suffix}", ()
        return
    for number, partition in enumerate(found, start=1):
        folders = "".join(
            f"{key}={quote(value, safe='')}/" for key, value in zip(options.partition_by, partition, strict=True)
        )
        yield f"{folders}invoices-{export_id}-{number:05d}{options.file_suffix}", partition


def _month(invoice: Invoice, timezone: ZoneInfo) -> str:
    return invoice.invoice_month(timezone) or NO_VALUE
