"""Every format returns exactly the written records, and other programs read the same values."""

from __future__ import annotations

import csv
import io
import json
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_unpod.export import read_export, write_export
from airflow_provider_unpod.export.errors import ExportRefused
from airflow_provider_unpod.export.formats import decode_lines
from airflow_provider_unpod.export.options import ExportOptions
from tests.export.support import FakeReading, names_in, new_export, records, row, rows
from tests.properties import examples

FORMATS = [("jsonl", None), ("jsonl", "gzip"), ("csv", None), ("csv", "zstd"), ("parquet", None), ("parquet", "zstd")]

MONEY = [
    row(1, amount="12345678901234567.89", currency="USD", status="paid"),
    row(2, amount="500", currency="JPY", status="paid"),
    row(3, amount="1.234", currency="KWD", status="paid"),
    row(4, amount="-5.00", currency="USD", status="refunded"),
    row(5, amount="0.10", currency="USD", status="paid", tax_amount=None),
]

texts = st.text(max_size=12) | st.sampled_from(
    ["=1+1", "+1", "-x", "@a", "'", "'=", "\t", "a,b", 'q"', "\r\n", "\x00", "\ud800", "\uff1dx"]
)
values = st.recursive(st.none() | st.booleans() | st.integers() | texts, lambda inner: st.lists(inner, max_size=2))
amounts = st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**14), max_value=10**14).map(str)
amounts |= st.sampled_from(["0", "-0.00", "1E+3", "+7.10", "007", " 5 "])
optional_fields = {
    "tax_amount": amounts | st.none(),
    "charge_type": texts | values,
    "invoice_date": st.none() | texts.filter(lambda t: t != "") | st.datetimes().map(lambda d: d.isoformat() + "Z"),
    "payment_at": st.none() | st.just("2026-01-04T00:00:15.045893+05:30") | values,
    # Names that we use ourselves: columns, partition keys, what records of changes have besides.
    **dict.fromkeys(["extra", "month", "old_status", "new_status", "Amount", "currency "], values),
    "Ω ": values,
}
some_rows = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.integers() | texts.filter(lambda text: text.strip() != ""),
            "amount": amounts,
            "currency": texts.filter(str.strip),
            "status": texts.filter(str.strip),
        },
        optional=optional_fields,
    ),
    max_size=6,
)
int64 = st.integers(-(2**63), 2**63 - 1)


@pytest.mark.parametrize(("file_format", "compression"), FORMATS)
@settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=some_rows, data=st.data())
def test_every_value_of_the_api_is_read_back_unchanged(
    tmp_path: Path, file_format: str, compression: str | None, found: list[dict[str, Any]], data: st.DataObject
) -> None:
    if file_format == "parquet":
        for each in found:
            each["id"] = data.draw(int64 | int64.map(str))
    write_export(FakeReading(found), str(tmp_path), options=ExportOptions(file_format, compression))

    assert list(read_export(str(tmp_path))) == records(found)


@pytest.mark.parametrize(("file_format", "compression"), FORMATS)
def test_columns_of_the_package_never_replace_fields_of_the_api(
    tmp_path: Path, file_format: str, compression: str | None
) -> None:
    theirs = {"month": "1999-01", "extra": {"extra": 1}, "old_status": "x", "new_status": None, "Status": "paid"}
    found = [row(1, **theirs), row(2)]
    options = ExportOptions(file_format, compression, ("month", "currency", "status"))
    write_export(FakeReading(found), str(tmp_path), options=options)

    assert sorted(read_export(str(tmp_path)), key=lambda record: record["id"]) == records(found)


@pytest.mark.parametrize(("file_format", "compression"), FORMATS)
def test_a_spelling_that_differs_from_the_path_is_read_back(
    tmp_path: Path, file_format: str, compression: str | None
) -> None:
    found = [row(1, currency=" usd", status="Paid"), row(2, currency="USD", status="paid")]
    options = ExportOptions(file_format, compression, ("currency", "status"))
    write_export(FakeReading(found), str(tmp_path), options=options)

    assert list(read_export(str(tmp_path))) == records(found)


@pytest.mark.parametrize(("file_format", "compression"), FORMATS)
def test_amounts_are_read_back_to_the_last_digit(tmp_path: Path, file_format: str, compression: str | None) -> None:
    write_export(FakeReading(MONEY), str(tmp_path), options=ExportOptions(file_format, compression))

    assert [record["amount"] for record in read_export(str(tmp_path))] == [each["amount"] for each in MONEY]


