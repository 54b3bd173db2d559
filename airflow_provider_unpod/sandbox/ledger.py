"""The made-up invoices of one organization, in the order of the API's list.

It does not use HTTP, so property tests can use it directly. All methods are thread-safe.
"""

from __future__ import annotations

import json
import random
import threading
from datetime import date, datetime, time, timedelta, timezone
from decimal import ROUND_HALF_UP, Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Order: TypeAlias = Literal["newest", "oldest", "shuffled"]
Dialect: TypeAlias = Literal["results", "data"]

#: Id from the published example. In a new ledger, it is the oldest invoice and pending.
FIRST_ID: Final = 101
#: Period of the invoices in a new ledger, up to today.
PERIOD: Final = timedelta(days=180)
PAYMENT_TERM: Final = timedelta(days=7)
TAX_RATE: Final = Decimal("0.18")

#: Currency -> (weight, decimal places, typical amount in minor units).
CURRENCIES: Final[Mapping[str, tuple[int, int, int]]] = MappingProxyType(
    {
        "USD": (40, 2, 29_900),
        "INR": (30, 2, 1_150_06),
        "EUR": (15, 2, 24_900),
        "JPY": (8, 0, 39_800),
        "KWD": (7, 3, 89_500),
    }
)
STATUSES: Final[Mapping[str, int]] = MappingProxyType(
    {"paid": 78, "pending": 15, "failed": 4, "refunded": 2, "cancelled": 1}
)
#: One encoder for all rows, because creating one costs more than encoding a row.
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
CHARGE_TYPES: Final = ("subscription", "usage", "one_time")


class UnknownInvoice(LookupError):
    """The ledger has no invoice with this id."""

    def __init__(self, invoice_id: object) -> None:
        super().__init__(f"Invoice {invoice_id} does not exist in this ledger.")


class LedgerInvoice(NamedTuple):
    """One invoice. Amounts are decimal strings, as in the API. Dates are aware, in UTC."""

    id: int
    amount: str
    tax_amount: str
    currency: str
    status: str
    charge_type: str
    invoice_date: datetime
    payment_at: datetime | None
    #: Further fields of the row, which the API does not document.
    extra: Mapping[str, Any]

    @property
    def number(self) -> str:
        """The ``invoice_number`` of the older dialect, e.g. ``INV-00101``."""
        return f"INV-{self.id:05d}"

    def row(self, dialect: Dialect) -> dict[str, Any]:
        """Return the invoice as a row of the API."""
        if dialect == "results":
            row: dict[str, Any] = {
                "id": self.id,
                "amount": self.amount,
                "currency": self.currency,
                "status": self.status,
                "invoice_date": _iso(self.invoice_date, "seconds"),
            }
        else:
            row = {
                "invoice_number": self.number,
                "amount": self.amount,
                "tax_amount": self.tax_amount,
                "currency": self.currency,
                "status": self.status,
                "charge_type": self.charge_type,
                "invoice_date": _iso(self.invoice_date, "microseconds"),
                "due_date": _iso(self.invoice_date + PAYMENT_TERM, "microseconds"),
                "payment_at": self.payment_at and _iso(self.payment_at, "microseconds"),
            }
        row.update(self.extra)
        return row


