"""Converts records to table rows for CSV and parquet, and back to the same records.

The columns are the documented fields of the API, always all of them in this order, and ``extra``: a JSON object with
every value that a cell cannot represent *exactly*. It has unknown fields, amounts with an unusual number of digits,
invalid dates, and ``null`` if an empty cell means that the field was missing. To read a row back, the values in
``extra`` replace those of the cells.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.billing.errors import short_repr
from airflow_provider_unpod.billing.invoice import match_key
from airflow_provider_unpod.billing.moments import parse_moment
from airflow_provider_unpod.export.errors import ExportRefused
from airflow_provider_unpod.export.totals import EXACT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Record = dict[str, Any]

INTEGER, TEXT, CATEGORY, DECIMAL, TIMESTAMP = "integer", "text", "category", "decimal", "timestamp"
EXTRA = "extra"

_KINDS = {
    "id": INTEGER,
    "invoice_number": TEXT,
    "amount": DECIMAL,
    "tax_amount": DECIMAL,
    "currency": CATEGORY,
    "status": CATEGORY,
    "charge_type": TEXT,
    "invoice_date": TIMESTAMP,
    "due_date": TIMESTAMP,
    "payment_at": TIMESTAMP,
}
_KINDS_OF_CHANGES = {"old_status": CATEGORY, "new_status": CATEGORY}

#: Type of all amounts in parquet: BigQuery's NUMERIC.
PRECISION, SCALE = 38, 9
_MOST_DIGITS = 100  # most digits after the decimal point
_PLAIN_DECIMAL = re.compile(r"-?[0-9]+(?:\.[0-9]+)?").fullmatch
_UNFIT_FOR_TEXT = re.compile("[\x00\ud800-\udfff]")
# Matches text that a spreadsheet may run as a formula, and text that begins with the escape. Spreadsheets may ignore
# leading blanks.
_FORMULA = re.compile(r"\s*[=+\-@\t\r\n'\uff1d\uff0b\uff0d\uff20]").match  # the last four: full-width signs


def formula_safe(text: str) -> str:
    """Prefix ``text`` with an apostrophe if a spreadsheet could run it as a formula."""
    return "'" + text if _FORMULA(text) else text


@dataclass(frozen=True)
class Column:
    """A column of one export.

    :param empty: meaning of an empty cell: ``"null"``, or ``"missing"`` if some rows do not have the field.
    :param scale: usual number of digits after the decimal point in a parquet column. ``extra`` has other amounts.
    """

    name: str
    type: str
    empty: str
    scale: int = 0

    def __post_init__(self) -> None:
        """Raise ``ValueError`` if no export can have this column, because the manifest is forged."""
        if self.type not in CSV_CELLS or type(self.scale) is not int or not 0 <= self.scale <= _MOST_DIGITS:
            raise ValueError(f"the column {self.name!r} is invalid")

    def as_dict(self) -> dict[str, Any]:
        """Return the column as a dictionary for the manifest."""
        return asdict(self)


def fields_of_type(kind: str) -> frozenset[str]:
    """Return the names of the API's fields of a type."""
    return frozenset(name for name, found in _KINDS.items() if found == kind)


def type_of_field(name: str) -> str | None:
    """Return the type of a field. ``None`` for fields that the API does not document."""
    return (_KINDS | _KINDS_OF_CHANGES).get(name)


def survey(records: Iterable[Record], *, changes: bool, parquet: bool) -> tuple[Column, ...]:
    """Determine the columns of an export from all its records.

    :param changes: whether to add the columns of changes.
    :param parquet: whether to use parquet's types, which do not depend on the records.
    :raises ExportRefused: if a value does not fit its parquet type.
    """
    kinds = _KINDS | (_KINDS_OF_CHANGES if changes else {})
    found = dict.fromkeys(kinds, 0)
    digits: dict[str, Counter[int]] = {name: Counter() for name, kind in kinds.items() if kind == DECIMAL}
    rows = 0
    integer_ids = True
    for record in records:
        rows += 1
        for name in kinds:
            if name in record:
                found[name] += 1
        if parquet:
            _require_parquet(record)
            for name, seen in digits.items():
                if (value := record.get(name)) is not None:
                    seen[len(value.partition(".")[2])] += 1
        elif integer_ids:
            integer_ids = type(record.get("id", 0)) is int or record["id"] is None
    if not integer_ids:
        kinds["id"] = TEXT
    return tuple(
        Column(name, kind, "null" if found[name] == rows else "missing", _usual(digits.get(name)))
        for name, kind in kinds.items()
    )


