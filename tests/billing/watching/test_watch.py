"""Invoices are found and followed in few requests, and every answer is proved by what the API has just said."""

from __future__ import annotations

import gc
import json
import random
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_unpod.billing.client import Page
from airflow_provider_unpod.billing.errors import UnpodListUnstable, UnpodUnavailable
from airflow_provider_unpod.billing.invoice import Invoice, InvoiceId, match_key
from airflow_provider_unpod.billing.watching.allowance import Allowance
from airflow_provider_unpod.billing.watching.answers import confirming
from airflow_provider_unpod.billing.watching.subscriptions import Postponed, Snapshot, Subscriptions, Wanted
from airflow_provider_unpod.billing.watching.watch import ListWatch
from tests.billing.reading.moving_list import NEWEST, OLDEST, SHUFFLED, MovingList, row
from tests.billing.watching.ledger import EVERYTHING, Clock, Ledger, Polls, gaps
from tests.properties import examples

MANY = 200_000
A_DAY = 1_440  # polls, one a minute


def settled(number: int) -> bool:
    return True


def numbered(number: int) -> dict[str, Any]:
    return {name: value for name, value in row(number).items() if name != "id"} | {"invoice_number": f"INV-{number:05}"}


def with_both(number: int) -> dict[str, Any]:
    return row(number) | {"invoice_number": f"INV-{number:05}"}


def with_gaps(number: int) -> dict[str, Any]:
    return row(number) | {"id": number * 7 + number % 5}


def seen(watch: ListWatch, *keys: InvoiceId, **options: Any) -> Snapshot:
    snapshot = watch.poll(Wanted({match_key(key) for key in keys}), **options)
    assert isinstance(snapshot, Snapshot)
    return snapshot


# --- the first poll


@pytest.fixture(scope="module")
def large() -> dict[str, Ledger]:
    return {order: Ledger(MANY, order) for order in (NEWEST, OLDEST)}


def named(number: int) -> str:
    return f"INV-{number:05}"


@pytest.mark.parametrize("order", [NEWEST, OLDEST])
@pytest.mark.parametrize(
    ("make_row", "name_of"),
    [
        pytest.param(row, int, id="ids"),
        pytest.param(with_gaps, lambda number: number * 7 + number % 5, id="ids with gaps"),
        pytest.param(numbered, named, id="numbers without ids"),
        pytest.param(with_both, named, id="numbers beside ids"),
    ],
)
def test_the_first_poll_finds_one_of_200_000_invoices_in_at_most_seven_requests_and_the_next_in_one(
    large: dict[str, Ledger], order: str, make_row: Any, name_of: Any
) -> None:
    listed = large[order]
    listed.make_row = make_row
    for number in [0, 1, MANY - 2, MANY - 1, *random.Random(1).sample(range(MANY), 40)]:
        watch, name = ListWatch(listed), name_of(number)
        listed.requests.clear()
        found = seen(watch, name).rows[match_key(name)]
        assert name in (found.key, found.raw.get("invoice_number"))
        assert listed.cost() <= 7
        assert seen(watch, str(name)).rows[match_key(name)] == found
        assert listed.cost() == 1


@pytest.mark.parametrize("order", [NEWEST, OLDEST])
@pytest.mark.parametrize(
    ("make_row", "names"),
    [
        pytest.param(row, (-1, MANY, MANY + 10**6), id="ids"),
        pytest.param(with_gaps, (-5, 500_004, 7 * MANY + 99), id="ids with gaps"),
        pytest.param(numbered, ("INV-200000", "INV-900000"), id="numbers without ids"),
        pytest.param(with_both, ("INV-200000", "INV-900000"), id="numbers beside ids"),
    ],
)
def test_an_invoice_that_does_not_exist_yet_costs_the_first_poll_no_more_than_one_that_exists(
    large: dict[str, Ledger], order: str, make_row: Any, names: tuple[InvoiceId, ...]
) -> None:
    listed = large[order]
    listed.make_row = make_row
    for name in names:
        listed.requests.clear()
        assert seen(ListWatch(listed), name).rows == {}
        assert listed.cost() <= 7