@pytest.mark.slow
@pytest.mark.parametrize(("file_format", "compression"), FORMATS)
def test_a_field_of_any_size_comes_back(tmp_path: Path, file_format: str, compression: str | None) -> None:
    text = 'a "quoted" line, and another\r\n' * 100_000
    found = [row(1), row(2, charge_type=text, note={"pdf": text}), row(3)]
    write_export(FakeReading(found), str(tmp_path), options=ExportOptions(file_format, compression))

    assert list(read_export(str(tmp_path))) == records(found)


@pytest.mark.parametrize("limit", [10, 10**9])
def test_the_csv_field_size_limit_of_the_process_neither_matters_nor_changes(tmp_path: Path, limit: int) -> None:
    before = csv.field_size_limit(limit)
    try:
        write_export(FakeReading(rows(30)), str(tmp_path), options=ExportOptions("csv"))
        assert list(read_export(str(tmp_path))) == records(rows(30))
        assert csv.field_size_limit() == limit
    finally:
        csv.field_size_limit(before)


@pytest.mark.parametrize(
    "unfit",
    [
        {"amount": "1" + "0" * 29},
        {"amount": "0.1234567891"},
        {"tax_amount": "-0.0000000001"},
        {"id": "INV-7"},
        {"id": "007"},
        {"id": 2**63},
    ],
    ids=repr,
)
def test_a_value_that_does_not_fit_parquet_is_refused_and_the_error_names_invoice_and_other_formats(
    tmp_path: Path, unfit: dict[str, Any]
) -> None:
    found = [row(1), row(2) | unfit]

    name = next(iter(unfit))
    with pytest.raises(ExportRefused, match=f"'jsonl' or 'csv'.* `{name}` of invoice {found[1]['id']!r} must be"):
        write_export(FakeReading(found), str(tmp_path), options=ExportOptions("parquet"))
    assert names_in(tmp_path) == []
    write_export(FakeReading(found), str(tmp_path), options=ExportOptions("csv"))
    assert list(read_export(str(tmp_path))) == records(found)


def test_amounts_at_the_limits_of_parquet_are_read_back(tmp_path: Path) -> None:
    amounts = ["9" * 29 + "." + "9" * 9, "-0." + "0" * 8 + "1", "1." + "0" * 12, "0" * 35 + ".5"]
    found = [row(number, amount=amount) for number, amount in enumerate(amounts)]
    write_export(FakeReading(found), str(tmp_path), options=ExportOptions("parquet"))

    assert list(read_export(str(tmp_path))) == records(found)


DAYS: dict[str, list[dict[str, Any]]] = {
    "1-empty": [],
    "2-yen": [row(1, amount="500", currency="JPY")],
    "3-dollars": [row(2, amount="20.48", currency="USD", status="paid"), row(3, amount="1.234", currency="KWD")],
    "4-other-dialect": [{"invoice_number": "INV-4", "amount": "7", "currency": "USD", "status": "paid"}],
}


def test_the_parquet_schema_does_not_depend_on_the_rows(tmp_path: Path) -> None:
    import duckdb
    from pyarrow import parquet

    schemas = []
    for day, found in DAYS.items():
        written = new_export(FakeReading(found), str(tmp_path / day), options=ExportOptions("parquet"))
        schemas.append(parquet.read_schema(tmp_path / day / written.manifest.files[0].path))

    assert all(schema.equals(schemas[0]) for schema in schemas)
    assert str(schemas[0].field("amount").type) == "decimal128(38, 9)"
    query = f"select currency, sum(amount) from read_parquet('{tmp_path}/*/*.parquet') group by all order by all"
    assert duckdb.execute(query).fetchall() == [
        ("JPY", Decimal(500)),
        ("KWD", Decimal("1.234")),
        ("USD", Decimal("27.48")),
    ]


def test_parquet_keeps_the_usual_digits_without_repeating_them(tmp_path: Path) -> None:
    from pyarrow import parquet

    found = [row(number) for number in range(98)] + [row(98, amount="500"), row(99, amount="1.234")]
    written = new_export(FakeReading(found), str(tmp_path), options=ExportOptions("parquet"))

    extra = parquet.read_table(tmp_path / written.manifest.files[0].path)["extra"].to_pylist()
    assert extra == [None] * 98 + ['{"amount":0}', '{"amount":3}']
    assert {column.name: column.scale for column in written.manifest.columns}["amount"] == 2


