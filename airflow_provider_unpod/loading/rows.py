"""Converts the records of an export to rows of a table, without loss."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from airflow_provider_unpod.billing.errors import UnpodBadAnswer
from airflow_provider_unpod.billing.invoice import Invoice, currency_code, status_key
from airflow_provider_unpod.export.spool import json_encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

TEXT, INTEGER, AMOUNT, MOMENT, JSON = "text", "integer", "amount", "moment", "json"
#: One string for each column, ``None`` for NULL.
Row: TypeAlias = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table: name, kind of value, and whether it is NOT NULL."""

    name: str
    kind: str
    required: bool = False


#: Primary key of the table.
KEY = (Column("organization", TEXT, required=True), Column("invoice_id", TEXT, required=True))
#: Columns from the record. ``extra`` has all its other fields, as JSON.
CONTENT = (
    Column("invoice_number", TEXT),
    Column("amount", AMOUNT, required=True),
    Column("tax_amount", AMOUNT),
    Column("currency", TEXT, required=True),
    Column("status", TEXT, required=True),
    Column("charge_type", TEXT),
    Column("invoice_date", MOMENT),
    Column("due_date", MOMENT),
    Column("payment_at", MOMENT),
    Column("extra", JSON, required=True),
)
#: Id and time of the export that wrote the row, and the time since which full exports no longer contain the invoice.
ORIGIN = (
    Column("export_id", TEXT, required=True),
    Column("read_at", MOMENT, required=True),
    Column("vanished_at", MOMENT),
)
STAGED = (KEY[1], *CONTENT)
COLUMNS = (*KEY, *CONTENT, *ORIGIN)

#: The format of times that the API sends. It is validated and copied without creating a ``datetime`` in a time zone.
_USUAL_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{6})?Z", re.ASCII).fullmatch
#: Matches U+0000, also as a JSON escape, and unpaired surrogates.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]|\\\\u0000").search
_encode = json_encoder(ascii_only=False)
#: Cached, because an export has few different currencies and statuses.
_currency_code, _status_key = lru_cache(1024)(currency_code), lru_cache(1024)(status_key)


class Rows(Iterable[Row]):
    """The rows of an export, with the columns of :data:`STAGED`. Every cell is a non-empty string or ``None``.

    :param left_out: fields to omit, because they describe the export and not the invoice.
    :param cleaned: converts a record to one that a database can store, and appends replaced values to its second
        argument.
    :ivar altered: number of records so far in which values were replaced.
    """

    def __init__(
        self,
        records: Iterable[Mapping[str, Any]],
        left_out: Iterable[str],
        cleaned: Callable[[Any, list[object]], Any],
    ) -> None:
        self._records = records
        self._left_out = tuple(left_out)
        self._cleaned = cleaned
        self.altered = 0

    def __iter__(self) -> Iterator[Row]:
        for record in self._records:
            row = self._row(record)
            text = "".join(filter(None, row))
            # The first two tests are much faster than the third, and sufficient for nearly every row.
            if (not text.isprintable() or "\\" in text) and _UNSTORABLE(text):
                replaced: list[object] = []
                row = self._row(self._cleaned(dict(record), replaced))
                self.altered += bool(replaced)
            yield row

    def _row(self, record: Mapping[str, Any]) -> Row:
        invoice = Invoice(record)
        # Values that a column cannot represent exactly stay in `extra`, under their own names.
        extra = dict(record)
        extra.pop("id", None)
        del extra["amount"]
        for name in self._left_out:
            extra.pop(name, None)
        currency, status = _currency_code(invoice.currency), _status_key(invoice.status)
        if currency == invoice.currency:
            del extra["currency"]
        if status == invoice.status:
            del extra["status"]
        return (
            str(invoice.key),
            _taken(extra, "invoice_number"),
            record["amount"],  # a decimal string from `Invoice.as_record`, like `tax_amount`
            extra.pop("tax_amount", None),
            currency,
            status,
            _taken(extra, "charge_type"),
            _moment(invoice, extra, "invoice_date"),
            _moment(invoice, extra, "due_date"),
            _moment(invoice, extra, "payment_at"),
            _encode(extra) if extra else "{}",
        )


def _taken(extra: dict[str, Any], name: str) -> str | None:
    """Remove a string field from ``extra`` and return it. ``None`` if it is not a string or is empty."""
    if type(extra.get(name) or None) is str:
        text: str = extra.pop(name)
        return text
    return None


def _moment(invoice: Invoice, extra: dict[str, Any], name: str) -> str | None:
    """Remove a date field from ``extra`` and return it in UTC. ``None`` if the field is not a full date."""
    value = extra.get(name)
    if value is None:
        extra.pop(name, None)
        return None
    try:
        if type(value) is str and _USUAL_MOMENT(value):
            datetime.fromisoformat(value[:-1])
            text = f"{value[:-1]}+00:00"
        else:
            parsed: datetime | None = getattr(invoice, name)
            if parsed is None:
                return None
            text = parsed.isoformat()
    except (UnpodBadAnswer, ValueError):
        return None
    del extra[name]
    return text
