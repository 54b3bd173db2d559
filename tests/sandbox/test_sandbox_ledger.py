"""The ledger without HTTP, which property tests of list readers rely on."""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_unpod.sandbox.ledger import CURRENCIES, Ledger, UnknownInvoice

TODAY = date(2026, 7, 1)


def test_the_same_seed_and_date_give_the_same_invoices_and_another_seed_gives_others():
    assert Ledger(50, seed=3, today=TODAY).invoices() == Ledger(50, seed=3, today=TODAY).invoices()
    assert Ledger(50, seed=3, today=TODAY).invoices() != Ledger(50, seed=4, today=TODAY).invoices()


def test_another_date_changes_only_the_dates_of_invoices():
    earlier, later = (Ledger(50, today=day, dialect="data").page(1, 50) for day in (TODAY, date(2027, 1, 31)))
    dates = {"invoice_date", "due_date", "payment_at"}
    for one, other in zip(earlier, later, strict=True):
        assert one["invoice_date"] < other["invoice_date"]
        assert {key: one[key] for key in one.keys() - dates} == {key: other[key] for key in other.keys() - dates}


def test_the_first_invoice_is_that_of_the_published_example_and_is_pending():
    first = Ledger(10).get(101)
    assert (first.id, first.amount, first.currency, first.status) == (101, "299.00", "USD", "pending")


@pytest.mark.parametrize(("order", "reverse"), [("oldest", False), ("newest", True)])
def test_ids_and_dates_have_the_same_order_throughout_the_list(order, reverse):
    before_it_all = datetime(2020, 1, 1, tzinfo=timezone.utc)
    ledger = Ledger(300, order=order, now=lambda: before_it_all)
    for _ in range(3):
        ledger.create()
    by_id = ledger.ids()
    assert by_id == sorted(by_id, reverse=reverse)
    dates = [invoice.invoice_date for invoice in ledger.invoices()]
    assert dates == sorted(dates, reverse=reverse)
    assert len(set(dates)) == len(dates)


def test_a_shuffled_list_keeps_its_order():
    ledger = Ledger(100, order="shuffled")
    ids = ledger.ids()
    assert ids not in (sorted(ids), sorted(ids, reverse=True))
    new = ledger.create().id
    assert [i for i in ledger.ids() if i != new] == ids


def test_money_has_the_decimal_places_of_its_currency():
    places = {currency: places for currency, (_, places, _) in CURRENCIES.items()}
    invoices = Ledger(400).invoices()
    assert {invoice.currency for invoice in invoices} == set(places)
    for invoice in invoices:
        for money in (invoice.amount, invoice.tax_amount):
            assert Decimal(money) >= 0
            assert Decimal(money).as_tuple().exponent == -places[invoice.currency]


def test_about_fifteen_percent_are_pending_and_all_known_statuses_occur():
    statuses = [invoice.status for invoice in Ledger(4_000).invoices()]
    assert 0.13 < statuses.count("pending") / len(statuses) < 0.17
    assert set(statuses) == {"paid", "pending", "failed", "refunded", "cancelled"}


def test_the_dates_spread_over_the_180_days_before_the_given_day():
    dates = [invoice.invoice_date for invoice in Ledger(180, today=TODAY).invoices()]
    assert {moment.date() for moment in dates} == {TODAY - timedelta(days=days) for days in range(1, 181)}


@pytest.mark.parametrize(
    ("clock", "last_month"), [("2026-03-01T00:00:00+00:00", 2), ("2027-01-31T23:59:59+00:00", 12), ("2028-03-31", 2)]
)
def test_by_default_the_invoices_end_today_and_cover_all_of_last_month(clock, last_month):
    now = datetime.fromisoformat(clock).astimezone(timezone.utc)
    dates = [invoice.invoice_date for invoice in Ledger(180, now=lambda: now).invoices()]
    assert max(dates) < now
    assert max(dates) > now - timedelta(days=2)
    assert len([moment for moment in dates if moment.month == last_month]) >= 28


