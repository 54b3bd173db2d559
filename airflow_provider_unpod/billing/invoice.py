"""One invoice: its identity, its money, its status and its dates, read from either dialect of the API.

Fields and dialects: the published page of the billing endpoint gives ``id``, ``amount``, ``currency``,
``status`` and ``invoice_date``; older pages of the same endpoint give ``invoice_number``, ``tax_amount``,
``due_date`` and ``payment_at`` as well.
"""

from __future__ import annotations

import re
import sys
from datetime import datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import pendulum

from airflow_provider_unpod.billing.errors import UnpodBadAnswer, short_repr

if TYPE_CHECKING:
    from collections.abc import Mapping

InvoiceId: TypeAlias = int | str

#: What the API documents (first three) and what Unpod's backend knows besides.
PAID, PENDING, FAILED, CANCELLED, REFUNDED = "paid", "pending", "failed", "cancelled", "refunded"
KNOWN_STATUSES = frozenset({PAID, PENDING, FAILED, CANCELLED, REFUNDED})
#: Statuses that seldom change again. Only the *cost* of looking depends on it, never a result.
SETTLED_STATUSES = KNOWN_STATUSES - {PENDING}

#: Unpod's invoices fall due this long after their date (backend); used where a row has no ``due_date``.
PAYMENT_TERM = timedelta(days=7)

#: ``Decimal("1e999999999")`` is a valid Decimal whose digits would fill the memory when written out.
_MAX_DIGITS = 60
_PLAIN_DECIMAL = re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{1,40})?").fullmatch
_NESTING = {Decimal, dict, list}  # types that may hold what JSON can't take as it is
_MONEY_FIELDS = ("amount", "tax_amount")
#: Values that JSON holds as they are. Lists and objects are not among them: a ``Decimal`` may stand inside.
_FLAT_TYPES = frozenset({str, int, bool, type(None)})


def match_key(invoice_id: InvoiceId) -> InvoiceId:
    """The form in which ids are compared: ``101``, ``"101"`` and ``" 101 "`` are one invoice, ``"007"`` is not 7."""
    if type(invoice_id) is int:
        return invoice_id
    text = str(invoice_id).strip()
    if text.isdecimal() and text.isascii() and len(text) <= 18 and (text[0] != "0" or text == "0"):
        return int(text)
    return text