def totals_of(found: Any) -> dict[tuple[str, str], tuple[int, Decimal]]:
    totals: dict[tuple[str, str], tuple[int, Decimal]] = {}
    for currency, status, amount in found:
        count, total = totals.get((currency, status), (0, Decimal(0)))
        totals[currency, status] = count + 1, total + Decimal(amount)
    return totals


def control_totals(folder: Path) -> dict[tuple[str, str], tuple[int, Decimal]]:
    return {
        (currency, status): (cell["count"], Decimal(cell["amount"]))
        for currency, cells in read_export(str(folder)).totals.items()
        for status, cell in cells.items()
    }


COLUMNS = ["currency", "status", "amount"]


@pytest.mark.slow
@pytest.mark.parametrize("compression", [None, "gzip", "zstd"])
def test_parquet_of_two_currencies_with_other_digits_grows_by_five_percent_at_most(
    tmp_path: Path, compression: str | None
) -> None:
    """Nearly half of the invoices are in yen, which have no digits after the point."""

    def size(name: str, yen: str) -> int:
        chance = random.Random(1)
        found = []
        for number in range(1, 4_001):
            units, in_yen = chance.randrange(100, 10**6), chance.random() < 0.45
            amount = yen.format(units) if in_yen else f"{units / 100:.2f}"
            found.append(row(number, currency="JPY" if in_yen else "USD", amount=amount))
        options = ExportOptions("parquet", compression)
        new_export(FakeReading(found), str(tmp_path / name), options=options)
        assert list(read_export(tmp_path / name)) == records(found)
        return sum(path.stat().st_size for path in (tmp_path / name).glob("*.parquet"))

    assert size("different", "{}") <= 1.05 * size("alike", "{}.00")


@pytest.mark.parametrize("partition_by", [(), ("currency", "status", "month")])
def test_pyarrow_pandas_and_duckdb_agree_with_the_control_totals_of_parquet(
    tmp_path: Path, partition_by: tuple[str, ...]
) -> None:
    import duckdb
    import pandas
    from pyarrow import dataset, parquet

    found = [*rows(600), *({**each, "id": 1000 + each["id"]} for each in MONEY)]
    write_export(FakeReading(found), str(tmp_path), options=ExportOptions("parquet", "zstd", partition_by))
    truth = control_totals(tmp_path)

    by_arrow = dataset.dataset(str(tmp_path), partitioning="hive").to_table(COLUMNS).to_pylist()
    assert totals_of((r["currency"], r["status"], r["amount"]) for r in by_arrow) == truth
    by_reader = parquet.read_table(str(tmp_path)).to_pylist()
    assert totals_of((r["currency"], r["status"], r["amount"]) for r in by_reader) == truth
    frame = pandas.read_parquet(tmp_path)
    assert totals_of(zip(*(frame[name] for name in COLUMNS), strict=True)) == truth
    files = f"{tmp_path}/**/*.parquet"
    query = f"select {', '.join(COLUMNS)} from read_parquet('{files}', hive_partitioning=true)"
    assert totals_of(duckdb.execute(query).fetchall()) == truth


def test_csv_readers_pandas_and_duckdb_agree_with_the_control_totals_of_csv(tmp_path: Path) -> None:
    import duckdb
    import pandas

    found = [*rows(600), *({**each, "id": 1000 + each["id"]} for each in MONEY)]
    written = new_export(FakeReading(found), str(tmp_path), options=ExportOptions("csv")).summary()
    truth = control_totals(tmp_path)
    path = Path(written["files"][0].removeprefix("file://"))

    with path.open(newline="", encoding="utf-8") as file:
        assert totals_of(tuple(r[name] for name in COLUMNS) for r in csv.DictReader(file)) == truth
    frame = pandas.read_csv(path, dtype=str, keep_default_na=False)
    assert totals_of(zip(*(frame[name] for name in COLUMNS), strict=True)) == truth
    query = f"select {', '.join(COLUMNS)} from read_csv('{path}', all_varchar=true)"
    assert totals_of(duckdb.execute(query).fetchall()) == truth


