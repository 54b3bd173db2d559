"""One record of an export as a row of the table, without loss."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from airflow_provider_unpod.billing.errors import UnpodBadAnswer
from airflow_provider_unpod.billing.invoice import Invoice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

TEXT, INTEGER, AMOUNT, MOMENT, JSON = "text", "integer", "amount", "moment", "json"
#: One text for each column, ``None`` for NULL.
Row: TypeAlias = tuple[str | None, ...]


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
#: The export that wrote the row, when it read the list, and since when full exports do not have the invoice.
ORIGIN = (
    Column("export_id", TEXT, required=True),
    Column("read_at", MOMENT, required=True),
    Column("vanished_at", MOMENT),
)
STAGED = (KEY[1], *CONTENT)
COLUMNS = (*KEY, *CONTENT, *ORIGIN)

_DATES = ("invoice_date", "due_date", "payment_at")
#: The form in which the API sends moments: it is checked, and kept, without the detour over a ``datetime``.
_USUAL_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{6})?Z").fullmatch
#: U+0000 and unpaired surrogates, the former also as JSON escapes it.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]|\\\\u0000").search
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Rows(Iterable[Row]):
    """The rows of an export, as :data:`STAGED` names their cells; every cell is text.

    :param left_out: fields that say something of the export, and nothing of the invoice.
    :param cleaned: makes of a record what a database can store, and appends to its second argument what was replaced.
    :ivar altered: records in which something was replaced, so far.
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
            if _UNSTORABLE("\n".join(filter(None, row))):
                self.altered += 1
                row = self._row(self._cleaned(dict(record), []))
            yield row

    def _row(self, record: Mapping[str, Any]) -> Row:
        invoice = Invoice(record)
        # Whatever a column cannot hold just as it came stays in `extra`, under its own name.
        extra = dict(record)
        for name in (*self._left_out, "id", "amount"):
            extra.pop(name, None)
        currency, status = invoice.currency_code, invoice.status_key
        if extra["currency"] == currency:
            del extra["currency"]
        if extra["status"] == status:
            del extra["status"]
        return (
            str(invoice.key),
            _taken(extra, "invoice_number"),
            record["amount"],  # exact text, as `Invoice.as_record` makes it; so is `tax_amount`
            extra.pop("tax_amount", None),
            currency,
            status,
            _taken(extra, "charge_type"),
            *(_moment(invoice, extra, name) for name in _DATES),
            _encode(extra) if extra else "{}",
        )


def _taken(extra: dict[str, Any], name: str) -> str | None:
    """The text of a field, which leaves ``extra``; ``None`` where it is not text."""
    value = extra.get(name)
    if type(value) is str:
        del extra[name]
        return value
    return None


def _moment(invoice: Invoice, extra: dict[str, Any], name: str) -> str | None:
    """A moment in UTC, whose text leaves ``extra``; ``None`` where the field holds something else than a full date."""
    value = extra.get(name)
    if value is None:
        extra.pop(name, None)
        return None
    try:
        if type(value) is str and _USUAL_MOMENT(value):
            datetime.fromisoformat(value[:-1])
            text = f"{value[:-1]}+00:00"
        else:
            moment: datetime | None = getattr(invoice, name)
            if moment is None:
                return None
            text = moment.isoformat()
    except (UnpodBadAnswer, ValueError):
        return None
    del extra[name]
    return text
