"""An invoice: identity, money, status and dates of a row, in either dialect of the API.

The published page of the billing endpoint documents ``id``, ``amount``, ``currency``, ``status`` and ``invoice_date``.
Older pages of the same endpoint add ``invoice_number``, ``tax_amount``, ``due_date`` and ``payment_at``.
"""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from airflow_provider_unpod.billing.errors import UnpodBadAnswer, short_repr
from airflow_provider_unpod.billing.moments import in_zone, parse_moment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, tzinfo

InvoiceId: TypeAlias = int | str

#: The first three are documented. The others occur in Unpod's backend.
PAID, PENDING, FAILED, CANCELLED, REFUNDED = "paid", "pending", "failed", "cancelled", "refunded"
KNOWN_STATUSES = frozenset({PAID, PENDING, FAILED, CANCELLED, REFUNDED})
#: Statuses that rarely change again. They affect only the *cost* of polling, never a result.
SETTLED_STATUSES = KNOWN_STATUSES - {PENDING}

#: Unpod's backend makes invoices due this long after their date. Used if a row has no ``due_date``.
PAYMENT_TERM = timedelta(days=7)

#: ``Decimal("1e999999999")`` is valid, but its digits would fill the memory when written out.
_MAX_DIGITS = 60
_PLAIN_DECIMAL = re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{1,40})?").fullmatch
_MONEY_FIELDS = ("amount", "tax_amount")
#: Types that JSON represents without conversion. Lists and objects are excluded: they may contain a ``Decimal``.
_FLAT_TYPES = frozenset({str, int, bool, type(None)})


#: Larger ids are compared as strings of digits. Airflow cannot store larger integers, and Python does not print
#: integers of more than 4,300 digits.
_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**63 - 1
_INTEGER = re.compile(r"0|-?[1-9][0-9]*").fullmatch


def match_key(invoice_id: InvoiceId) -> InvoiceId:
    """Normalize an id for comparison: ``101``, ``"101"`` and ``" 101 "`` are the same invoice, ``"007"`` is not 7.

    An integer, or a string of its digits, becomes an ``int`` if it fits into 64 bits, and a string of digits otherwise.
    """
    if type(invoice_id) is int:
        return invoice_id if _MIN_INTEGER <= invoice_id <= _MAX_INTEGER else str(Decimal(invoice_id))
    text = str(invoice_id).strip()
    if len(text) <= 20 and _INTEGER(text) and _MIN_INTEGER <= int(text) <= _MAX_INTEGER:
        return int(text)
    return text


def is_integer(key: InvoiceId) -> bool:
    """Return whether a :func:`match_key` is an integer of any length."""
    return type(key) is int or _INTEGER(str(key)) is not None


def status_key(status: str) -> str:
    """Normalize a status for comparisons, totals and paths: ``" Paid"`` becomes ``"paid"``."""
    return status.strip().casefold()


def currency_code(currency: str) -> str:
    """Normalize a currency for totals and paths: ``"usd "`` becomes ``"USD"``."""
    return currency.strip().upper()


