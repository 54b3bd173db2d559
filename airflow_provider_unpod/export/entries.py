"""Reads the entries for a reconciliation from certified exports, rows of a SQL query or ledger files.

A row that cannot be read is an error. If it were skipped, it would look like a difference or hide one.
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
#: Most invalid rows to name in one error.
_MOST_NAMED = 20
#: Larger than any amount of money, and small enough to write out.
_MOST_DIGITS = 60


@dataclass(frozen=True)
class LedgerFormat:
    """The format of a ledger. The default reads the CSV export of a spreadsheet in English.

    :param columns: the ledger's column for each field (``id``, ``amount``, ``currency``, ``date``, ``status``). An
        omitted field is not compared. ``id`` and ``amount`` are required, and so is ``currency`` unless it is given for
        the whole file. ``None``: columns have the names of the fields, and ``date`` and ``status`` are optional.
    :param currency: currency of all rows, for a ledger without a currency column.
    :param delimiter: separator between the cells of a CSV file, one character.
    :param encoding: encoding of a CSV file. A byte order mark is ignored.
    :param decimal: decimal separator of amounts: ``.`` or ``,``.
    :param thousands: thousands separator of amounts. ``""`` means none.
    :param date_format: format of dates for ``datetime.strptime``, for example ``%d.%m.%Y``. ``None`` means ISO 8601.
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
        """Build the format from a dictionary of options.

        :param name: name of the argument, for messages.
        :raises UnpodConfigError: if an option is unknown or invalid. The message names it.
        """
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
            raise UnpodConfigError(f"`{name}`: `columns` must name the column for `{missing[0]}`.")
        if ledger.decimal not in (".", ",") or ledger.thousands == ledger.decimal:
            raise UnpodConfigError(
                f"`{name}`: `decimal` must be '.' or ',', and `thousands` another character, "
                f"got {ledger.decimal!r} and {ledger.thousands!r}."
            )
        if not isinstance(ledger.delimiter, str) or len(ledger.delimiter) != 1:
            raise UnpodConfigError(f"`{name}`: `delimiter` must be one character, got {short_repr(ledger.delimiter)}.")
        return ledger

    @property
    def required(self) -> tuple[str, ...]:
        """The required fields of every row."""
        return ("id", "amount") if self.currency else ("id", "amount", "currency")

    def columns_in(self, head: Sequence[str]) -> dict[str, str]:
        """Return the column for each field that the ledger has.

        :raises LedgerError: if a required or configured column is missing.
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
    """Yield the entries of a certified export.

    :param records: the result of :func:`~airflow_provider_unpod.export.read_export`.
    :param by: field by which the other side identifies invoices: ``"id"`` or ``"invoice_number"``.
    :param zone: time zone of the calendar days.
    :param selection: the invoices to compare. ``None`` means all.
    :raises LedgerError: if an invoice does not have the field ``by``.
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
        dated = invoice.invoice_date
        yield Entry(
            str(match_key(key)),
            invoice.amount,
            invoice.currency_code,
            dated and in_zone(dated, zone).date(),
            invoice.status_key,
        )


def entries_of_rows(
    rows: Iterable[Sequence[Any]], head: Sequence[str], ledger: LedgerFormat, zone: tzinfo, first: int = 1
) -> Iterator[Entry]:
    """Yield the entries of rows from a SQL query or a CSV file.

    :param head: names of the columns.
    :param first: number of the first row, for messages.
    :raises LedgerError: if a column is missing or rows are invalid. The message names up to twenty rows.
    """
    places = {name: list(head).index(column) for name, column in ledger.columns_in(head).items()}
    faults: list[str] = []
    for number, row in enumerate(rows, first):
        try:
            if len(row) != len(head):
                raise ValueError(f"it must have {len(head)} cells, got {len(row)}")
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
        raise LedgerError(f"The ledger has invalid rows{more}: {'; '.join(faults)}.")


def entries_of_csv(file: IO[bytes], ledger: LedgerFormat, zone: tzinfo) -> Iterator[Entry]:
    """Yield the entries of a CSV file. Its first line must name the columns.

    :raises LedgerError: if the file is not valid CSV, or as in :func:`entries_of_rows`.
    """
    import io

    text = io.TextIOWrapper(file, encoding=ledger.encoding, newline="")
    try:
        reader = csv.reader(text, delimiter=ledger.delimiter, strict=True)
        head = [name.strip() for name in next(reader, [])]
        # Spreadsheets export empty rows after the last one.
        yield from entries_of_rows((row for row in reader if any(row)), head, ledger, zone, first=2)
    except (csv.Error, UnicodeError, LookupError) as error:
        raise LedgerError(f"The ledger is not a CSV file in {ledger.encoding}: {error}.") from None
    finally:
        text.detach()


def _entry(row: Mapping[str, Any], ledger: LedgerFormat, zone: tzinfo) -> Entry:
    """Read one row. Raise ``ValueError`` if a cell is invalid."""

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
        raise ValueError(f"its amount must not be a float, got {value!r}; cast it to NUMERIC or TEXT in the query")
    text = value
    if isinstance(value, str):
        text = value.replace(ledger.thousands, "") if ledger.thousands else value
        text = text.replace(ledger.decimal, ".") if "." not in text or ledger.decimal == "." else "ambiguous"
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
