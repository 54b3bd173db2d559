"""Control totals: exact counts and amounts by currency and status."""

from __future__ import annotations

from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from typing import Any

from airflow_provider_unpod.billing.invoice import currency_code, status_key

# The default context silently rounds sums to 28 digits. Amounts have at most about 120 digits (see ``Invoice``), so
# this context never rounds. If it had to, it would raise an error.
EXACT = Context(prec=250, traps=[Inexact, InvalidOperation, Overflow])


class Totals:
    """Adds up invoices by currency and status."""

    __slots__ = ("_cells",)

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str], list[Any]] = {}

    def add(self, currency: str, status: str, amount: Decimal) -> None:
        """Add one invoice. ``"usd "`` and ``"USD"`` are one currency, ``"Paid"`` and ``"paid"`` one status."""
        key = currency_code(currency), status_key(status)
        cell = self._cells.get(key)
        if cell is None:
            self._cells[key] = [1, amount]
        else:
            cell[0] += 1
            cell[1] = EXACT.add(cell[1], amount)

    @property
    def count(self) -> int:
        """The number of invoices added."""
        return sum(cell[0] for cell in self._cells.values())

    def as_dict(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return ``{currency: {status: {"count": n, "amount": "…"}}}``, sorted, with amounts as decimal strings."""
        totals: dict[str, dict[str, dict[str, Any]]] = {}
        for (currency, status), (count, amount) in sorted(self._cells.items()):
            totals.setdefault(currency, {})[status] = {"count": count, "amount": format(amount, "f")}
        return totals