class Invoice:
    """One row of the billing list. Treat it as immutable. Two invoices are equal if their rows are equal.

    ``invoice_id`` is the row's ``id``, or its ``invoice_number`` if it has no ``id``. ``invoice_id``, ``currency`` and
    ``status`` are unchanged; compare ``key``, ``currency_code`` and ``status_key`` instead. ``amount`` is exact.
    ``raw`` is the row as the API sent it, with a ``Decimal`` for each JSON number that has a fraction.
    """

    __slots__ = ("amount", "currency", "invoice_id", "key", "raw", "status")

    def __init__(self, raw: Mapping[str, Any]) -> None:
        """:raises UnpodBadAnswer: if the row has no usable id, amount, currency or status."""
        self.raw = raw
        invoice_id: Any = raw.get("id")
        if invoice_id is None:
            invoice_id = raw.get("invoice_number")
        # This code runs for every row of every page. The common case comes first and makes no function calls.
        usual_id = type(invoice_id) is int and 0 <= invoice_id <= _MAX_INTEGER
        self.key: InvoiceId = invoice_id if usual_id else _key_of(invoice_id, raw)
        self.invoice_id: InvoiceId = invoice_id
        amount: Any = raw.get("amount")
        currency, status = raw.get("currency"), raw.get("status")
        usual = type(amount) is str and _PLAIN_DECIMAL(amount)
        self.amount: Decimal = Decimal(amount) if usual else _money(amount, "amount", self)
        self.currency: str = currency if type(currency) is str and currency.strip() else _no_text(raw, "currency")
        self.status: str = status if type(status) is str and status.strip() else _no_text(raw, "status")

    @property
    def status_key(self) -> str:
        """The status, stripped and case-folded. Use it for comparisons."""
        return status_key(self.status)

    @property
    def currency_code(self) -> str:
        """The currency, stripped and in capitals. Use it for totals."""
        return currency_code(self.currency)

    @property
    def tax_amount(self) -> Decimal | None:
        """Tax in ``currency``. ``None`` if the row has none."""
        value = self.raw.get("tax_amount")
        return None if value is None else _money(value, "tax_amount", self)

    @property
    def invoice_date(self) -> datetime | None:
        """The date of the invoice: an aware ``datetime`` in UTC. ``None`` if the row has none.

        :raises UnpodBadAnswer: if the value is not a full ISO 8601 date.
        """
        return _moment(self, "invoice_date")

    @property
    def due_date(self) -> datetime | None:
        """The time when payment is due: an aware ``datetime`` in UTC. ``None`` if the row has none.

        :raises UnpodBadAnswer: if the value is not a full ISO 8601 date.
        """
        return _moment(self, "due_date")

    @property
    def payment_at(self) -> datetime | None:
        """The time of the payment: an aware ``datetime`` in UTC. ``None`` if the row has none.

        :raises UnpodBadAnswer: if the value is not a full ISO 8601 date.
        """
        return _moment(self, "payment_at")

    @property
    def expected_payment_by(self) -> datetime | None:
        """``due_date``, or ``invoice_date`` plus Unpod's payment term of seven days.

        :raises UnpodBadAnswer: if a date is invalid, or the result is after the year 9999.
        """
        if (due := self.due_date) is not None:
            return due
        try:
            return None if (made := self.invoice_date) is None else made + PAYMENT_TERM
        except OverflowError:
            raise _bad_value(self, "invoice_date", "at least seven days before the year 10000") from None

    def invoice_month(self, zone: tzinfo) -> str | None:
        """Return the month (``YYYY-MM``) of ``invoice_date`` in ``zone``. ``None`` if the row has no date.

        :raises UnpodBadAnswer: if the date is invalid, or outside the years 1 to 9999 in ``zone``.
        """
        made = self.invoice_date
        if made is None:
            return None
        try:
            local = in_zone(made, zone)
        except ValueError:
            raise _bad_value(self, "invoice_date", f"in the years 1 to 9999 in {zone}") from None
        return f"{local.year:04}-{local.month:02}"

    def answers_to(self, key: InvoiceId) -> bool:
        """Return whether ``key`` (a :func:`match_key`) is the id or the invoice number of this invoice.

        An integer never matches the invoice number of an invoice that has an id. It may be the id of another invoice.
        """
        if self.key == key or is_integer(key):
            return self.key == key
        number = self.raw.get("invoice_number")
        return isinstance(number, (int, str)) and match_key(number) == key

    def as_record(self) -> dict[str, Any]:
        """Return the row as a dictionary for JSON, with its own field names. Money becomes decimal strings.

        :raises UnpodBadAnswer: if ``tax_amount`` is not a decimal amount, or a field is nested too deeply.
        """
        raw = self.raw
        flat = _FLAT_TYPES.issuperset(map(type, raw.values()))
        try:
            record = dict(raw) if flat else {name: plain(value) for name, value in raw.items()}
        except RecursionError:
            raise UnpodBadAnswer(f"Invoice {short_repr(self.invoice_id)} is nested too deeply to be read.") from None
        for name in _MONEY_FIELDS:
            value = raw.get(name)
            if value is not None and not (type(value) is str and _PLAIN_DECIMAL(value)):
                record[name] = format(_money(value, name, self), "f")
        return record

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Invoice) and self.raw == other.raw

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"Invoice({self.invoice_id!r}, {self.currency} {self.amount}, {self.status!r})"


def plain(value: Any) -> Any:
    """Replace every ``Decimal`` in ``value`` by a string of its digits, which JSON represents without loss."""
    if isinstance(value, Decimal):
        return format(value, "f") if abs(value.adjusted()) <= _MAX_DIGITS else str(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def _key_of(invoice_id: Any, raw: Mapping[str, Any]) -> InvoiceId:
    if type(invoice_id) is int or (isinstance(invoice_id, str) and invoice_id.strip()):
        return match_key(invoice_id)
    raise UnpodBadAnswer(
        f"A billing row has no usable id: `id` must be an integer or `invoice_number` a non-empty string, "
        f"got {short_repr(invoice_id)} in a row with the fields {short_repr(sorted(map(str, raw)), 200)}."
    )


def _no_text(raw: Mapping[str, Any], name: str) -> NoReturn:
    raise UnpodBadAnswer(
        f"Invoice {short_repr(raw.get('id', raw.get('invoice_number')))}: `{name}` must be a non-empty string, "
        f"got {short_repr(raw.get(name))}."
    )


def _bad_value(invoice: Invoice, name: str, wanted: str) -> UnpodBadAnswer:
    value = short_repr(invoice.raw.get(name))
    return UnpodBadAnswer(f"Invoice {short_repr(invoice.invoice_id)}: `{name}` must be {wanted}, got {value}.")


def _money(value: Any, name: str, invoice: Invoice) -> Decimal:
    try:
        if type(value) is int or (isinstance(value, str) and value.isascii() and "_" not in value):
            amount = Decimal(value)
        elif isinstance(value, Decimal):
            amount = value
        else:
            raise InvalidOperation
        exponent = amount.as_tuple().exponent  # a letter for NaN and infinity, which are not amounts
        if not isinstance(exponent, int) or max(abs(exponent), abs(amount.adjusted())) > _MAX_DIGITS:
            raise InvalidOperation
    except (InvalidOperation, ValueError):
        raise _bad_value(invoice, name, "a decimal amount") from None
    return amount


def _moment(invoice: Invoice, name: str) -> datetime | None:
    value = invoice.raw.get(name)
    if value is None or value == "":
        return None
    try:
        if type(value) is str:
            return parse_moment(value)
    except ValueError:
        pass
    raise _bad_value(invoice, name, "an ISO 8601 date such as 2026-02-01T00:00:00Z")