def _usual(digits: Counter[int] | None) -> int:
    """Return the most frequent value, or the smallest of the most frequent. The order of records does not matter."""
    return min(digits, key=lambda scale: (-digits[scale], scale)) if digits else 0


def _require_parquet(record: Record) -> None:
    """Check that a record fits parquet's types.

    The types are fixed. If they depended on the rows, they would differ between exports, and readers of several exports
    use the types of the first.
    """
    if not _is_int64(record.get("id")):
        raise _unfit(record, "id", "an integer of 64 bits")
    for name, kind in _KINDS.items():
        if kind == DECIMAL and (value := record.get(name)) is not None and not _fits_decimal(value):
            raise _unfit(record, name, f"a decimal128({PRECISION}, {SCALE})")


def _unfit(record: Record, name: str, wanted: str) -> ExportRefused:
    invoice_id = record["invoice_number"] if record.get("id") is None else record["id"]
    return ExportRefused(
        f"Use file_format='jsonl' or 'csv': in parquet, `{name}` of invoice {short_repr(invoice_id)} must be {wanted}, "
        f"got {short_repr(record[name])}."
    )


def _is_int64(value: Any) -> bool:
    if value is None:
        return True
    return type(match_key(value)) is int  # false for "007", whose cell would be equal to that of invoice 7


def _fits_decimal(value: str) -> bool:
    whole, _, fraction = value.lstrip("-").partition(".")
    return len(whole.lstrip("0")) <= PRECISION - SCALE and len(fraction.rstrip("0")) <= SCALE


class Table:
    """Converts records to cells and back, for the columns of one export and the cell types of a format."""

    def __init__(self, columns: Iterable[Column], cell_types: Mapping[str, Callable[[Column], CellType]]) -> None:
        self.columns = tuple(columns)
        self._names = frozenset(column.name for column in self.columns)
        self._cells = [
            (column.name, column.empty == "null", cell_types[column.type](column)) for column in self.columns
        ]

    def split(self, record: Record) -> tuple[list[Any], Record]:
        """Return the cells of a record (``None`` for empty ones) and the content of ``extra``."""
        names = self._names
        extra = {name: value for name, value in record.items() if name not in names}
        cells = []
        for name, null, cell_type in self._cells:
            value = record.get(name)
            cell = None
            if value is not None:
                cell = cell_type.write(value)
                if cell is None or cell_type.read(cell) != value:
                    extra[name] = cell_type.difference(cell, value)
            elif not null and name in record:
                extra[name] = None
            cells.append(cell)
        return cells, extra

    def join(self, cells: Iterable[Any], extra: Record) -> Record:
        """Restore a record from its cells and ``extra``."""
        record: Record = {}
        for (name, null, cell_type), cell in zip(self._cells, cells, strict=True):
            if name in extra:
                record[name] = cell_type.restore(cell, extra[name])
            elif cell is not None:
                record[name] = cell_type.read(cell)
            elif null:
                record[name] = None
        return extra | record


class CellType(ABC):
    """Converts values of one type to cells and back. ``write`` returns ``None`` if a cell cannot hold the value."""

    def __init__(self, column: Column) -> None:
        self._column = column

    @abstractmethod
    def write(self, value: Any) -> Any:
        """Return the cell for ``value``."""

    @abstractmethod
    def read(self, cell: Any) -> Any:
        """Return the value of ``cell``."""

    def difference(self, cell: Any, value: Any) -> Any:
        """Return what ``extra`` must have to restore ``value``, for a cell that does not represent it exactly."""
        return value

    def restore(self, cell: Any, difference: Any) -> Any:
        """Return the value of a cell and its :meth:`difference`."""
        return difference