class Ledger:
    """A mutable list of invoices. The initial invoices are deterministic.

    :param invoices: number of initial invoices.
    :param seed: seed of amounts, statuses and dates. The same number, seed and ``today`` give the same invoices.
    :param order: ``newest`` or ``oldest`` first (by id, which increases with the date), or ``shuffled``: a fixed random
        order, in which a new invoice gets a random place.
    :param dialect: form of the rows. Both dialects are documented.
    :param today: the initial invoices are spread over the 180 days before this day (UTC). Default: the day of ``now``,
        so the previous month always has invoices.
    :param now: clock for all later changes.
    """

    def __init__(
        self,
        invoices: int = 250,
        *,
        seed: int = 0,
        order: Order = "newest",
        dialect: Dialect = "results",
        today: date | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        if invoices < 0:
            raise ValueError(f"invoices must be at least 0, got {invoices}")
        self.order: Order = order
        self.dialect: Dialect = dialect
        self._now = now
        self._random = random.Random(seed)  # noqa: S311 - a run must be repeatable; nothing is secret here
        self._lock = threading.RLock()
        # Rows are stored encoded, so that a page needs only one join.
        self._order: list[int] = []
        self._invoices: dict[int, LedgerInvoice] = {}
        self._encoded: dict[int, bytes] = {}
        self._last_date = datetime.combine(today or now().astimezone(timezone.utc), time(), timezone.utc)
        for invoice in _first_invoices(invoices, self._random, self._last_date - PERIOD):
            self._store(invoice)
            self._order.append(invoice.id)
        if order == "newest":
            self._order.reverse()
        elif order == "shuffled":
            self._random.shuffle(self._order)
        self._last_id = FIRST_ID + invoices - 1

    # Reading

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, invoice_id: int | str) -> bool:
        return parse_id(invoice_id) in self._invoices

    def get(self, invoice_id: int | str) -> LedgerInvoice:
        """Return the invoice with this id.

        :raises UnknownInvoice: if it does not exist. All methods that take an id may raise this.
        """
        try:
            return self._invoices[parse_id(invoice_id)]
        except (KeyError, ValueError):
            raise UnknownInvoice(invoice_id) from None

    def ids(self) -> list[int]:
        """Return all ids in list order."""
        with self._lock:
            return list(self._order)

    def invoices(self) -> list[LedgerInvoice]:
        """Return all invoices in list order."""
        with self._lock:
            return [self._invoices[invoice_id] for invoice_id in self._order]

    def page(self, page: int, page_size: int) -> list[dict[str, Any]]:
        """Return the rows of a page, counted from 1. Empty past the end."""
        with self._lock:
            return [self._invoices[invoice_id].row(self.dialect) for invoice_id in self._window(page, page_size)]

    def page_json(self, page: int, page_size: int) -> tuple[bytes, int]:
        """Return the rows of a page as a JSON array, and the length of the list at the same time."""
        with self._lock:
            encoded = self._encoded
            rows = [encoded[invoice_id] for invoice_id in self._window(page, page_size)]
            return b"[" + b",".join(rows) + b"]", len(self._order)

    def _window(self, page: int, page_size: int) -> list[int]:
        return self._order[(page - 1) * page_size : page * page_size]

    # Changing

    def create(
        self,
        amount: str | Decimal | int = "299.00",
        currency: str = "USD",
        status: str = "pending",
        *,
        invoice_id: int | None = None,
        position: int | None = None,
        invoice_date: datetime | None = None,
        charge_type: str = "subscription",
        extra: Mapping[str, Any] | None = None,
    ) -> LedgerInvoice:
        """Create an invoice. By default it gets the next id, the current time, and its place by the order of the list.

        :param invoice_id: id of the invoice, to simulate a list out of order.
        :param position: place in the list, counted from 0, for the same purpose.
        :raises ValueError: if the amount is not a decimal number, or the id already exists.
        """
        try:
            exact = Decimal(amount)
        except ArithmeticError:
            raise ValueError(f"amount must be a decimal number, got {amount!r}") from None
        if not exact.is_finite():
            raise ValueError(f"amount must be a decimal number, got {amount!r}")
        with self._lock:
            if invoice_id is None:
                invoice_id = self._last_id + 1
            elif invoice_id in self._invoices:
                raise ValueError(f"Invoice {invoice_id} already exists.")
            if invoice_date is None:
                # Dates must increase with the ids, even if the clock is behind the ledger's last date.
                invoice_date = self._last_date = max(self._now(), self._last_date + timedelta(seconds=1))
            invoice = LedgerInvoice(
                invoice_id,
                format(exact, "f"),
                _tax(exact),
                currency,
                status,
                charge_type,
                invoice_date,
                self._now() if status == "paid" else None,
                MappingProxyType(dict(extra or {})),
            )
            self._last_id = max(self._last_id, invoice_id)
            self._store(invoice)
            self._order.insert(self._place() if position is None else position, invoice_id)
            return invoice

    def pay(self, invoice_id: int | str) -> LedgerInvoice:
        """Mark an invoice as paid, now."""
        return self.set_status(invoice_id, "paid")

    def fail(self, invoice_id: int | str) -> LedgerInvoice:
        """Mark an invoice as failed."""
        return self.set_status(invoice_id, "failed")

    def refund(self, invoice_id: int | str) -> LedgerInvoice:
        """Mark an invoice as refunded. Its payment time is kept."""
        return self.set_status(invoice_id, "refunded")

    def cancel(self, invoice_id: int | str) -> LedgerInvoice:
        """Mark an invoice as cancelled."""
        return self.set_status(invoice_id, "cancelled")

    def set_status(self, invoice_id: int | str, status: str) -> LedgerInvoice:
        """Set any status, including unknown ones."""
        with self._lock:
            invoice = self.get(invoice_id)
            if status == "paid":
                payment_at: datetime | None = self._now()
            else:
                payment_at = invoice.payment_at if status == "refunded" else None
            invoice = invoice._replace(status=status, payment_at=payment_at)
            self._store(invoice)
            return invoice

    def delete(self, invoice_id: int | str) -> LedgerInvoice:
        """Delete an invoice. All invoices after it move forward by one place."""
        with self._lock:
            return self.delete_at(self._order.index(self.get(invoice_id).id))

    def delete_at(self, position: int) -> LedgerInvoice:
        """Delete the invoice at a place of the list, counted from 0.

        :raises IndexError: if the list is shorter.
        """
        with self._lock:
            invoice_id = self._order.pop(position)
            del self._encoded[invoice_id]
            return self._invoices.pop(invoice_id)

    def delete_random(self) -> LedgerInvoice:
        """Delete a random invoice. The same seed and history give the same invoice.

        :raises IndexError: if the list is empty.
        """
        with self._lock:
            if not self._order:
                raise IndexError("the ledger is empty")
            return self.delete_at(self._random.randrange(len(self._order)))

    def _store(self, invoice: LedgerInvoice) -> None:
        self._invoices[invoice.id] = invoice
        self._encoded[invoice.id] = _encode(invoice.row(self.dialect)).encode()

    def _place(self) -> int:
        if self.order == "newest":
            return 0
        return len(self._order) if self.order == "oldest" else self._random.randint(0, len(self._order))