@pytest.mark.parametrize(
    ("act", "status"), [("pay", "paid"), ("fail", "failed"), ("refund", "refunded"), ("cancel", "cancelled")]
)
@pytest.mark.parametrize("name", [101, "101", "INV-00101"])
def test_a_changed_status_does_not_move_an_invoice(act, status, name):
    ledger = Ledger(5)
    before = ledger.ids()
    assert getattr(ledger, act)(name).status == status
    assert ledger.get(101).status == status
    assert ledger.page(1, 5)[-1]["status"] == status
    assert ledger.ids() == before


def test_a_refund_keeps_the_payment_time_and_a_failure_clears_it():
    now = datetime(2026, 7, 1, 12, tzinfo=timezone.utc)
    ledger = Ledger(1, dialect="data", now=lambda: now)
    assert ledger.pay(101).payment_at == now
    assert ledger.refund(101).payment_at == now
    assert ledger.page(1, 1)[0]["payment_at"] == "2026-07-01T12:00:00.000000Z"
    assert ledger.fail(101).payment_at is None


def test_an_invoice_may_have_an_unknown_status_and_undocumented_fields():
    ledger = Ledger(0)
    ledger.create("12345678901234567.89", "KWD", "disputed", extra={"note": "né", "lines": [{"qty": 1}]})
    row = json.loads(ledger.page_json(1, 20)[0])[0]
    assert row["amount"] == "12345678901234567.89"
    assert (row["status"], row["note"], row["lines"]) == ("disputed", "né", [{"qty": 1}])


@pytest.mark.parametrize("amount", ["12,50", "", "NaN", "Infinity", "a lot"])
def test_an_amount_that_is_not_a_decimal_number_is_refused_and_nothing_is_created(amount):
    ledger = Ledger(3)
    with pytest.raises(ValueError, match="amount"):
        ledger.create(amount)
    assert len(ledger) == 3


def test_an_amount_is_listed_with_the_digits_it_was_given():
    ledger = Ledger(0)
    assert [ledger.create(amount).amount for amount in ("5", "5.0", "5.000", Decimal("1E+3"), 7)] == [
        "5",
        "5.0",
        "5.000",
        "1000",
        "7",
    ]


def test_an_existing_id_is_refused():
    ledger = Ledger(3)
    with pytest.raises(ValueError, match="101"):
        ledger.create(invoice_id=101)


@pytest.mark.parametrize("invoice_id", [9, "9", "INV-00009", "nonsense", ""])
@pytest.mark.parametrize("act", ["get", "pay", "delete"])
def test_an_unknown_invoice_raises_unknown_invoice(act, invoice_id):
    with pytest.raises(UnknownInvoice):
        getattr(Ledger(3), act)(invoice_id)


MOVES = st.lists(
    st.one_of(
        st.just(("create",)),
        st.tuples(st.just("insert"), st.integers(0, 30)),
        st.tuples(st.sampled_from(["delete", "pay", "refund"]), st.integers(0, 30)),
        st.just(("delete_random",)),
    ),
    max_size=30,
)


@given(
    invoices=st.integers(0, 20),
    order=st.sampled_from(["newest", "oldest", "shuffled"]),
    dialect=st.sampled_from(["results", "data"]),
    moves=MOVES,
    page_size=st.integers(1, 25),
)
def test_pages_together_are_always_the_whole_list(invoices, order, dialect, moves, page_size):
    ledger = Ledger(invoices, order=order, dialect=dialect)
    for move in moves:
        if move[0] == "create":
            ledger.create()
        elif move[0] == "insert":
            ledger.create(position=move[1])
        elif len(ledger) and move[0] == "delete_random":
            ledger.delete_random()
        elif len(ledger):
            getattr(ledger, move[0])(ledger.ids()[move[1] % len(ledger)])
    truth = [invoice.row(dialect) for invoice in ledger.invoices()]
    assert len(truth) == len(ledger) == len(set(ledger.ids()))
    read = []
    for page in range(1, len(truth) // page_size + 2):
        rows, count = ledger.page_json(page, page_size)
        assert count == len(truth)
        assert json.loads(rows) == ledger.page(page, page_size)
        read += json.loads(rows)
    assert read == truth
    assert ledger.page(len(truth) // page_size + 2, page_size) == []