def test_pandas_and_duckdb_agree_with_the_control_totals_of_json_lines(tmp_path: Path) -> None:
    import duckdb
    import pandas

    found = [*rows(600), *({**each, "id": 1000 + each["id"]} for each in MONEY)]
    written = new_export(FakeReading(found), str(tmp_path), options=ExportOptions(compression="gzip")).summary()
    truth = control_totals(tmp_path)
    path = written["files"][0].removeprefix("file://")

    frame = pandas.read_json(path, lines=True, dtype=False)
    assert totals_of(zip(*(frame[name] for name in COLUMNS), strict=True)) == truth
    types = dict.fromkeys(COLUMNS, "VARCHAR")
    query = f"select {', '.join(COLUMNS)} from read_json('{path}', columns={types})"
    assert totals_of(duckdb.execute(query).fetchall()) == truth


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "\r=1", "\uff1d1", "'=1"])
def test_no_csv_cell_begins_a_formula(tmp_path: Path, text: str) -> None:
    found = [row(1, charge_type=text, status=text, currency=text)]
    written = new_export(FakeReading(found), str(tmp_path), options=ExportOptions("csv")).summary()

    with Path(written["files"][0].removeprefix("file://")).open(newline="", encoding="utf-8") as file:
        cells = next(csv.DictReader(file))
    assert [cells[name] for name in ("charge_type", "status", "currency")] == ["'" + text] * 3


def test_negative_amounts_stay_numbers_for_a_spreadsheet(tmp_path: Path) -> None:
    written = new_export(FakeReading(MONEY), str(tmp_path), options=ExportOptions("csv")).summary()

    with Path(written["files"][0].removeprefix("file://")).open(newline="", encoding="utf-8") as file:
        assert [cells["amount"] for cells in csv.DictReader(file)] == [each["amount"] for each in MONEY]


def test_csv_columns_are_always_the_same_and_extra_has_unknown_fields(tmp_path: Path) -> None:
    headers = []
    for found in ([], [row(1)], [row(1, customer={"name": "Ω"}, tax_amount="1.00")]):
        written = new_export(FakeReading(found), str(tmp_path), options=ExportOptions("csv")).summary()
        with Path(written["files"][0].removeprefix("file://")).open(newline="", encoding="utf-8") as file:
            cells = list(csv.reader(file))
        headers.append(cells[0])
    assert headers[0] == headers[1] == headers[2]
    assert json.loads(cells[1][headers[0].index("extra")]) == {"customer": {"name": "Ω"}}


def test_months_are_those_of_the_business_time_zone(tmp_path: Path) -> None:
    found = [row(1, invoice_date="2026-01-31T18:30:00Z"), row(2, invoice_date="2026-01-31T18:29:59Z"), row(3)]
    del found[2]["invoice_date"]
    options = ExportOptions(partition_by=("month",), business_timezone="Asia/Kolkata")
    files = new_export(FakeReading(found), str(tmp_path), options=options).manifest.files

    assert [file.partition["month"] for file in files] == ["2026-01", "2026-02", "__HIVE_DEFAULT_PARTITION__"]


def test_spellings_of_a_currency_or_status_share_totals_and_partitions_and_are_kept_in_the_records(
    tmp_path: Path,
) -> None:
    found = [row(1, currency="USD", status="paid"), row(2, currency="usd", status="Paid "), row(3, currency=" USD")]
    found[2]["status"] = "PAID"
    for each in found:
        each["amount"] = "1.50"
    options = ExportOptions(partition_by=("currency", "status"))
    written = new_export(FakeReading(found), str(tmp_path), options=options)

    assert written.manifest.totals == {"USD": {"paid": {"count": 3, "amount": "4.50"}}}
    assert [file.partition for file in written.manifest.files] == [{"currency": "USD", "status": "paid"}]
    assert sorted(read_export(tmp_path), key=lambda record: record["id"]) == found


def test_many_partitions_need_no_more_open_files_than_one(tmp_path: Path) -> None:
    import resource

    found = [row(n, currency=f"C{n % 500}", note="x" * 200) for n in range(1, 2001)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(128, limits[1]), limits[1]))
    try:
        written = new_export(FakeReading(found), str(tmp_path), options=ExportOptions(partition_by=("currency",)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert len(written.manifest.files) == 500


def test_a_json_lines_file_with_lines_of_any_length_is_read() -> None:
    values = [{"a": "x" * size} for size in (0, 2**18, 1, 3 * 2**18, 2)] * 3
    text = "\n".join(map(json.dumps, values)).encode()

    assert list(decode_lines(io.BytesIO(text), None)) == values
    assert list(decode_lines(io.BytesIO(text + b"\n"), None)) == values
    assert list(decode_lines(io.BytesIO(b""), None)) == []


@pytest.mark.parametrize("text", [b"1,2\n", b"1\n\n2\n", b"[1\n2]\n", b"{}]\n[{}"])
def test_a_line_that_is_not_one_json_value_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"is not one JSON value|Expecting|Extra data"):
        list(decode_lines(io.BytesIO(text), None))
