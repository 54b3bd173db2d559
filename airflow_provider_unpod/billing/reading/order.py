"""What the rows themselves say about the order of the list.

The API documents no order. Linked windows need only that the order is *fixed*; rows that are in the order of their
ids, or of their dates, are the best evidence of that which a reader can have.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from airflow_provider_unpod.billing.errors import UnpodBadAnswer

if TYPE_CHECKING:
    from datetime import datetime

    from airflow_provider_unpod.billing.invoice import Invoice, InvoiceId

_Direction: TypeAlias = Callable[[Any, Any], bool]
_RISING: _Direction = operator.lt
_FALLING: _Direction = operator.gt
_TRAILING_NUMBER = re.compile(r"(.*?)(\d{1,600})", re.ASCII | re.DOTALL).fullmatch

BY_ID, BY_DATE, ASSUMED = "by id", "by date", "assumed"


def rank(key: InvoiceId) -> tuple[str, int, str]:
    """A sort key for ids: numbers by value, texts by what precedes their trailing number, then by that number."""
    if isinstance(key, int):
        return ("", key, "")
    match = _TRAILING_NUMBER(key)
    return (match[1], int(match[2]), key) if match else (key, -1, key)


def direction_of(keys: Sequence[InvoiceId]) -> _Direction | None:
    """The direction in which all ``keys`` follow each other strictly; ``None`` where there is none."""
    values: Sequence[Any] = keys if _all_integers(keys) else [rank(key) for key in keys]
    return next((way for way in (_RISING, _FALLING) if all(map(way, values, values[1:]))), None)


def _all_integers(keys: Sequence[InvoiceId]) -> bool:
    return set(map(type, keys)) == {int}


def _readable_date(invoice: Invoice) -> datetime | None:
    """The date; ``None`` also where it is invalid, which is not an error here: only the order is asked for."""
    try:
        return invoice.invoice_date
    except UnpodBadAnswer:
        return None


class OrderWitness:
    """Observes every response and says what order all of them have in common.

    ``ties`` is set where the list goes by date but equal dates are in no order of ids: databases break such ties
    differently for different ``LIMIT``/``OFFSET``, so windows of varying size may then not be compared.
    """

    def __init__(self) -> None:
        self._by_id: set[_Direction] = {_RISING, _FALLING}
        self._by_date: set[tuple[_Direction, _Direction]] = {
            (dates, ids) for dates in (_RISING, _FALLING) for ids in (_RISING, _FALLING)
        }
        self._dates: set[_Direction] = {_RISING, _FALLING}
        self._skipped_dates = False

    def observe(self, invoices: Sequence[Invoice]) -> None:
        """Take the rows of one response, in their order, into account."""
        if len(invoices) < 2:
            return
        if self._by_id:
            found = direction_of([invoice.key for invoice in invoices])
            self._by_id &= {found} if found else set()
            if self._by_id:
                self._skipped_dates = True  # parsing dates costs, and ids are the better evidence
                return
        if self._dates:
            self._observe_dates(invoices)

    def _observe_dates(self, invoices: Sequence[Invoice]) -> None:
        dates = [_readable_date(invoice) for invoice in invoices]
        if None in dates:
            self._dates.clear()
            self._by_date.clear()
            return
        steps = list(zip(invoices, invoices[1:], dates, dates[1:], strict=False))
        for way in list(self._dates):
            if not all(before == after or way(before, after) for _, _, before, after in steps):
                self._dates.discard(way)
        tied = [(rank(one.key), rank(other.key)) for one, other, before, after in steps if before == after]
        ids = {way for way in (_RISING, _FALLING) if all(way(one, other) for one, other in tied)}
        self._by_date = {(dates, way) for dates, way in self._by_date if dates in self._dates and way in ids}

    @property
    def ties(self) -> bool:
        return not self._by_id and bool(self._dates) and not self._by_date

    @property
    def order(self) -> str:
        """``"by id"``, ``"by date"`` (ties by id) or ``"assumed"``."""
        if self._by_id:
            return BY_ID
        return BY_DATE if self._by_date and not self._skipped_dates else ASSUMED
