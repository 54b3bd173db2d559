"""The options of an export, and the valid combinations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from airflow_provider_unpod.billing.arguments import choice_of, zone_of
from airflow_provider_unpod.billing.errors import UnpodConfigError, short_repr

if TYPE_CHECKING:
    from collections.abc import Iterable
    from zoneinfo import ZoneInfo

JSONL, CSV, PARQUET = "jsonl", "csv", "parquet"
FULL, CHANGES = "full", "changes"
FILE_FORMATS = (JSONL, CSV, PARQUET)
COMPRESSIONS = (None, "gzip", "zstd")
PARTITION_KEYS = ("currency", "status", "month")
MODES = (FULL, CHANGES)

#: Fields that are always compared. `ignore_fields` must not contain them.
_COMPARED = ("id", "invoice_number", "amount", "currency", "status")
_FILE_SUFFIXES = {None: "", "gzip": ".gz", "zstd": ".zst"}


@dataclass(frozen=True)
class ExportOptions:
    """The options of an export. They are checked on creation, so errors appear when a DAG is parsed.

    :param file_format: ``"jsonl"``, ``"csv"`` or ``"parquet"``.
    :param compression: ``None``, ``"gzip"`` or ``"zstd"``. Parquet files are compressed inside, others as a whole.
    :param partition_by: one or more of ``"currency"``, ``"status"`` and ``"month"``, in the order of the folders.
    :param business_timezone: IANA name of the time zone for ``month``.
    :param export_mode: ``"full"``, or ``"changes"`` for only the invoices that are new or different since the last
        export to the same path.
    :param ignore_fields: fields of the API whose differences do not count as changes, for example a signed URL.
    :raises UnpodConfigError: if an option is invalid. The message says what it may be.
    """

    file_format: str = JSONL
    compression: str | None = None
    partition_by: tuple[str, ...] = ()
    business_timezone: str = "UTC"
    export_mode: str = FULL
    ignore_fields: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        choice_of(self.file_format, "file_format", FILE_FORMATS)
        choice_of(self.compression, "compression", COMPRESSIONS)
        choice_of(self.export_mode, "export_mode", MODES)
        object.__setattr__(self, "partition_by", partition_keys(self.partition_by))
        object.__setattr__(self, "ignore_fields", field_names(self.ignore_fields, "ignore_fields"))
        if self.ignore_fields and self.export_mode != CHANGES:
            raise UnpodConfigError("`ignore_fields` has no effect without export_mode='changes'. Set both, or neither.")
        _ = self.timezone

    @cached_property
    def timezone(self) -> ZoneInfo:
        """The time zone of ``business_timezone``."""
        return zone_of(self.business_timezone, "business_timezone")

    @property
    def file_suffix(self) -> str:
        """The suffix of data files, for example ``.jsonl.gz``. Parquet compresses inside the file."""
        return f".{self.file_format}" + ("" if self.file_format == PARQUET else _FILE_SUFFIXES[self.compression])


def field_names(value: str | Iterable[str] | None, name: str) -> tuple[str, ...]:
    """Convert one field name or several to a sorted tuple.

    :param name: name of the argument, for messages.
    :raises UnpodConfigError: if one is not a name, or is a field that is always compared.
    """
    names = (value,) if isinstance(value, str) else tuple(value or ())
    for field in names:
        if not isinstance(field, str) or not field.strip():
            raise UnpodConfigError(f"`{name}` must be names of fields such as 'receipt_url', got {short_repr(field)}.")
        if field in _COMPARED:
            raise UnpodConfigError(f"`{name}` must not contain {field!r}: a difference in it always counts.")
    return tuple(sorted(set(names)))


def partition_keys(value: str | Iterable[str] | None) -> tuple[str, ...]:
    """Convert one partition key or several to a tuple.

    :raises UnpodConfigError: if a key is unknown or repeated.
    """
    keys = (value,) if isinstance(value, str) else tuple(value or ())
    for key in keys:
        choice_of(key, "partition_by", PARTITION_KEYS)
    if len(set(keys)) != len(keys):
        raise UnpodConfigError(f"`partition_by` must name each key once, got {short_repr(keys)}.")
    return keys