def parse_id(invoice_id: int | str) -> int:
    """Parse an id: ``101``, ``"101"`` and ``"INV-00101"`` all give ``101``.

    :raises ValueError: for anything else.
    """
    return int(invoice_id.removeprefix("INV-")) if isinstance(invoice_id, str) else invoice_id


def _first_invoices(number: int, random_: random.Random, begin: datetime) -> Iterator[LedgerInvoice]:
    """Yield ``number`` invoices, oldest first, spread over the period that starts at ``begin``."""
    nothing: Mapping[str, Any] = MappingProxyType({})
    currencies = random_.choices(list(CURRENCIES), [weight for weight, _, _ in CURRENCIES.values()], k=number)
    statuses = random_.choices(list(STATUSES), list(STATUSES.values()), k=number)
    charge_types = random_.choices(CHARGE_TYPES, (70, 25, 5), k=number)
    step = PERIOD / max(number, 1)
    for i in range(number):
        currency, status = currencies[i], statuses[i]
        _, places, typical = CURRENCIES[currency]
        amount = Decimal(1 + int(typical * random_.lognormvariate(0, 1))).scaleb(-places)
        if i == 0:
            # The invoice from the published example, which newcomers pay.
            currency, status, amount = "USD", "pending", Decimal("299.00")
        invoice_date = begin + step * (i + random_.random() * 0.9)
        paid_at = invoice_date + PAYMENT_TERM * random_.random() if status in ("paid", "refunded") else None
        yield LedgerInvoice(
            FIRST_ID + i,
            format(amount, "f"),
            _tax(amount),
            currency,
            status,
            charge_types[i],
            invoice_date,
            paid_at,
            nothing,
        )


def _tax(amount: Decimal) -> str:
    """Return the tax on ``amount``, with the same number of decimal places."""
    exponent = amount.as_tuple().exponent
    unit = Decimal(1).scaleb(exponent if isinstance(exponent, int) and exponent < 0 else 0)
    return format((amount * TAX_RATE).quantize(unit, ROUND_HALF_UP), "f")


def _iso(time: datetime, precision: str) -> str:
    return time.astimezone(timezone.utc).replace(tzinfo=None).isoformat(timespec=precision) + "Z"
