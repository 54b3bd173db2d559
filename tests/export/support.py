"""Helpers for the tests of exports: invoices, and a read that ends with evidence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.billing.invoice import Invoice
from airflow_provider_unpod.export import write_export

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_unpod.export.writer import Written

EVIDENCE = {"consistency": "linked", "requests": 1, "windows": 1, "order": "by id", "end": "short"}


class FakeEvidence:
    def as_dict(self) -> dict[str, Any]:
        return EVIDENCE


class FakeReading(Iterator[Invoice]):
    """An iterator over rows, like a read of the API, with ``evidence`` after the end."""

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        self._rows = iter(rows)
        self._ended = False

    def __next__(self) -> Invoice:
        try:
            return Invoice(next(self._rows))
        except StopIteration:
            self._ended = True
            raise

    def __enter__(self) -> FakeReading:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    @property
    def evidence(self) -> FakeEvidence:
        if not self._ended:
            raise RuntimeError("The list has not been read to its end.")
        return FakeEvidence()


def row(number: int, **fields: Any) -> dict[str, Any]:
    """A row of the documented dialect."""
    return {
        "id": number,
        "amount": f"{number % 977}.{number % 100:02d}",
        "currency": ("USD", "INR", "EUR")[number % 3],
        "status": ("paid", "pending", "failed")[number % 3],
        "invoice_date": f"2026-{number % 12 + 1:02d}-01T00:00:00Z",
    } | fields


def rows(count: int) -> Iterator[dict[str, Any]]:
    return (row(number) for number in range(1, count + 1))


def records(found: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [Invoice(each).as_record() for each in found]


def new_export(invoices: Any, address: str, **arguments: Any) -> Written:
    """Write an export that must not be empty."""
    written = write_export(invoices, address, **arguments)
    assert written is not None
    return written


def names_in(folder: Path) -> list[str]:
    """List all files below a folder, including hidden ones."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
