"""Detects the order of the list from its rows.

The API does not document an order. Linked windows only need a *fixed* order. The best evidence of a fixed order is that
the rows are sorted by id or by date.
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
    """Return a sort key for an id: an integer by value, a string by its prefix and then by its trailing number."""
    if isinstance(key, int):
        return ("", key, "")
    match = _TRAILING_NUMBER(key)
    return (match[1], int(match[2]), key) if match else (key, -1, key)


def direction_of(keys: Sequence[InvoiceId]) -> _Direction | None:
    """Return whether ``keys`` are strictly rising or strictly falling. ``None`` if they are neither."""
    values: Sequence[Any] = keys if _all_integers(keys) else [rank(key) for key in keys]
    return next((way for way in (_RISING, _FALLING) if all(map(way, values, values[1:]))), None)


def _all_integers(keys: Sequence[InvoiceId]) -> bool:
    return set(map(type, keys)) == {int}


def _readable_date(invoice: Invoice) -> datetime | None:
    """Return the date. ``None`` if it is missing or invalid, which is not an error when only the order matters."""
    try:
        return invoice.invoice_date
    except UnpodBadAnswer:
        return None


class OrderWitness:
    """Observes all responses and determines the order that they have in common.

    ``ties`` is true if the list is sorted by date but rows with the same date are not sorted by id. Databases order
    such ties differently for different ``LIMIT`` and ``OFFSET``, so windows of different sizes cannot be compared.
    """

    def __init__(self) -> None:
        self._by_id: set[_Direction] = {_RISING, _FALLING}
        self._by_date: set[tuple[_Direction, _Direction]] = {
            (dates, ids) for dates in (_RISING, _FALLING) for ids in (_RISING, _FALLING)
        }
        self._dates: set[_Direction] = {_RISING, _FALLING}
        self._skipped_dates = False

    def observe(self, invoices: Sequence[Invoice]) -> None:
        """Take the rows of one response into account."""
        if len(invoices) < 2:
            return
        if self._by_id:
            found = direction_of([invoice.key for invoice in invoices])
            self._by_id &= {found} if found else set()
            if self._by_id:
                self._skipped_dates = True  # parsing dates takes time, and ids are the better evidence
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
