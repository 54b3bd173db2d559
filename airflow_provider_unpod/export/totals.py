"""Control totals: how many invoices and how much money, per currency and status, exact to the last digit."""

from __future__ import annotations

from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from typing import Any

from airflow_provider_unpod.billing.invoice import currency_code, status_key

# The default context rounds sums to 28 digits without a word. Amounts have at most some 120 digits (see
# ``Invoice``), so nothing is ever rounded here; should that change, it is an error and not a wrong sum.
EXACT = Context(prec=250, traps=[Inexact, InvalidOperation, Overflow])


class Totals:
    """Sums that never mix currencies."""

    __slots__ = ("_cells",)

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str], list[Any]] = {}

    def add(self, currency: str, status: str, amount: Decimal) -> None:
        """Count one invoice; ``"usd "`` and ``"USD"``, ``"Paid"`` and ``"paid"`` are added up together."""
        key = currency_code(currency), status_key(status)
        cell = self._cells.get(key)
        if cell is None:
            self._cells[key] = [1, amount]
        else:
            cell[0] += 1
            cell[1] = EXACT.add(cell[1], amount)

    @property
    def count(self) -> int:
        """Invoices counted."""
        return sum(cell[0] for cell in self._cells.values())

    def as_dict(self) -> dict[str, dict[str, dict[str, Any]]]:
        """``{currency: {status: {"count": n, "amount": "…"}}}``, sorted, amounts as decimal strings."""
        totals: dict[str, dict[str, dict[str, Any]]] = {}
        for (currency, status), (count, amount) in sorted(self._cells.items()):
            totals.setdefault(currency, {})[status] = {"count": count, "amount": format(amount, "f")}
        return totals
