"""One row of the list: exact amounts, dates in both dialects, ids in all spellings."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_unpod.billing.errors import UnpodBadAnswer
from airflow_provider_unpod.billing.invoice import Invoice, is_integer, match_key

UTC = timezone.utc
PUBLISHED = {
    "id": 101,
    "amount": "299.00",
    "currency": "USD",
    "status": "paid",
    "invoice_date": "2026-02-01T00:00:00Z",
}
OLDER = {
    "invoice_number": "INV-00118",
    "amount": "1357.35",
    "tax_amount": "207.05",
    "currency": "INR",
    "status": "pending",
    "charge_type": "subscription",
    "invoice_date": "2026-01-04T00:00:15.045893Z",
    "due_date": "2026-01-11T00:00:15.045893Z",
    "payment_at": None,
}


def with_fields(**fields: Any) -> Invoice:
    return Invoice(PUBLISHED | fields)


def test_a_row_of_the_published_page() -> None:
    invoice = Invoice(PUBLISHED)
    assert (invoice.invoice_id, invoice.currency, invoice.status) == (101, "USD", "paid")
    assert str(invoice.amount) == "299.00"
    assert invoice.tax_amount is None
    assert invoice.invoice_date == datetime(2026, 2, 1, tzinfo=UTC)
    assert invoice.due_date is invoice.payment_at is None
    assert invoice.expected_payment_by == datetime(2026, 2, 8, tzinfo=UTC)
    assert invoice.raw == PUBLISHED


def test_a_row_of_the_older_pages() -> None:
    invoice = Invoice(OLDER)
    assert invoice.invoice_id == "INV-00118"
    assert invoice.tax_amount == Decimal("207.05")
    assert invoice.invoice_date == datetime(2026, 1, 4, 0, 0, 15, 45893, tzinfo=UTC)
    assert invoice.due_date == invoice.expected_payment_by == datetime(2026, 1, 11, 0, 0, 15, 45893, tzinfo=UTC)
    assert invoice.payment_at is None


@pytest.mark.parametrize(
    ("currency", "amount"),
    [
        ("USD", "12345678901234567.89"),
        ("JPY", "1500"),
        ("KWD", "0.125"),
        ("KWD", "10.000"),
        ("USD", "-4.50"),
        ("USD", "0"),
        ("USD", "0.00"),
        ("BTC", "0.000000000000000001"),
        ("IDR", "99999999999999999999999999999999.99"),
    ],
)
def test_money_keeps_every_digit_and_is_never_rescaled(currency: str, amount: str) -> None:
    invoice = with_fields(amount=amount, tax_amount=amount, currency=currency)
    assert str(invoice.amount) == str(invoice.tax_amount) == amount or invoice.amount == Decimal(amount)
    record = invoice.as_record()
    assert record["amount"] == record["tax_amount"] == amount


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1500, "1500"),
        (-3, "-3"),
        (Decimal("12345678901234567.89"), "12345678901234567.89"),
        (Decimal("1E+3"), "1000"),
        (Decimal("1.50"), "1.50"),
        (" 7.10 ", "7.10"),
        ("+7.10", "7.10"),
        ("1.5E+3", "1500"),
    ],
)
def test_an_amount_sent_as_a_number_becomes_a_string_of_its_digits(value: object, text: str) -> None:
    invoice = with_fields(amount=value)
    assert invoice.amount == Decimal(text)
    assert invoice.as_record()["amount"] == text


@pytest.mark.parametrize(
    "value",
    [
        *(None, "", " ", "twelve", "1_000", "1,000.00", "0x10", "12 34", "$5", "1\n2", "\uff11\uff12", "\u0661\u0662"),
        *("NaN", "sNaN", "Infinity", "-inf", "1e999999999", "1" * 100, Decimal("NaN"), Decimal("1e400"), 10**80),
        *(True, False, [], {}, 1.5),
    ],
)
@pytest.mark.parametrize("name", ["amount", "tax_amount"])
def test_an_invalid_amount_is_refused_by_the_name_of_its_field(name: str, value: Any) -> None:
    if name == "tax_amount" and value is None:
        assert with_fields(tax_amount=None).tax_amount is None
        return
    with pytest.raises(UnpodBadAnswer, match=f"Invoice 101: `{name}` must be a decimal amount, got"):
        with_fields(**{name: value}).tax_amount  # noqa: B018  # the property is what is looked at


@pytest.mark.parametrize("name", ["currency", "status"])
@pytest.mark.parametrize("value", [None, "", " ", 7, [], True])
def test_a_row_without_currency_or_status_is_refused(name: str, value: object) -> None:
    with pytest.raises(UnpodBadAnswer, match=f"`{name}`"):
        with_fields(**{name: value})
    with pytest.raises(UnpodBadAnswer, match=f"`{name}`"):
        Invoice({field: value for field, value in PUBLISHED.items() if field != name})


@pytest.mark.parametrize("value", [None, "", "  ", True, 1.5, Decimal("1.5"), [], {}])
def test_a_row_without_an_id_is_refused(value: object) -> None:
    with pytest.raises(UnpodBadAnswer, match="no usable id"):
        with_fields(id=value)


def test_an_unknown_status_is_kept_unchanged() -> None:
    assert with_fields(status="Partially-Paid").status == "Partially-Paid"


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-02-01T00:00:00Z", datetime(2026, 2, 1, tzinfo=UTC)),
        ("2026-01-04T00:00:15.045893Z", datetime(2026, 1, 4, 0, 0, 15, 45893, tzinfo=UTC)),
        ("2026-01-04T00:00:15.5Z", datetime(2026, 1, 4, 0, 0, 15, 500000, tzinfo=UTC)),
        ("2026-01-04T00:00:15.045893+05:30", datetime(2026, 1, 3, 18, 30, 15, 45893, tzinfo=UTC)),
        ("2026-02-01T00:00:00", datetime(2026, 2, 1, tzinfo=UTC)),
        ("2026-02-01", datetime(2026, 2, 1, tzinfo=UTC)),
        ("2026-02-01 10:00:00+00:00", datetime(2026, 2, 1, 10, tzinfo=UTC)),
        (" 2026-02-01T00:00:00Z ", datetime(2026, 2, 1, tzinfo=UTC)),
        ("20260201T000000Z", datetime(2026, 2, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59.999999Z", datetime.max.replace(tzinfo=UTC)),
    ],
)
def test_dates_are_aware_and_in_utc(text: str, moment: datetime) -> None:
    for name in ("invoice_date", "due_date", "payment_at"):
        got = getattr(with_fields(**{name: text}), name)
        assert got == moment
        assert got.tzinfo is UTC
        assert type(got) is datetime


@pytest.mark.parametrize(
    "value",
    ["soon", "12:30", "2026", "2026-02", 1770000000, True, [], "2026-02-01T25:00:00Z", "0001-01-01T00:00:00+14:00"],
)
def test_an_invalid_date_is_refused_when_it_is_asked_for(value: object) -> None:
    invoice = with_fields(invoice_date=value)
    with pytest.raises(UnpodBadAnswer, match="Invoice 101: `invoice_date` must be an ISO 8601 date"):
        invoice.invoice_date  # noqa: B018  # the property is what is looked at


def test_a_payment_term_that_ends_after_the_year_9999_is_an_error_of_that_invoice() -> None:
    last = with_fields(invoice_date="9999-12-31T00:00:00Z")
    assert last.invoice_date == datetime(9999, 12, 31, tzinfo=UTC)
    with pytest.raises(UnpodBadAnswer, match="Invoice 101: `invoice_date` must be at least seven days before"):
        last.expected_payment_by  # noqa: B018  # the property is what is looked at
    assert with_fields(invoice_date="9999-12-31", due_date="9999-12-31").expected_payment_by == last.invoice_date
    assert with_fields(invoice_date="soon", due_date="9999-12-31").expected_payment_by == last.invoice_date


@pytest.mark.parametrize(
    ("text", "zone", "month"),
    [
        ("2026-01-31T18:29:59Z", "Asia/Kolkata", "2026-01"),
        ("2026-01-31T18:30:00Z", "Asia/Kolkata", "2026-02"),
        ("0001-01-01T00:00:00Z", "UTC", "0001-01"),
        ("0999-12-31T20:00:00Z", "Asia/Kolkata", "1000-01"),
        ("9999-12-31T23:59:59Z", "America/New_York", "9999-12"),
        (None, "UTC", None),
    ],
)
def test_the_month_of_an_invoice_is_that_of_the_time_zone(text: str | None, zone: str, month: str | None) -> None:
    assert with_fields(invoice_date=text).invoice_month(ZoneInfo(zone)) == month


@pytest.mark.parametrize(
    ("text", "zone"), [("0001-01-01T00:00:00Z", "America/New_York"), ("9999-12-31T23:00:00Z", "Asia/Kolkata")]
)
def test_a_month_outside_the_calendar_is_an_error_of_that_invoice(text: str, zone: str) -> None:
    with pytest.raises(UnpodBadAnswer, match=f"Invoice 101: `invoice_date` must be in the years 1 to 9999 in {zone}"):
        with_fields(invoice_date=text).invoice_month(ZoneInfo(zone))


@given(st.text(max_size=30) | st.datetimes().map(str) | st.integers() | st.none(), st.timezones())
def test_no_date_raises_anything_but_an_error_that_names_invoice_and_field(value: Any, zone: Any) -> None:
    invoice = with_fields(invoice_date=value, due_date=value, payment_at=value)
    for read in (
        lambda: invoice.invoice_date,
        lambda: invoice.due_date,
        lambda: invoice.payment_at,
        lambda: invoice.expected_payment_by,
        lambda: invoice.invoice_month(zone),
    ):
        try:
            read()
        except UnpodBadAnswer as error:
            assert re.match("Invoice 101: `(invoice_date|due_date|payment_at)` must be", error.message)  # noqa: PT017


def test_ids_are_compared_as_people_write_them() -> None:
    assert match_key(101) == match_key("101") == match_key(" 101 ") == 101
    assert match_key("0") == 0
    assert match_key("007") == "007"
    assert match_key("INV-00118") == "INV-00118"
    assert match_key("\uff11\uff10") == "\uff11\uff10"  # another script's digits are another name
    assert match_key(True) == "True"


@pytest.mark.parametrize("digits", [1, 18, 19, 20, 30, 4300, 4301, 9000])
def test_an_integer_id_and_its_string_are_one_invoice_for_any_length(digits: int) -> None:
    number, text = 10 ** (digits - 1), "1" + "0" * (digits - 1)
    assert match_key(number) == match_key(text) == match_key(f" {text} ")
    assert with_fields(id=number).key == with_fields(id=text).key
    assert match_key(f"0{text}") == f"0{text}"
    other = match_key(number + 1)
    assert other != match_key(number)
    # An integer may be the id of another invoice, so it is never taken for an invoice number.
    assert not with_fields(invoice_number=text).answers_to(match_key(number))


@given(st.integers(-(10**40), 10**40))
def test_ids_are_integers_only_where_64_bits_hold_them(number: int) -> None:
    key = match_key(number)
    assert key == match_key(str(number))
    assert key == (number if -(2**63) <= number < 2**63 else str(number))
    assert is_integer(key)


@pytest.mark.parametrize("status", ["paid", "Paid", " paid", "paid ", "PAID\t"])
def test_statuses_are_compared_without_case_and_blanks_and_kept_unchanged(status: str) -> None:
    invoice = with_fields(status=status, currency=f"\n{status} ")
    assert invoice.status_key == "paid"
    assert invoice.currency_code == "PAID"
    assert invoice.as_record()["status"] == invoice.status == status
    assert invoice.as_record()["currency"] == f"\n{status} "


def test_an_invoice_answers_to_its_id_and_to_its_number() -> None:
    both = Invoice(PUBLISHED | {"invoice_number": "INV-7"})
    assert both.answers_to(match_key("101"))
    assert both.answers_to(match_key("INV-7"))
    assert not both.answers_to(match_key("INV-8"))
    assert Invoice(OLDER).answers_to(match_key(" INV-00118 "))


def test_a_record_keeps_the_rows_own_fields_and_is_json() -> None:
    raw = PUBLISHED | {
        "amount": Decimal("12345678901234567.89"),
        "tax_amount": 7,
        "lines": [{"price": Decimal("0.10"), "tags": [None, True, 1]}],
        "rate": Decimal("1E-7"),
        "seats": 3,
    }
    record = Invoice(raw).as_record()
    assert list(record) == list(raw)
    assert json.loads(json.dumps(record)) == record
    assert record["amount"] == "12345678901234567.89"
    assert record["tax_amount"] == "7"
    assert record["lines"] == [{"price": "0.10", "tags": [None, True, 1]}]
    assert record["rate"] == "0.0000001"
    assert record["seats"] == 3


def test_a_record_is_a_copy() -> None:
    invoice = Invoice(dict(PUBLISHED))
    invoice.as_record()["status"] = "changed"
    assert invoice.raw == PUBLISHED


@given(
    amount=st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**25), max_value=10**25, places=4),
    as_text=st.booleans(),
)
def test_any_amount_is_the_same_in_the_record_as_in_the_response(amount: Decimal, *, as_text: bool) -> None:
    wire = json.dumps({"amount": format(amount, "f")}) if as_text else '{"amount": ' + format(amount, "f") + "}"
    invoice = Invoice(PUBLISHED | json.loads(wire, parse_float=Decimal))
    assert invoice.amount == amount
    assert Decimal(invoice.as_record()["amount"]).as_tuple() == amount.as_tuple()
    assert isinstance(invoice.as_record()["amount"], str)


def test_equal_rows_are_equal_invoices() -> None:
    assert Invoice(PUBLISHED) == Invoice(dict(PUBLISHED))
    assert hash(Invoice(PUBLISHED)) == hash(Invoice(dict(PUBLISHED)))
    assert Invoice(PUBLISHED) != with_fields(status="failed")
    assert Invoice(PUBLISHED) != PUBLISHED
    assert repr(Invoice(PUBLISHED)) == "Invoice(101, USD 299.00, 'paid')"


def test_a_field_that_is_nested_too_deeply_is_an_error_that_names_the_invoice() -> None:
    nested: list[Any] = []
    for _ in range(5000):
        nested = [nested]

    with pytest.raises(UnpodBadAnswer, match="Invoice 101 is nested too deeply"):
        with_fields(more=nested).as_record()
