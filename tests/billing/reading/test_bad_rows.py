"""One error names all invalid rows, at the cost of at most one more read."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_unpod.billing.client import UnpodClient
from airflow_provider_unpod.billing.errors import UnpodBadAnswer, UnpodBadRows
from airflow_provider_unpod.billing.invoice import Invoice
from airflow_provider_unpod.billing.reading.bad_rows import all_named, valid
from airflow_provider_unpod.billing.reading.reading import read_list
from airflow_provider_unpod.export import write_export
from airflow_provider_unpod.export.options import ExportOptions
from tests.billing.faulty_server import FaultyServer, list_of, row
from tests.export.support import FakeReading, names_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def bad_rows_of() -> Iterator[Any]:
    """Return the errors of a read, for a list in which the rows with these ids are invalid."""
    servers = []

    def find(
        total: int, broken: dict[int, dict[str, Any]], consistency: str = "single-pass"
    ) -> tuple[UnpodBadRows, UnpodBadRows, FaultyServer]:
        """Without a ``count``, a linked read falls back to whole passes: ``consistency="repeated"``."""
        rows = [row(number, **broken.get(number, {})) for number in range(1, total + 1)]
        server = list_of(rows, counted=consistency != "repeated")
        servers.append(server.__enter__())
        level = "linked" if consistency == "repeated" else consistency
        with UnpodClient(server.url, "acme", "token") as client:
            with pytest.raises(UnpodBadRows) as first:
                list(read_list(client, consistency=level))
            with pytest.raises(UnpodBadRows) as every, all_named(client):
                list(read_list(client, consistency=level))
        return first.value, every.value, server

    yield find
    for server in servers:
        server.__exit__(None, None, None)


@pytest.mark.parametrize("consistency", ["linked", "repeated", "single-pass"])
def test_a_page_names_all_of_its_bad_rows_and_the_list_all_of_its_pages(bad_rows_of: Any, consistency: str) -> None:
    broken = {5: {"amount": "twelve"}, 7: {"currency": None}, 350: {"status": ""}}
    first, every, _ = bad_rows_of(400, broken, consistency)

    assert str(first).startswith("2 billing rows are invalid:\nInvoice 5: `amount` must be")
    assert [text.partition(":")[0] for text in every.rows] == ["Invoice 5", "Invoice 7", "Invoice 350"]
    assert ["`amount`" in every.rows[0], "`currency`" in every.rows[1], "`status`" in every.rows[2]] == [True] * 3


def test_a_single_bad_row_is_a_single_sentence(bad_rows_of: Any) -> None:
    _, every, _ = bad_rows_of(200, {150: {"amount": None}})

    assert str(every) == "Invoice 150: `amount` must be a decimal amount, got None."
    assert every.rows == (str(every),)


@pytest.mark.parametrize("number", [20, 21, 3000])
def test_at_most_twenty_bad_rows_are_named_and_then_no_more_pages_are_read(bad_rows_of: Any, number: int) -> None:
    _, every, server = bad_rows_of(3000, {n: {"amount": None} for n in range(1, number + 1)})

    assert len(every.rows) == 20
    assert str(every).startswith("At least 20 billing rows")
    assert len(server.requests) <= 5


def test_a_bad_row_far_back_costs_at_most_100_requests_to_find_others(bad_rows_of: Any) -> None:
    first, every, server = bad_rows_of(10_200, {10_150: {"amount": None}})

    assert every.rows == first.rows
    assert len(server.requests) <= 2 * 110 + 100


def test_the_error_keeps_its_rows_when_it_is_pickled() -> None:
    error = pickle.loads(pickle.dumps(UnpodBadRows.of(["One.", "Two."])))

    assert isinstance(error, UnpodBadAnswer)
    assert isinstance(error, UnpodBadRows)
    assert error.rows == ("One.", "Two.")


def test_the_read_continues_after_an_invalid_invoice() -> None:
    rows = [row(n, tax_amount="none" if n % 3 == 0 else "1.00") for n in range(1, 11)]
    found: list[Invoice] = []

    with pytest.raises(UnpodBadRows, match="3 billing rows") as caught:
        found.extend(valid(map(Invoice, rows), Invoice.as_record))
    assert [text.partition(":")[0] for text in caught.value.rows] == ["Invoice 3", "Invoice 6", "Invoice 9"]


@pytest.mark.parametrize(
    ("field", "options"), [("tax_amount", {}), ("invoice_date", {"partition_by": ("month",)})], ids=["tax", "date"]
)
@pytest.mark.parametrize("mode", ["full", "changes"])
def test_an_export_names_all_invoices_that_it_cannot_write(
    tmp_path: Path, field: str, options: dict[str, Any], mode: str
) -> None:
    reading = FakeReading(row(n, **({field: "nonsense"} if n in (2, 40) else {})) for n in range(1, 101))

    with pytest.raises(UnpodBadRows, match=f"Invoice 2: `{field}`.*\n.*Invoice 40: `{field}`"):
        write_export(reading, str(tmp_path), options=ExportOptions(export_mode=mode, **options))
    assert names_in(tmp_path) == []
