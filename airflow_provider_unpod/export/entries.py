"""The entries that a reconciliation compares, from certified exports, rows of a SQL query, or files of a ledger.

A row that cannot be read is an error: left out of the comparison, it would look like a difference, or hide one.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime, tzinfo
from decimal import Decimal, InvalidOperation
from typing import IO, TYPE_CHECKING, Any

from airflow_provider_unpod.billing.errors import UnpodConfigError, short_repr
from airflow_provider_unpod.billing.invoice import Invoice, match_key
from airflow_provider_unpod.billing.moments import in_zone, parse_moment
from airflow_provider_unpod.export.errors import LedgerError
from airflow_provider_unpod.export.reconciliation import Entry

if TYPE_CHECKING:
    from airflow_provider_unpod.billing.reading.selection import Selection

#: Fields of an entry, and the default names of a query's columns.
COLUMNS = ("id", "amount", "currency", "date", "status")
#: Rows that cannot be read are named up to this many, so that one run shows all there is to mend.
_MOST_NAMED = 20
#: Beyond any amount of money, and far from what a Decimal may take to be written out.
_MOST_DIGITS = 60


@dataclass(frozen=True)
class LedgerFormat:
    """How a ledger writes its rows down; the default reads what a spreadsheet in English exports.

    :param columns: by field (``id``, ``amount``, ``currency``, ``date``, ``status``) the ledger's column; a field that
        is left out is not compared. ``id`` and ``amount`` are needed, ``currency`` unless it is given once for the
        whole file. ``None``: columns are called like the fields, and ``date`` and ``status`` may be missing.
    :param currency: the currency of every row, for a ledger without a column for it.
    :param delimiter: between two cells of a CSV file.
    :param encoding: of a CSV file; a byte order mark is dropped.
    :param decimal: the sign before the fraction of an amount: ``.`` or ``,``.
    :param thousands: the sign between groups of digits, ``""`` if there is none.
    :param date_format: of dates, as ``datetime.strptime`` has it, for example ``%d.%m.%Y``; ``None``: ISO 8601.
    """

    columns: Mapping[str, str] | None = None
    currency: str | None = None
    delimiter: str = ","
    encoding: str = "utf-8-sig"
    decimal: str = "."
    thousands: str = ""
    date_format: str | None = None

    @classmethod
    def from_dict(cls, given: Mapping[str, Any] | None, name: str) -> LedgerFormat:
        """:raises UnpodConfigError: naming the option of ``name`` that is unknown or cannot work."""
        given = dict(given or {})
        known = [one.name for one in fields(cls)]
        if unknown := sorted(set(given) - set(known)):
            raise UnpodConfigError(f"`{name}` has no option {unknown[0]!r}. Its options are {', '.join(known)}.")
        ledger = cls(**given)
        columns = ledger.columns
        if columns is not None and (not isinstance(columns, Mapping) or set(columns) - set(COLUMNS)):
            known_fields = ", ".join(COLUMNS)
            raise UnpodConfigError(
                f"`{name}`: `columns` must map {known_fields} to columns of the ledger, got {short_repr(columns)}."
            )
        if columns is not None and (missing := [one for one in ledger.required if one not in columns]):
            raise UnpodConfigError(f"`{name}`: `columns` must say which column holds the {missing[0]}.")
        if ledger.decimal not in (".", ",") or ledger.thousands == ledger.decimal:
            raise UnpodConfigError(
                f"`{name}`: `decimal` must be '.' or ',', and `thousands` another sign, "
                f"got {ledger.decimal!r} and {ledger.thousands!r}."
            )
        if not isinstance(ledger.delimiter, str) or len(ledger.delimiter) != 1:
            raise UnpodConfigError(f"`{name}`: `delimiter` must be one character, got {short_repr(ledger.delimiter)}.")
        return ledger

    @property
    def required(self) -> tuple[str, ...]:
        """The fields that every row must have."""
        return ("id", "amount") if self.currency else ("id", "amount", "currency")

    def columns_in(self, head: Sequence[str]) -> dict[str, str]:
        """By field the column that holds it, of those that there are.

        :raises LedgerError: if a column that is needed, or was named, is missing.
        """
        columns = dict(self.columns or {name: name for name in COLUMNS})
        needed = columns if self.columns is not None else self.required
        if missing := [columns[name] for name in needed if columns[name] not in head]:
            raise LedgerError(
                f"The ledger has no column {missing[0]!r}. Its columns are {short_repr(list(head), 300)}."
            )
        return {name: column for name, column in columns.items() if column in head}


def entries_of_export(
    records: Iterable[Mapping[str, Any]], *, by: str, zone: tzinfo, selection: Selection | None = None
) -> Iterator[Entry]:
    """The entries of a certified export.

    :param records: from :func:`~airflow_provider_unpod.export.read_export`.
    :param by: ``"id"`` or ``"invoice_number"``: what the other side knows invoices by.
    :param zone: time zone of the calendar days.
    :param selection: only these invoices; ``None``: all.
    :raises LedgerError: if an invoice has no such number.
    """
    for record in records:
        invoice = Invoice(record)
        if selection is not None and not selection.matches(invoice):
            continue
        key: Any = invoice.key if by == "id" else record.get(by)
        if key in (None, ""):
            raise LedgerError(
                f"Invoice {short_repr(invoice.invoice_id)} has no `{by}`, so it cannot be matched by it. "
                'Use match_by="id".'
            )
        moment = invoice.invoice_date
        yield Entry(
            str(match_key(key)),
            invoice.amount,
            invoice.currency_code,
            moment and in_zone(moment, zone).date(),
            invoice.status_key,
        )


def entries_of_rows(
    rows: Iterable[Sequence[Any]], head: Sequence[str], ledger: LedgerFormat, zone: tzinfo, first: int = 1
) -> Iterator[Entry]:
    """The entries of a table's rows: of a SQL query, or of a CSV file.

    :param head: the names of its columns.
    :param first: number of the first row, for messages.
    :raises LedgerError: if a column is missing, or naming the rows that cannot be read, up to twenty of them.
    """
    places = {name: list(head).index(column) for name, column in ledger.columns_in(head).items()}
    faults: list[str] = []
    for number, row in enumerate(rows, first):
        try:
            if len(row) != len(head):
                raise ValueError(f"it has {len(row)} cells, where there are {len(head)} columns")
            entry = _entry({name: row[place] for name, place in places.items()}, ledger, zone)
        except ValueError as fault:
            faults.append(f"row {number}: {fault}")
            if len(faults) == _MOST_NAMED:
                break
            continue
        if not faults:
            yield entry
    if faults:
        more = ", and perhaps more" if len(faults) == _MOST_NAMED else ""
        raise LedgerError(f"The ledger has rows that cannot be read{more}: {'; '.join(faults)}.")


def entries_of_csv(file: IO[bytes], ledger: LedgerFormat, zone: tzinfo) -> Iterator[Entry]:
    """The entries of a CSV file, whose first line names its columns.

    :raises LedgerError: if it is not such a file, or as :func:`entries_of_rows`.
    """
    import io

    text = io.TextIOWrapper(file, encoding=ledger.encoding, newline="")
    try:
        reader = csv.reader(text, delimiter=ledger.delimiter, strict=True)
        head = [name.strip() for name in next(reader, [])]
        # Spreadsheets export empty rows behind the last one.
        yield from entries_of_rows((row for row in reader if any(row)), head, ledger, zone, first=2)
    except (csv.Error, UnicodeError, LookupError) as error:
        raise LedgerError(f"The ledger is not a CSV file in {ledger.encoding}: {error}.") from None
    finally:
        text.detach()


def _entry(row: Mapping[str, Any], ledger: LedgerFormat, zone: tzinfo) -> Entry:
    """:raises ValueError: saying which cell cannot be read."""

    def cell(name: str) -> Any:
        value = row.get(name)
        return value.strip() or None if isinstance(value, str) else value

    key = cell("id")
    if not isinstance(key, (int, str)) or isinstance(key, bool):
        raise ValueError(f"its id must be a whole number or text, got {short_repr(key)}")
    currency = cell("currency") or ledger.currency
    if not isinstance(currency, str):
        raise ValueError(f"its currency must be text such as 'USD', got {short_repr(currency)}")
    status = cell("status")
    return Entry(
        str(match_key(key)),
        _amount(cell("amount"), ledger),
        currency.strip().upper(),
        _day(cell("date"), ledger, zone),
        None if status is None else str(status).strip().casefold(),
    )


def _amount(value: Any, ledger: LedgerFormat) -> Decimal:
    if isinstance(value, float):
        raise ValueError(f"its amount is a float, {value!r}: cast it to NUMERIC or TEXT in the query")
    text = value
    if isinstance(value, str):
        text = value.replace(ledger.thousands, "") if ledger.thousands else value
        text = text.replace(ledger.decimal, ".") if "." not in text or ledger.decimal == "." else "two kinds of points"
    try:
        if isinstance(text, bool) or not isinstance(text, (int, Decimal, str)) or "_" in str(text):
            raise InvalidOperation
        amount = Decimal(text)
        if not amount.is_finite() or max(abs(amount.adjusted()), abs(int(amount.as_tuple().exponent))) > _MOST_DIGITS:
            raise InvalidOperation
    except (InvalidOperation, ValueError):
        raise ValueError(f"its amount must be a decimal number, got {short_repr(value)}") from None
    return amount


def _day(value: Any, ledger: LedgerFormat, zone: tzinfo) -> date | None:
    if value is None:
        return None
    try:
        if isinstance(value, str):
            if ledger.date_format:
                return datetime.strptime(value, ledger.date_format).date()  # noqa: DTZ007  # a calendar day has no zone
            if len(value) == len("2026-02-01"):
                return date.fromisoformat(value)
            value = parse_moment(value)
        if isinstance(value, datetime):
            return (value if value.tzinfo is None else in_zone(value, zone)).date()
        if isinstance(value, date):
            return value
    except (ValueError, OverflowError):
        pass
    how = f"a date like {ledger.date_format}" if ledger.date_format else "an ISO 8601 date such as 2026-02-01"
    raise ValueError(f"its date must be {how}, got {short_repr(value)}")
