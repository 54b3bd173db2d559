"""One record of an export as a row of the table, without loss."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeAlias

from airflow_provider_unpod.billing.errors import UnpodBadAnswer
from airflow_provider_unpod.billing.invoice import Invoice

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

TEXT, INTEGER, AMOUNT, MOMENT, JSON = "text", "integer", "amount", "moment", "json"
Cell: TypeAlias = str | Decimal | datetime | dict[str, Any] | None
Row: TypeAlias = tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table: its name, what it holds, and whether every row has it."""

    name: str
    kind: str
    required: bool = False


#: Together they identify an invoice.
KEY = (Column("organization", TEXT, required=True), Column("invoice_id", TEXT, required=True))
#: What comes from the invoice itself. ``extra`` holds everything else of the record, as JSON.
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
#: Which export the row is from, when that read the list, and since when no full export has the invoice any more.
ORIGIN = (
    Column("export_id", TEXT, required=True),
    Column("read_at", MOMENT, required=True),
    Column("vanished_at", MOMENT),
)
STAGED = (KEY[1], *CONTENT)
COLUMNS = (*KEY, *CONTENT, *ORIGIN)

_TEXTS = ("invoice_number", "charge_type")
_DATES = ("invoice_date", "due_date", "payment_at")


def rows_of(records: Iterable[Mapping[str, Any]], left_out: frozenset[str]) -> Iterator[Row]:
    """The rows of an export, as :data:`STAGED` names their cells.

    :param left_out: fields that say something of the export, and nothing of the invoice.
    """
    for record in records:
        invoice = Invoice(record)
        # Whatever a column cannot hold just as it came stays in `extra`, under its own name.
        extra = {name: value for name, value in record.items() if name not in left_out}
        extra.pop("id", None)
        texts = [_taken(extra, name, str) for name in _TEXTS]
        for name, canonical in (("currency", invoice.currency_code), ("status", invoice.status_key)):
            if extra[name] == canonical:
                del extra[name]
        for name in ("amount", "tax_amount"):
            extra.pop(name, None)
        dates = [_date(invoice, extra, name) for name in _DATES]
        yield (
            str(invoice.key),
            texts[0],
            invoice.amount,
            invoice.tax_amount,
            invoice.currency_code,
            invoice.status_key,
            texts[1],
            *dates,
            extra,
        )


def _taken(extra: dict[str, Any], name: str, kind: type) -> Any:
    """The value of a field that its column holds as it is; it leaves ``extra``."""
    return extra.pop(name) if type(extra.get(name)) is kind else None


def _date(invoice: Invoice, extra: dict[str, Any], name: str) -> datetime | None:
    """A moment, whose text leaves ``extra``; ``None`` where the field holds something that is not a full date."""
    try:
        moment: datetime | None = getattr(invoice, name)
    except UnpodBadAnswer:
        return None
    if moment is not None or extra.get(name, "") is None:
        extra.pop(name, None)
    return moment
