"""Every invoice that the tracker reports is current, even while the list changes, and polls are cheap."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_unpod.billing.client import Page
from airflow_provider_unpod.billing.errors import UnpodListUnstable, UnpodUnavailable
from airflow_provider_unpod.billing.invoice import Invoice, InvoiceId
from airflow_provider_unpod.billing.watching.tracker import Snapshot, Subscriptions, Tracker, Wanted
from tests.billing.reading.moving_list import NEWEST, OLDEST, SHUFFLED, MovingList, row

EVERYTHING = Wanted(everything=True)


class Ledger(MovingList):
    """A changing list of invoices with changing statuses. Initially all except ``settled`` are pending."""

    def __init__(self, rows: int, order: str = NEWEST, *, settled: Any = lambda number: False, **options: Any) -> None:
        self.status: dict[InvoiceId, str] = {number: "paid" for number in range(rows) if settled(number)}
        super().__init__(
            rows, order, make_row=lambda number: row(number, self.status.get(number, "pending")), **options
        )

    def cost(self) -> int:
        """Return the number of requests since the last call."""
        number = len(self.requests)
        self.requests.clear()
        return number


def spread(number: int) -> bool:
    """15 % of the invoices are pending, spread over the list."""
    return number % 20 not in (3, 9, 15)


@pytest.mark.parametrize("waits", [1, 100, 300])
def test_a_poll_of_2000_invoices_costs_at_most_20_requests_however_many_are_waited_for(waits: int) -> None:
    ledger = Ledger(2000, settled=spread)
    tracker = Tracker(ledger)
    wanted = Wanted([number for number in range(2000) if not spread(number)][:waits])

    tracker.poll(wanted)
    assert ledger.cost() <= 24
    for poll in range(1, 25):
        assert len(tracker.poll(wanted).rows) == waits
        assert ledger.cost() <= (24 if poll % 10 == 0 else 20)


def test_a_poll_costs_at_most_four_requests_if_the_pending_invoices_are_on_three_pages() -> None:
    ledger = Ledger(2000, settled=lambda number: number < 1700)
    tracker = Tracker(ledger)
    tracker.poll(EVERYTHING)
    ledger.cost()

    for _ in range(8):
        ledger.insert()
        tracker.poll(EVERYTHING)
        assert ledger.cost() <= 4


def test_a_poll_for_one_invoice_of_a_growing_list_costs_two_requests() -> None:
    ledger = Ledger(2000)
    tracker = Tracker(ledger)
    wanted = Wanted([1234])
    tracker.poll(wanted)
    ledger.cost()

    for _ in range(8):
        for _ in range(37):
            ledger.insert()
        assert tracker.poll(wanted).rows[1234].status == "pending"
        assert ledger.cost() <= 2


def test_complete_reads_are_less_frequent_for_longer_lists() -> None:
    ledger = Ledger(20_000, settled=lambda number: number < 19_950)
    tracker = Tracker(ledger)
    tracker.poll(EVERYTHING)
    ledger.cost()

    polls = 60
    for _ in range(polls):
        tracker.poll(EVERYTHING)
    assert ledger.cost() / polls <= 14


def test_a_refund_of_another_invoice_is_noticed_by_the_next_complete_read() -> None:
    ledger = Ledger(2000, settled=lambda number: True)
    tracker = Tracker(ledger, full_refresh_every=5)
    tracker.poll(EVERYTHING)
    ledger.status[17] = "refunded"

    changed = [tuple(tracker.poll(EVERYTHING).changed) for _ in range(5)]

    assert changed == [(), (), (), (), (17,)]


def test_an_invoice_is_reported_absent_only_after_a_complete_read() -> None:
    ledger = Ledger(500)
    tracker = Tracker(ledger)
    tracker.poll(Wanted([250]))
    ledger.cost()
    ledger.delete(ledger.ids.index(250))

    assert 250 not in tracker.poll(Wanted([250], {250: 0})).rows
    assert ledger.cost() > 5

    assert 250 not in tracker.poll(Wanted([250], {250: 0})).rows  # proved, so it costs no second reading
    assert ledger.cost() <= 2


def test_a_later_subscriber_gets_its_own_proof_of_absence() -> None:
    ledger = Ledger(500)
    tracker = Tracker(ledger)
    subscriptions = Subscriptions()
    subscriptions.add([777], certain=True)
    tracker.poll(subscriptions.begin())
    ledger.insert()
    ledger.ids[250] = 777  # on a page that no poll reads
    ledger.cost()

    subscriptions.add([777], certain=True)

    assert 777 in tracker.poll(subscriptions.begin()).rows


def test_an_invoice_added_on_an_unread_page_is_found_by_the_next_poll() -> None:
    ledger = Ledger(500)
    tracker = Tracker(ledger)
    tracker.poll(EVERYTHING)
    ledger.ids.insert(250, 777)

    assert 777 in [*tracker.poll(EVERYTHING).changed, *tracker.poll(EVERYTHING).changed]


def test_a_deleted_invoice_makes_the_next_poll_read_everything_once() -> None:
    ledger = Ledger(2000, settled=spread)
    tracker = Tracker(ledger)
    tracker.poll(EVERYTHING)
    ledger.delete(ledger.ids.index(1003))
    ledger.cost()

    costs = []
    for _ in range(3):
        tracker.poll(EVERYTHING)
        costs.append(ledger.cost())
    assert 1003 not in tracker.statuses()
    assert costs[0] <= 24
    assert 20 < costs[1] <= 24
    assert costs[2] <= 20


def test_new_invoices_at_the_end_are_seen_after_the_last_page_was_deleted() -> None:
    ledger = Ledger(25, OLDEST, cap=12, page_size=12)
    tracker = Tracker(ledger)
    tracker.poll(EVERYTHING)
    for _ in range(3):
        ledger.delete(0)
    ledger.insert()
    ledger.status = dict.fromkeys(range(25), "paid")

    assert 25 in tracker.poll(EVERYTHING).changed


def test_an_invoice_is_polled_until_its_last_subscriber_leaves() -> None:
    subscriptions = Subscriptions()
    subscriptions.add([1, 2])
    subscriptions.add([2, 3], certain=True)
    subscriptions.remove([1, 2])
    assert (set(subscriptions.begin().keys), dict(subscriptions.begin().certain)) == ({2, 3}, {2: 0, 3: 0})

    subscriptions.add([], everything=True)
    subscriptions.remove([2, 3])
    assert subscriptions.begin() == Wanted(frozenset(), {}, True)


class Failing(Ledger):
    broken = False

    def get_page(self, page: int, page_size: int, cancellation: object = None) -> Page:
        if self.broken and page == 3:
            raise UnpodUnavailable("down")
        return super().get_page(page, page_size)


def test_a_failed_poll_loses_no_change() -> None:
    ledger = Failing(500)
    tracker = Tracker(ledger)
    tracker.poll(EVERYTHING)
    ledger.broken = True
    ledger.status[499] = "paid"
    with pytest.raises(UnpodUnavailable):
        tracker.poll(EVERYTHING)
    ledger.broken = False

    poll = tracker.poll(EVERYTHING)
    assert list(poll.changed) == [499]
    assert poll.rows[499].status == "paid"


def test_a_deleted_invoice_is_forgotten_after_a_failed_and_a_successful_complete_read() -> None:
    ledger = Failing(500)
    tracker = Tracker(ledger, full_refresh_every=1)
    tracker.poll(EVERYTHING)
    ledger.delete(450)
    ledger.broken = True
    with pytest.raises(UnpodUnavailable):
        tracker.poll(EVERYTHING)
    ledger.broken = False
    ledger.delete(0)  # which the failed reading had seen

    assert set(tracker.poll(EVERYTHING).statuses()) == set(ledger.ids)


def test_a_smaller_page_size_of_the_server_is_detected() -> None:
    ledger = Ledger(500, cap=30)
    tracker = Tracker(ledger)
    wanted = Wanted([250])
    tracker.poll(wanted)
    tracker.poll(wanted)
    ledger.cost()

    assert 250 in tracker.poll(wanted).rows
    assert ledger.cost() == 2


OPERATIONS = st.sampled_from(["insert", "insert", "delete", "settle", "reopen"])


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(0, 60),
    order=st.sampled_from([NEWEST, OLDEST, SHUFFLED]),
    counts=st.sampled_from(["right", "missing"]),
    past_end=st.sampled_from(["404", "empty"]),
    rounds=st.lists(st.tuples(st.lists(OPERATIONS, max_size=6), st.lists(OPERATIONS, max_size=4)), max_size=8),
    seed=st.integers(0, 10_000),
    everything=st.booleans(),
)
def test_while_the_list_changes_every_row_is_current_and_absence_is_correct(
    rows: int,
    order: str,
    counts: str,
    past_end: str,
    rounds: list[tuple[list[str], list[str]]],
    seed: int,
    everything: bool,
) -> None:
    """Changes happen between polls and, one before each request, during them."""
    ledger = Ledger(rows, order, seed=seed, cap=12, page_size=12, counts=counts, past_end=past_end, max_concurrency=1)
    during: list[str] = []
    past: dict[InvoiceId, set[str | None]] = {}  # the statuses of each invoice during the poll

    def note() -> None:
        for number in range(ledger.next_id):
            here = number in ledger.ids
            past.setdefault(number, set()).add(ledger.status.get(number, "pending") if here else None)

    def change(operation: str) -> None:
        if operation == "insert":
            ledger.insert()
        elif operation == "delete":
            ledger.delete()
        elif ledger.ids:
            ledger.status[ledger.random.choice(ledger.ids)] = "paid" if operation == "settle" else "pending"

    def world(_: MovingList) -> None:
        if during:
            change(during.pop(0))
            note()

    ledger.world = world
    tracker = Tracker(ledger)
    keys = frozenset(range(0, rows + 20, 3))
    wanted = Wanted(keys, {key: 0 for key in keys if key % 2}, everything)
    known: dict[InvoiceId, str] = {}

    for between, meanwhile in [([], []), *rounds, ([], []), ([], []), ([], [])]:
        for operation in between:
            change(operation)
        during[:] = meanwhile
        past.clear()
        note()
        try:
            poll = tracker.poll(wanted)
        except UnpodListUnstable:
            continue
        for key, invoice in poll.rows.items():
            assert key in poll.changed or invoice.status in past[invoice.key]
            known[invoice.key] = invoice.status
        for key in poll.changed:
            assert key in poll.rows
    # The list has not changed for three polls: every wanted invoice is reported as it is.
    assert {key for key in keys if key in ledger.ids and key < rows} <= set(poll.rows)
    assert all(invoice.status == ledger.status.get(key, "pending") for key, invoice in poll.rows.items())
    # A proof of absence stays valid until a new subscriber needs a new one.
    later = tracker.poll(Wanted(keys, dict.fromkeys(wanted.certain, len(rounds) + 4), everything))
    assert not [key for key in wanted.certain if key in ledger.ids and key not in later.rows]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_change_of_an_open_invoice_is_reported_by_the_next_polls(data: st.DataObject) -> None:
    ledger = Ledger(data.draw(st.integers(1, 80)), data.draw(st.sampled_from([NEWEST, OLDEST])), cap=12, page_size=12)
    tracker = Tracker(ledger)
    tracker.poll(EVERYTHING)
    reported: dict[int, list[str]] = {}
    expected: dict[int, list[str]] = {}

    def poll() -> Snapshot:
        seen = tracker.poll(EVERYTHING)
        for key in seen.changed:
            reported.setdefault(int(key), []).append(seen.rows[key].status)
        return seen

    for _ in range(data.draw(st.integers(1, 6))):
        for _ in range(data.draw(st.integers(0, 15))):
            ledger.insert()
            expected[ledger.next_id - 1] = ["pending"]
        poll()
        pending = [number for number in ledger.ids if ledger.status.get(number, "pending") == "pending"]
        for number in data.draw(st.lists(st.sampled_from(pending), unique=True)) if pending else []:
            ledger.status[number] = data.draw(st.sampled_from(["paid", "failed"]))
            expected.setdefault(number, []).append(ledger.status[number])
        poll()
    poll()

    assert reported == expected


def test_a_tracked_invoice_takes_less_than_300_bytes() -> None:
    import gc
    import tracemalloc

    class Endless:
        page_size, max_concurrency = 100, 1

        def get_page(self, page: int, page_size: int, cancellation: object = None) -> Page:
            start = (page - 1) * page_size
            newest = 10_000_000
            rows = [row(newest - place, "paid") for place in range(start, min(start + page_size, 20_000))]
            return Page([Invoice(one) for one in rows], 20_000)

    tracker = Tracker(Endless())
    gc.collect()
    tracemalloc.start()
    try:
        tracker.poll(EVERYTHING)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(tracker.statuses()) == 20_000
    assert held / 20_000 < 175
    assert peak / 20_000 < 300  # while the whole list is read
