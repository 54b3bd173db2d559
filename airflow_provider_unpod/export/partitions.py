"""Assigns invoices to partitions, and names their files."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow_provider_unpod.billing.errors import short_repr
from airflow_provider_unpod.export.errors import ExportRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from zoneinfo import ZoneInfo

    from airflow_provider_unpod.billing.invoice import Invoice
    from airflow_provider_unpod.export.options import ExportOptions
    from airflow_provider_unpod.export.spool import Partition

#: Hive, Spark, DuckDB and pyarrow read this as a missing value.
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
#: Values of a currency or status that some of them would read as a missing value.
_READ_AS_NOTHING = frozenset({NO_VALUE, "NULL"})

#: Longest folder name in bytes on nearly every file system.
_MAX_NAME = 255


def partitioner(options: ExportOptions) -> Callable[[Invoice], Partition]:
    """Return a function that determines the partition of an invoice.

    The function raises ``ExportRefused`` for a value that is too long for a folder name, or that readers take for a
    missing one. The export then fails before the rest of the list is read.
    """
    if not options.partition_by:
        return lambda _: ()
    values: dict[str, Callable[[Invoice], str]] = {
        "currency": lambda invoice: invoice.currency_code,
        "status": lambda invoice: invoice.status_key,
        "month": partial(_month, timezone=options.timezone),
    }
    parts = tuple(values[key] for key in options.partition_by)
    seen: set[Partition] = set()

    def partition_of(invoice: Invoice) -> Partition:
        partition = tuple(part(invoice) for part in parts)
        if partition not in seen:
            _refuse_unfit(partition, options, invoice)
            seen.add(partition)
        return partition

    return partition_of


def file_names(found: list[Partition], export_id: str, options: ExportOptions) -> Iterator[tuple[str, Partition]]:
    """Yield the path of each file in Hive layout, with its partition.

    Files of a partitioned export are numbered, because a file system that ignores case or Unicode normalization may put
    two partitions into one folder. An export without partitions has exactly one file, even if it is empty.
    """
    if not options.partition_by:
        yield f"invoices-{export_id}{options.file_suffix}", ()
        return
    for number, partition in enumerate(found, start=1):
        folders = "".join(f"{folder}/" for folder in _folders(partition, options))
        yield f"{folders}invoices-{export_id}-{number:05d}{options.file_suffix}", partition


def _folders(partition: Partition, options: ExportOptions) -> list[str]:
    return [f"{key}={quote(value, safe='')}" for key, value in zip(options.partition_by, partition, strict=True)]


def _refuse_unfit(partition: Partition, options: ExportOptions, invoice: Invoice) -> None:
    for key, value, folder in zip(options.partition_by, partition, _folders(partition, options), strict=True):
        if len(folder) > _MAX_NAME:  # percent-encoded: one byte per character
            reason = f"is too long for a folder name ({len(folder)} bytes, at most {_MAX_NAME})"
        elif key != "month" and value in _READ_AS_NOTHING:
            reason = "is what readers of Hive layouts take for a missing value"
        else:
            continue
        raise ExportRefused(
            f"Remove {key!r} from `partition_by`: the `{key}` of invoice {short_repr(invoice.invoice_id)} {reason}: "
            f"{short_repr(value)}."
        )


def _month(invoice: Invoice, timezone: ZoneInfo) -> str:
    return invoice.invoice_month(timezone) or NO_VALUE