@pytest.fixture(scope="module")
def wild() -> dict[str, list[int]]:
    """Ids with the most misleading gaps."""
    return {
        "gaps of any size": gaps(MANY, lambda chance: int(10 ** (6 * chance.random()))),
        "two blocks": [*range(1, 1_001), *range(10**12, 10**12 + MANY - 1_000)],
        "ever larger gaps": gaps(MANY, lambda chance: 1 if chance.random() < 0.999 else 10 ** chance.randint(3, 15)),
    }


@pytest.mark.slow
@pytest.mark.parametrize("order", [NEWEST, OLDEST])
@pytest.mark.parametrize("which", ["gaps of any size", "two blocks", "ever larger gaps"])
def test_the_first_poll_of_a_still_list_takes_at_most_17_requests_whatever_the_ids(
    wild: dict[str, list[int]], order: str, which: str
) -> None:
    ids = wild[which]
    listed, chance = Ledger.of(ids, order), random.Random(2)
    for number in [ids[0], ids[-1], ids[999], ids[1_000], *chance.sample(ids, 25)]:
        for wanted in (number, number + 1, number - 1):
            listed.requests.clear()
            found = seen(ListWatch(listed), wanted).rows.get(wanted)
            assert found is None or found.key == wanted
            assert found is not None or wanted != number
            assert listed.cost() <= 17


def test_an_id_never_finds_another_invoice_whose_number_looks_like_it() -> None:
    def numbered_otherwise(number: int) -> dict[str, Any]:
        return row(number, "paid" if number == 151 else "pending") | {"invoice_number": str(number - 50)}

    listed = MovingList(300, make_row=numbered_otherwise)
    for wanted in (101, "101"):
        found = ListWatch(listed).locate(wanted)
        assert found is not None
        assert (found.invoice_id, found.status) == (101, "pending")
    listed.ids.remove(101)
    assert ListWatch(listed).locate(101) is None
    assert seen(ListWatch(listed), 101).rows == {}


@pytest.mark.parametrize("order", [NEWEST, OLDEST])
def test_a_number_in_another_order_than_the_ids_is_found_in_the_first_poll(order: str) -> None:
    chance = random.Random(3)
    numbers = chance.sample(range(2_000), 2_000)
    listed = Ledger(2_000, order, make_row=lambda number: row(number) | {"invoice_number": f"R-{numbers[number]}"})
    for number in chance.sample(range(2_000), 5):
        assert seen(ListWatch(listed), f"R-{numbers[number]}").rows[f"R-{numbers[number]}"].key == number


# --- later polls