class Invoice:
    """One row of the billing list. Immutable by convention; equal when the rows are equal.

    ``invoice_id`` is the row's ``id``, or its ``invoice_number`` where it has no ``id``, as it came.
    ``amount`` is exact. ``raw`` is the row as the API sent it (JSON numbers with a fraction as ``Decimal``).
    """

    __slots__ = ("amount", "currency", "invoice_id", "key", "raw", "status")

    def __init__(self, raw: Mapping[str, Any]) -> None:
        """:raises UnpodBadAnswer: if the row has no usable id, amount, currency or status."""
        self.raw = raw
        invoice_id: Any = raw.get("id")
        if invoice_id is None:
            invoice_id = raw.get("invoice_number")
        # What follows runs once for every row of every page: the common case comes first, and calls nothing of ours.
        self.key: InvoiceId = invoice_id if type(invoice_id) is int else _string_key(invoice_id, raw)
        self.invoice_id: InvoiceId = invoice_id
        amount: Any = raw.get("amount")
        currency, status = raw.get("currency"), raw.get("status")
        usual = type(amount) is str and _PLAIN_DECIMAL(amount)
        self.amount: Decimal = Decimal(amount) if usual else _money(amount, "amount", self)
        self.currency: str = currency if type(currency) is str and currency else _no_text(raw, "currency")
        self.status: str = status if type(status) is str and status else _no_text(raw, "status")

    @property
    def tax_amount(self) -> Decimal | None:
        """Tax in ``currency``, ``None`` where the API gives none."""
        value = self.raw.get("tax_amount")
        return None if value is None else _money(value, "tax_amount", self)

    @property
    def invoice_date(self) -> datetime | None:
        """When the invoice was made, aware, UTC.

        :raises UnpodBadAnswer: if the row holds something that is no ISO 8601 date; so do the other dates.
        """
        return _moment(self, "invoice_date")

    @property
    def due_date(self) -> datetime | None:
        """When payment is due as the API says it, aware, UTC; ``None`` where it says nothing."""
        return _moment(self, "due_date")

    @property
    def payment_at(self) -> datetime | None:
        """When it was paid, aware, UTC; ``None`` where the API has no such moment."""
        return _moment(self, "payment_at")

    @property
    def expected_payment_by(self) -> datetime | None:
        """``due_date``, or the invoice's date plus Unpod's payment term of seven days."""
        due = self.due_date
        if due is None and (date := self.invoice_date) is not None:
            due = date + PAYMENT_TERM
        return due

    def answers_to(self, key: InvoiceId) -> bool:
        """Whether ``key`` (a :func:`match_key`) names this invoice, by its id or by its invoice number.

        A number of digits is never taken for the name of an invoice that has an id: it may be the id of another one.
        """
        if type(key) is int or self.key == key:
            return self.key == key
        number = self.raw.get("invoice_number")
        return isinstance(number, (int, str)) and match_key(number) == key

    def as_record(self) -> dict[str, Any]:
        """The row with its own field names, ready for JSON: money as decimal strings, nothing rescaled.

        :raises UnpodBadAnswer: if its ``tax_amount`` is no decimal.
        """
        raw = self.raw
        flat = _FLAT_TYPES.issuperset(map(type, raw.values()))
        record = dict(raw) if flat else {name: plain(value) for name, value in raw.items()}
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
    """``value`` with every ``Decimal`` in it as a string of its digits: what JSON can hold without loss."""
    if isinstance(value, Decimal):
        return format(value, "f") if abs(value.adjusted()) <= _MAX_DIGITS else str(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def parse_moment(value: str) -> datetime:
    """An ISO 8601 text as an aware moment in UTC; a naive one is UTC.

    :raises ValueError: if it is no such text.
    """
    text = value.strip()
    if sys.version_info < (3, 11) and text.endswith("Z"):
        text = text[:-1] + "+00:00"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        parsed = pendulum.parse(text, strict=True)
        if not isinstance(parsed, datetime):
            raise ValueError(f"{value!r} is no date") from None
        moment = datetime.fromisoformat(parsed.isoformat())
    if moment.tzinfo is None:
        return moment.replace(tzinfo=timezone.utc)
    return moment.astimezone(timezone.utc)


def _string_key(invoice_id: Any, raw: Mapping[str, Any]) -> InvoiceId:
    if isinstance(invoice_id, str) and invoice_id.strip():
        return match_key(invoice_id)
    raise UnpodBadAnswer(
        f"A billing row has no usable id: expected an integer `id` or a text `invoice_number`, "
        f"got {short_repr(invoice_id)} in a row with the fields {short_repr(sorted(map(str, raw)), 200)}."
    )


def _no_text(raw: Mapping[str, Any], name: str) -> NoReturn:
    raise UnpodBadAnswer(
        f"Invoice {short_repr(raw.get('id', raw.get('invoice_number')))} has no usable `{name}`: "
        f"expected a text, got {short_repr(raw.get(name))}."
    )


def _money(value: Any, name: str, invoice: Invoice) -> Decimal:
    try:
        if type(value) is int or (isinstance(value, str) and value.isascii() and "_" not in value):
            amount = Decimal(value)
        elif isinstance(value, Decimal):
            amount = value
        else:
            raise InvalidOperation
        exponent = amount.as_tuple().exponent  # a letter for NaN and the infinities: no place in money
        if not isinstance(exponent, int) or max(abs(exponent), abs(amount.adjusted())) > _MAX_DIGITS:
            raise InvalidOperation
    except (InvalidOperation, ValueError):
        raise UnpodBadAnswer(
            f"Invoice {short_repr(invoice.invoice_id)} has an `{name}` that is no decimal amount: {short_repr(value)}."
        ) from None
    return amount


def _moment(invoice: Invoice, name: str) -> datetime | None:
    value = invoice.raw.get(name)
    if value is None or value == "":
        return None
    try:
        if type(value) is str:
            return parse_moment(value)
    except (ValueError, OverflowError):
        pass
    raise UnpodBadAnswer(
        f"Invoice {short_repr(invoice.invoice_id)} has a `{name}` that is no ISO 8601 date: {short_repr(value)}."
    )