class CsvText(CellType):
    """Text, prefixed with ``'`` if a spreadsheet could run it as a formula, or if it already begins with ``'``."""

    def write(self, value: Any) -> str | None:
        if type(value) is not str:
            return str(value) if type(value) is int else None
        if value.isalnum():
            return value
        text = _UNFIT_FOR_TEXT.sub("\ufffd", value)
        return formula_safe(text) or None

    def read(self, cell: str) -> str:
        return cell[1:] if cell[0] == "'" else cell


class CsvInteger(CellType):
    """An integer, written as digits."""

    def write(self, value: Any) -> str:
        return str(value)

    def read(self, cell: str) -> int:
        return int(cell)


class CsvDecimal(CellType):
    """An amount with its original digits. Spreadsheets read it as a number, even if it is negative."""

    def write(self, value: Any) -> str:
        return value if _PLAIN_DECIMAL(value) else format(Decimal(value), "f")

    def read(self, cell: str) -> str:
        return cell


class ParquetText(CellType):
    """A string. Characters that UTF-8 or databases cannot represent are replaced, and ``extra`` has the original."""

    def write(self, value: Any) -> str | None:
        if type(value) is not str:
            return str(value) if type(value) is int else None
        return value if value.isalnum() else _UNFIT_FOR_TEXT.sub("\ufffd", value)

    def read(self, cell: str) -> str:
        return cell


class ParquetInteger(CellType):
    """A 64-bit integer. ``survey`` has checked that all values fit."""

    def write(self, value: Any) -> int:
        return int(value)

    def read(self, cell: int) -> int:
        return cell


class ParquetDecimal(CellType):
    """A decimal128 that is equal to the amount. ``survey`` has checked that all values fit."""

    def __init__(self, column: Column) -> None:
        super().__init__(column)
        self._digits = f".{column.scale}f"

    def write(self, value: Any) -> Decimal:
        number = Decimal(value)
        if number.as_tuple().exponent < -SCALE:  # type: ignore[operator] # amounts are finite
            number = number.normalize(EXACT)
        return number or Decimal(0)  # decimal128 has no negative zero

    def read(self, cell: Decimal) -> str:
        return format(cell, self._digits)

    def difference(self, cell: Decimal, value: Any) -> Any:
        # The number of digits, since it is the same in many rows, and takes no space in the file then.
        digits = len(value.partition(".")[2])
        return digits if digits <= _MOST_DIGITS and format(cell, f".{digits}f") == value else value

    def restore(self, cell: Decimal, difference: Any) -> Any:
        if type(difference) is not int:
            return difference
        if not 0 <= difference <= _MOST_DIGITS:
            raise ValueError(f"an amount must not have {difference} digits")
        return format(cell, f".{difference}f")


class ParquetTimestamp(CellType):
    """A time in UTC, to the microsecond."""

    def write(self, value: Any) -> datetime | None:
        try:
            return parse_moment(value) if type(value) is str else None
        except ValueError:
            return None

    def read(self, cell: datetime) -> str:
        return cell.astimezone(timezone.utc).replace(tzinfo=None).isoformat() + "Z"


CSV_CELLS: Mapping[str, Callable[[Column], CellType]] = {
    INTEGER: CsvInteger,
    TEXT: CsvText,
    CATEGORY: CsvText,
    DECIMAL: CsvDecimal,
    TIMESTAMP: CsvText,
}
PARQUET_CELLS: Mapping[str, Callable[[Column], CellType]] = {
    INTEGER: ParquetInteger,
    TEXT: ParquetText,
    CATEGORY: ParquetText,
    DECIMAL: ParquetDecimal,
    TIMESTAMP: ParquetTimestamp,
}