@pytest.mark.parametrize("order", [NEWEST, OLDEST])
@pytest.mark.parametrize("count", [1_000, 5_000, 20_000])
def test_a_day_of_a_wait_for_a_known_invoice_costs_one_request_each_minute(order: str, count: int) -> None:
    ledger = Ledger(count, order)
    poll = Polls(ledger)
    poll(Wanted({count // 3}))
    ledger.cost()

    for _ in range(A_DAY // 10):
        assert poll(Wanted({count // 3})).rows[count // 3].status == "pending"
        assert ledger.cost() == 1


@pytest.mark.slow
@pytest.mark.parametrize("order", [NEWEST, OLDEST])
def test_a_poll_for_a_thousand_invoices_on_twenty_pages_costs_at_most_23_requests(order: str) -> None:
    ledger = Ledger(20_000, order)
    poll = Polls(ledger)
    wanted = Wanted(frozenset(random.Random(4).sample(range(7_000, 9_000), 1_000)))
    poll(wanted)
    ledger.cost()

    for _ in range(60):
        assert len(poll(wanted).rows) == 1_000
        assert ledger.cost() <= 23


@pytest.mark.slow
@pytest.mark.parametrize(("count", "order"), [(1_000, NEWEST), (5_000, OLDEST), (20_000, NEWEST)])
def test_a_day_of_polls_for_all_changes_and_a_missing_invoice_stays_within_the_allowance(
    count: int, order: str
) -> None:
    ledger = Ledger(count, order, settled=lambda number: number < count - 20)
    poll = Polls(ledger)
    wanted = Wanted({count + 10**6}, everything=True)
    poll(wanted)
    ledger.cost()

    for _ in range(A_DAY // 4):
        poll(wanted)
    assert ledger.cost() <= 3_333 / 4 + 1


@pytest.mark.parametrize("order", [NEWEST, OLDEST])
@pytest.mark.parametrize("between", [1, 20, 150, 1_000])
def test_while_the_list_grows_an_invoice_is_found_again_in_at_most_five_requests(order: str, between: int) -> None:
    ledger = Ledger(20_000, order)
    watch = ListWatch(ledger)
    seen(watch, 9_000)
    for _ in range(20):
        for _ in range(between):
            ledger.insert()
        ledger.requests.clear()
        assert 9_000 in seen(watch, 9_000).rows
        assert ledger.cost() <= 5


def test_a_growing_list_costs_at_most_two_requests_a_poll_if_new_invoices_fit_on_a_page() -> None:
    ledger = Ledger(2_000)
    watch = ListWatch(ledger)
    seen(watch, 1_234)
    ledger.cost()
    for _ in range(8):
        for _ in range(37):
            ledger.insert()
        assert seen(watch, 1_234).rows[1_234].status == "pending"
        assert ledger.cost() <= 2


def test_a_wait_for_an_invoice_to_appear_costs_few_requests_and_finds_it_when_it_does() -> None:
    ledger = Ledger(3_000)
    poll = Polls(ledger)
    assert poll(Wanted({3_000})).rows == {}
    ledger.cost()
    for _ in range(10):
        assert poll(Wanted({3_000})).rows == {}
    assert ledger.cost() <= 24
    ledger.insert()
    assert poll(Wanted({3_000})).rows[3_000].status == "pending"


def test_a_poll_costs_at_most_five_requests_if_the_pending_invoices_are_on_three_pages() -> None:
    ledger = Ledger(2_000, settled=lambda number: number < 1_700)
    poll = Polls(ledger, daily=0)
    poll()
    ledger.cost()
    for _ in range(8):
        ledger.insert()
        poll()
        assert ledger.cost() <= 5


# --- what is promised


@pytest.mark.parametrize("order", [NEWEST, OLDEST])
@pytest.mark.parametrize("size", [20, 25, 100])
def test_new_invoices_are_seen_by_the_next_poll_even_if_as_many_were_deleted(order: str, size: int) -> None:
    chance = random.Random(5)
    ledger = Ledger(350, order, cap=size, page_size=size, settled=settled)
    poll = Polls(ledger)
    poll()
    for many in (1, 3, size - 1, size, size + 1, 120):
        before = set(ledger.ids)
        for _ in range(many):
            ledger.insert()
            ledger.delete(chance.choice([place for place, number in enumerate(ledger.ids) if number in before]))
            before &= set(ledger.ids)
        assert set(poll().changed) == set(ledger.ids) - before


@pytest.mark.parametrize("order", [NEWEST, OLDEST])
def test_a_change_of_an_open_invoice_is_seen_by_the_next_poll(order: str) -> None:
    ledger = Ledger(2_000, order, settled=lambda number: number % 20 != 0)
    poll = Polls(ledger, daily=0)
    assert poll().first
    for number in range(0, 2_000, 100):
        ledger.status[number] = "failed"
        now = poll()
        assert list(now.changed) == [number]
        assert now.rows[number].status == "failed"
        assert not now.first


@pytest.mark.slow
@pytest.mark.parametrize("order", [NEWEST, OLDEST])
@pytest.mark.parametrize("count", [1_000, 20_000])
def test_a_refund_of_a_settled_invoice_is_seen_within_one_turn_of_four_hours_at_most(order: str, count: int) -> None:
    ledger = Ledger(count, order, settled=settled)
    poll = Polls(ledger)
    poll()
    chance = random.Random(6)
    due = dict.fromkeys(chance.sample(range(count), 20), 0)
    for number in due:
        ledger.status[number] = "refunded"
    for _ in range(4 * 60):
        for key in poll().changed:
            del due[int(key)]
    assert due == {}


@pytest.mark.parametrize("order", [NEWEST, OLDEST])
@pytest.mark.parametrize("everything", [True, False])
def test_an_invoice_inserted_out_of_order_is_seen_within_one_turn(order: str, everything: bool) -> None:
    ledger = Ledger(1_000, order, settled=settled)
    wanted = Wanted({77_777}, everything=everything)
    poll = Polls(ledger)
    poll(wanted)
    ledger.ids.insert(321, 77_777)

    assert any(77_777 in getattr(poll.maybe(wanted), "rows", ()) for _ in range(30))


def test_a_deleted_invoice_is_forgotten_within_one_turn() -> None:
    ledger = Ledger(1_000, settled=settled)
    poll = Polls(ledger)
    poll()
    for number in (3, 500, 997):
        ledger.delete(ledger.ids.index(number))
    for _ in range(30):
        now = poll()
    assert now.statuses() == ledger.statuses()


def test_an_invoice_is_reported_absent_only_after_a_complete_read() -> None:
    ledger = Ledger(500)
    watch = ListWatch(ledger)
    seen(watch, 250)
    ledger.cost()
    ledger.delete(ledger.ids.index(250))

    proof = Wanted({250}, {250: 0})
    assert 250 not in watch.poll(proof).rows  # type: ignore[union-attr]  # a proof is never postponed
    assert ledger.cost() > 5

    assert 250 not in watch.poll(proof).rows  # type: ignore[union-attr]
    assert ledger.cost() <= 2  # because it is proved


@pytest.mark.parametrize("order", [NEWEST, OLDEST, SHUFFLED])
@pytest.mark.parametrize("count", [0, 1, 60, 730])
def test_an_invoice_that_does_not_exist_is_reported_missing_after_a_complete_read(order: str, count: int) -> None:
    listed = Ledger(count, order)

    assert ListWatch(listed).locate(10**6) is None
    assert {number for page, size in listed.requests for number in range((page - 1) * size, page * size)} >= set(
        range(count)
    )


@pytest.mark.parametrize("order", [NEWEST, OLDEST])
def test_an_invoice_out_of_order_is_never_reported_missing(order: str) -> None:
    for place in range(0, 501, 50):
        ledger = Ledger(500, order)
        ledger.ids.insert(place, 77_777)
        found = ListWatch(ledger).locate(77_777)
        assert found is not None
        assert found.key == 77_777


def test_a_later_subscriber_gets_its_own_proof_of_absence() -> None:
    ledger = Ledger(500)
    watch = ListWatch(ledger)
    subscriptions = Subscriptions()
    subscriptions.add([777], certain=True)
    assert watch.poll(subscriptions.begin()).rows == {}  # type: ignore[union-attr]
    ledger.insert()
    ledger.ids[250] = 777  # where no poll looks for it

    subscriptions.add([777], certain=True)

    assert 777 in watch.poll(subscriptions.begin()).rows  # type: ignore[union-attr]


def test_an_invoice_is_polled_until_its_last_subscriber_leaves() -> None:
    subscriptions = Subscriptions()
    subscriptions.add([1, 2])
    subscriptions.add([2, 3], certain=True)
    subscriptions.remove([1, 2])
    assert (set(subscriptions.begin().keys), dict(subscriptions.begin().certain)) == ({2, 3}, {2: 0, 3: 0})

    subscriptions.add([], everything=True)
    subscriptions.remove([2, 3])
    assert subscriptions.begin() == Wanted(frozenset(), {}, True)


def test_a_full_first_page_is_not_the_whole_list_even_if_count_decreases_to_its_length() -> None:
    """101 invoices. One is deleted between the rows of page 1 and its `count`. The last one always exists."""

    def one_goes(moving: MovingList) -> None:
        if len(moving.requests) == 1:
            moving.delete(0)

    for order in (NEWEST, OLDEST, SHUFFLED):
        moving = MovingList(101, order, between=one_goes)
        last = moving.ids[-1]
        found = ListWatch(moving).locate(last)
        assert found is not None
        assert found.key == last


# --- failures


@pytest.mark.parametrize("order", [NEWEST, OLDEST])
def test_a_failed_poll_loses_no_change_wherever_it_fails(order: str) -> None:
    for after in range(12):
        ledger = Ledger(500, order, max_concurrency=1)
        poll = Polls(ledger)
        poll()
        expected: dict[InvoiceId, str] = {490: "paid", 250: "failed", 3: "refunded"}
        ledger.status.update(expected)
        ledger.insert()
        ledger.broken_after = after
        changed = {}
        for _ in range(2):
            try:
                now = poll()
            except UnpodUnavailable:
                assert after < 10
            else:
                changed.update({key: now.rows[key].status for key in now.changed})
            ledger.broken_after = None
        assert changed == expected | {500: "pending"}


def test_rows_that_a_failed_poll_has_read_are_read_again_by_the_next() -> None:
    ledger = Ledger(500, max_concurrency=1)
    poll = Polls(ledger)
    poll()
    for after in range(4):
        ledger.status = dict.fromkeys(range(500), "paid")
        ledger.broken_after = after
        with pytest.raises(UnpodUnavailable):
            poll()
        ledger.broken_after = None
        ledger.status = {}
        now = poll()
        assert {one.status for one in now.rows.values()} <= {"pending"}
        assert set(now.statuses().values()) == {"pending"}


def test_a_deleted_invoice_is_forgotten_after_a_failed_and_successful_polls() -> None:
    ledger = Ledger(500, max_concurrency=1)
    poll = Polls(ledger, interval=3_600)
    poll()
    ledger.delete(450)
    ledger.broken_after = 3
    with pytest.raises(UnpodUnavailable):
        poll()
    ledger.broken_after = None
    ledger.delete(0)  # which the failed poll had read
    poll()

    assert poll().statuses() == ledger.statuses()


@pytest.mark.parametrize("order", [NEWEST, OLDEST])
@pytest.mark.parametrize("limit", [20, 30, 99])
def test_a_smaller_page_limit_of_the_server_costs_no_more_requests_than_its_pages(order: str, limit: int) -> None:
    ledger = Ledger(500, order, cap=limit)
    watch = ListWatch(ledger)
    assert 250 in seen(watch, 250).rows
    assert 250 in seen(watch, 250).rows
    ledger.cost()

    assert 250 in seen(watch, 250).rows
    assert ledger.cost() <= 2


@pytest.mark.parametrize("order", [NEWEST, OLDEST])
@pytest.mark.parametrize("limit", [10, 15, 20, 99])
def test_a_page_limit_that_comes_later_hides_no_invoice_and_one_that_goes_is_noticed(order: str, limit: int) -> None:
    ledger = Ledger(500, order, settled=lambda number: number > 20)
    poll = Polls(ledger, interval=3_600)
    poll()
    ledger.cap = limit
    for _ in range(12):
        ledger.insert()
        try:
            poll()
        except UnpodListUnstable:
            continue  # until it has read everything again
    ledger.status[3] = "paid"
    assert 3 in poll().changed
    assert poll().statuses() == ledger.statuses()

    ledger.cap = 100
    for _ in range(12):
        poll()
    poll(Wanted({250}))
    ledger.cost()
    poll(Wanted({250}))
    assert ledger.cost() == 1


# --- lists that cannot be followed


def by_status(ledger: Ledger) -> None:
    ledger.ids.sort(key=lambda number: (ledger.status_of(number), number))


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: Ledger(2_000, SHUFFLED), id="no order"),
        pytest.param(lambda: Ledger(2_000, counts="null"), id="no count"),
        pytest.param(
            lambda: Ledger(2_000, settled=lambda number: number % 3 > 0, world=by_status, max_concurrency=1),
            id="by status",
        ),
        pytest.param(lambda: Ledger(2_000, cap=12), id="tiny pages"),
    ],
)
@pytest.mark.parametrize("everything", [True, False])
def test_a_list_that_cannot_be_followed_is_read_completely_as_often_as_the_allowance_permits(
    make: Any, everything: bool
) -> None:
    ledger = make()
    poll = Polls(ledger)
    wanted = Wanted({1_999, 77_777}, everything=everything)
    poll(wanted)
    poll.maybe(wanted)
    ledger.cost()

    results = [poll.maybe(wanted) for _ in range(A_DAY // 4)]
    assert ledger.cost() <= 3_333 / 4 + 210
    read = [one for one in results if isinstance(one, Snapshot)]
    assert len(read) >= (3 if ledger.cap == 12 else 15)
    assert all(1_999 in one.rows and 77_777 not in one.rows for one in read)

    ledger.ids.insert(1_000, 77_777)
    assert isinstance(poll.maybe(wanted), Postponed)
    assert ledger.cost() == 0
    assert 77_777 in poll(wanted, last=True).rows


@pytest.mark.slow
def test_a_list_in_order_of_changes_is_read_within_the_allowance_and_no_change_is_missed() -> None:
    ledger = Ledger(2_000, settled=settled)
    poll = Polls(ledger)
    poll()
    chance = random.Random(7)
    told, expected = {}, {}
    for _ in range(A_DAY // 4):
        if chance.random() < 0.02:
            number = chance.choice(ledger.ids)
            ledger.status[number] = expected[number] = "failed"
            ledger.move(ledger.ids.index(number), 0)
        now = poll.maybe()
        if isinstance(now, Snapshot):
            told.update({key: now.rows[key].status for key in now.changed})
    now = poll(last=True)
    told.update({key: now.rows[key].status for key in now.changed})
    assert ledger.cost() <= 3_333 / 4 + 60
    assert told == expected
    assert now.statuses() == ledger.statuses()


def test_a_list_of_one_page_is_read_at_every_poll_in_whatever_order() -> None:
    ledger = Ledger(80, SHUFFLED)
    poll = Polls(ledger, daily=0)
    poll()
    for number in range(80):
        ledger.status[number] = "paid"
        assert list(poll().changed) == [number]
    assert ledger.cost() == 81


def test_a_wait_that_ends_reads_the_whole_list_for_an_invoice_that_was_not_found() -> None:
    ledger = Ledger(1_000)
    ledger.ids.insert(321, 77_777)
    poll = Polls(ledger, daily=0)
    wanted = Wanted({77_777})

    assert poll(wanted).rows == {}
    assert poll(wanted).rows == {}
    assert 77_777 in poll(wanted, last=True).rows


def test_an_invoice_of_a_list_in_no_order_is_found_wherever_it_has_moved() -> None:
    ledger = Ledger(2_000, SHUFFLED)
    watch = ListWatch(ledger)
    assert watch.locate(77)
    ledger.random.shuffle(ledger.ids)
    found = watch.locate(77)
    assert found is not None
    assert found.key == 77


# --- memory


@pytest.mark.parametrize("order", [NEWEST, OLDEST])
@pytest.mark.parametrize("wanted", [[9_000], [20, 60, 61], [7_777, "7780"], [77_777], [19_990, 5]])
def test_a_watch_continues_from_the_memory_of_another_in_the_requests_of_a_later_poll(
    order: str, wanted: list[InvoiceId]
) -> None:
    ledger = Ledger(20_000, order)
    ledger.requests.clear()
    watch = ListWatch(ledger)
    rows = seen(watch, *wanted).rows
    memory = watch.memory()
    for _ in range(20):
        ledger.cost()
        watch = ListWatch(ledger, memory=json.loads(json.dumps(memory)))
        assert seen(watch, *wanted).rows == rows
        memory = watch.memory()
        assert memory is not None
        assert ledger.cost() <= (2 if len(wanted) > 1 or wanted == [77_777] else 1)
        assert len(json.dumps(memory)) < 400


@pytest.mark.slow
def test_a_watch_with_memory_is_not_misled_by_a_list_that_has_changed_completely() -> None:
    ledger = Ledger(5_000)
    watch = ListWatch(ledger)
    seen(watch, 1_234)
    memory = json.loads(json.dumps(watch.memory()))
    for other in (
        Ledger(3_000),
        Ledger(30_000),
        Ledger(5_000, OLDEST),
        Ledger(5_000, SHUFFLED),
        Ledger(5_000, counts="null"),
    ):
        assert 1_234 in seen(ListWatch(other, memory=memory), 1_234, last=True).rows
        found = ListWatch(other, memory=memory).locate(1_234)
        assert found is not None
        assert ListWatch(other, memory=memory).locate(999_999) is None


def test_a_page_limit_that_came_between_two_polls_makes_the_next_watch_start_anew() -> None:
    """In reschedule mode, each poll is a watch of its own. The memory must not make all of them fail."""
    ledger = Ledger(5_000)
    watch = ListWatch(ledger)
    seen(watch, 1_234)
    memory = watch.memory()
    ledger.cap = 25
    watch = ListWatch(ledger, memory=memory)
    with pytest.raises(UnpodListUnstable):
        seen(watch, 1_234)

    assert 1_234 in seen(ListWatch(ledger, memory=watch.memory()), 1_234).rows


def test_a_list_in_no_order_has_no_memory() -> None:
    watch = ListWatch(Ledger(300, SHUFFLED))
    seen(watch, 5)
    assert watch.memory() is None


def test_5_000_different_statuses_are_told_apart() -> None:
    ledger = Ledger(5_000, settled=settled)
    poll = Polls(ledger)
    ledger.status = {number: f"status-{number}" for number in range(5_000)}
    poll()
    for number in (17, 4_095, 4_096, 4_097, 4_999):
        ledger.status[number] = f"status-{5_000 + number}"
    now = poll()
    assert {key: now.rows[key].status for key in now.changed} == {
        number: f"status-{5_000 + number}" for number in (17, 4_095, 4_096, 4_097, 4_999)
    }
    assert now.statuses() == ledger.statuses()


@pytest.mark.slow
def test_200_000_followed_invoices_take_at_most_60_mib() -> None:
    count = 20_000

    class Endless:
        page_size, max_concurrency = 100, 1

        def get_page(self, page: int, page_size: int, cancellation: object = None) -> Page:
            start = (page - 1) * page_size
            rows = [row(10**7 - place, "paid") for place in range(start, min(start + page_size, count))]
            return Page([Invoice(one) for one in rows], count, start >= count)

    clock = Clock()
    watch = ListWatch(Endless(), Allowance(10**6, clock=clock))
    gc.collect()
    tracemalloc.start()
    try:
        watch.poll(EVERYTHING)
        for _ in range(30):  # more than a turn
            clock.now += 60
            watch.poll(EVERYTHING)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(watch.statuses()) == count
    assert held <= 6 * 2**20
    assert peak <= 8 * 2**20


# --- the allowance


def test_polls_that_need_more_than_the_allowance_are_made_with_one_warning_that_names_the_figure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ledger = Ledger(5_000)
    poll = Polls(ledger)
    wanted = Wanted(frozenset(range(0, 5_000, 5)))
    for _ in range(10):
        assert len(poll(wanted).rows) == 1_000

    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "about 72,000 requests a day" in warning.getMessage()
    assert "`daily_requests` is 3,333" in warning.getMessage()


@pytest.mark.slow
def test_the_list_is_read_again_sooner_if_the_plan_allows_more_requests() -> None:
    def polls_until_seen(daily: int) -> int:
        ledger = Ledger(5_000, settled=settled)
        poll = Polls(ledger, daily=daily)
        poll()
        ledger.status[20] = "refunded"
        return next(number for number in range(1, 1_000) if 20 in poll().changed)

    assert polls_until_seen(30_000) < polls_until_seen(10_000) < polls_until_seen(3_333) / 3


def test_without_an_allowance_only_what_a_poll_needs_is_read() -> None:
    ledger = Ledger(5_000, settled=settled)
    poll = Polls(ledger, daily=0)
    poll()
    ledger.cost()
    for _ in range(20):
        poll()
    assert ledger.cost() == 20  # the newest invoices


@settings(max_examples=examples(200))
@given(
    rows=st.one_of(st.integers(0, 400), st.sampled_from([101, 102, 103])),
    order=st.sampled_from([NEWEST, OLDEST, SHUFFLED]),
    wanted=st.integers(0, 420),
    steps=st.lists(st.sampled_from("idfs."), max_size=40),
    between=st.lists(st.sampled_from("idf."), max_size=40),
    page_size=st.sampled_from([15, 100]),
)
def test_an_invoice_that_always_exists_is_never_reported_missing(
    rows: int, order: str, wanted: int, steps: list[str], between: list[str], page_size: int
) -> None:
    """Also if ``count`` is from another time than the rows."""

    def change(moving: MovingList, step: str) -> None:
        if step == "i":
            moving.insert()
        elif step in "df" and moving.ids:
            position = 0 if step == "f" else moving.random.randrange(len(moving.ids))
            if moving.ids[position] != wanted:
                moving.delete(position)

    before, after = iter(steps), iter(between)
    moving = MovingList(
        rows,
        order,
        world=lambda moving: change(moving, next(before, ".")),
        between=lambda moving: change(moving, next(after, ".")),
        cap=page_size,
        page_size=page_size,
    )
    watch = ListWatch(moving)
    for _ in range(3):
        try:
            found = watch.locate(wanted)
        except UnpodListUnstable:
            continue  # an honest answer, too, while every request sees another list
        if wanted in moving.stable:
            assert found is not None
            assert found.key == wanted


def test_the_end_of_a_list_of_any_length_is_confirmed_by_a_window_that_no_page_limit_cuts() -> None:
    lengths = [*range(1, 3_000), 413_280, 4_934_160, 7_096_320]
    for end in lengths:
        window = confirming(end)
        assert window.start < end < window.end
        assert end - window.start < 10
