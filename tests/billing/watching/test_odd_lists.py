"""Odd servers and odd ids cost requests, but never end a wait and never blind it for long."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from typing import Any

import pytest

from airflow_provider_unpod.billing.errors import UnpodListUnstable
from airflow_provider_unpod.billing.watching.condition import Condition
from airflow_provider_unpod.billing.watching.poller import InvoicePoller
from airflow_provider_unpod.billing.watching.subscriptions import Postponed, Snapshot, Wanted
from airflow_provider_unpod.billing.watching.watch import ListWatch
from airflow_provider_unpod.hooks.unpod import UnpodHook
from airflow_provider_unpod.sandbox import Sandbox
from tests.billing.reading.moving_list import NEWEST, OLDEST, SHUFFLED, MovingList, row
from tests.billing.watching.ledger import EVERYTHING, Ledger, Polls

POLLS_OF_A_DAY = 1_440


@pytest.mark.slow
@pytest.mark.parametrize("order", [NEWEST, OLDEST])
@pytest.mark.parametrize("limit", [20, 50])
def test_after_a_lower_page_limit_one_poll_fails_at_most_and_every_refund_is_seen_within_a_turn(
    order: str, limit: int
) -> None:
    ledger = Ledger(3_000, order, settled=lambda number: True)
    poll = Polls(ledger)
    for _ in range(5):
        poll()
    ledger.cap = limit
    refunded = set(range(0, 3_000, 7))
    ledger.status.update(dict.fromkeys(refunded, "refunded"))

    failed, seen = 0, set()
    for _ in range(POLLS_OF_A_DAY // 2):
        try:
            seen.update(poll.maybe().changed)
        except UnpodListUnstable:
            failed += 1
    assert failed <= 1
    assert seen == refunded
    assert ledger.cost() <= 3_333 / 2 + 100


def test_one_response_without_a_count_changes_nothing() -> None:
    ledger = Ledger(20_000, settled=lambda number: number != 10_000)
    poll, wanted = Polls(ledger), Wanted({10_000})
    poll(wanted)
    ledger.counts = "null"
    assert 10_000 in poll(wanted).rows
    ledger.counts = "right"
    ledger.cost()

    assert all(10_000 in poll(wanted).rows for _ in range(100))
    assert ledger.cost() == 100


def test_a_row_out_of_order_that_has_gone_does_not_make_later_polls_read_everything() -> None:
    ledger = Ledger(2_000, settled=lambda number: True)
    poll, wanted = Polls(ledger, interval=3_600), Wanted({1_000})
    poll(wanted)
    row_before = ledger.ids.index(1_000)
    ledger.ids.insert(row_before, 77_777)
    poll.maybe(wanted)
    ledger.ids.remove(77_777)
    for _ in range(24):
        poll.maybe(wanted)
    ledger.cost()

    assert isinstance(poll.maybe(wanted), Snapshot)
    assert ledger.cost() <= 2


def both(ledger: Ledger) -> Any:
    return lambda number: row(number, ledger.status_of(number)) | {"invoice_number": f"INV-{number:06}"}


@pytest.mark.parametrize("order", [NEWEST, OLDEST])
def test_an_invoice_whose_number_does_not_exist_yet_is_seen_by_the_poll_after_its_creation(order: str) -> None:
    ledger = Ledger(20_000, order, settled=lambda number: True)
    ledger.make_row = both(ledger)
    poll, wanted = Polls(ledger), Wanted({"INV-020003"})
    for _ in range(5):
        assert poll(wanted).rows == {}
    poll.allowance.spend(3_333)  # nothing may be read in turn
    for _ in range(10):
        ledger.insert()

    assert poll(wanted).rows["INV-020003"].key == 20_003


def test_a_second_search_by_number_costs_no_more_than_the_first() -> None:
    ledger = Ledger(20_000, settled=lambda number: True)
    ledger.make_row = both(ledger)
    watch, costs = ListWatch(ledger), []
    for number in (123, 19_000, 10_500):
        assert watch.locate(f"INV-{number:06}") is not None
        costs.append(ledger.cost())
    assert max(costs) <= 7


@pytest.mark.parametrize("order", [NEWEST, OLDEST])
@pytest.mark.parametrize("digits", [19, 400, 5_000])
def test_an_id_of_any_length_is_not_found_and_ends_no_other_wait(order: str, digits: int) -> None:
    poll = Polls(Ledger(2_000, order))
    long_one = "9" * digits
    assert set(poll(Wanted({5, long_one})).rows) == {5}
    assert set(poll(Wanted({5, long_one})).rows) == {5}


@pytest.mark.parametrize("order", [NEWEST, OLDEST])
def test_of_two_invoices_with_one_number_every_poll_returns_the_one_with_the_greatest_id(order: str) -> None:
    def numbered(number: int) -> dict[str, Any]:
        return row(number) | {"invoice_number": "X-5" if number in (100, 1_990) else f"INV-{number:06}"}

    ledger = Ledger(2_000, order, make_row=numbered)
    poll = Polls(ledger)
    assert {poll(Wanted({"X-5"})).rows["X-5"].key for _ in range(5)} == {1_990}
    beside_others = poll(Wanted({"X-5", "INV-000500"}, everything=True))
    assert beside_others.rows["X-5"].key == 1_990


def test_an_invoice_on_the_last_page_is_found_although_the_end_is_in_doubt() -> None:
    ledger = Ledger(950, max_concurrency=1)
    watch = ListWatch(ledger)
    assert watch.locate(500) is not None
    requests = 0

    def count_wrongly(moving: MovingList) -> None:
        nonlocal requests
        requests += 1
        moving.counts = "null" if requests == 2 else len(moving.ids) + 3

    ledger.world = count_wrongly
    found = watch.locate(3)
    assert found is not None
    assert found.key == 3


def test_a_proof_of_absence_from_a_list_in_no_order_costs_one_complete_read_and_then_only_the_allowance() -> None:
    listed = Ledger(20_000, SHUFFLED, max_concurrency=1)
    polls = Polls(listed, daily=100)
    wanted = Wanted({10_000}, {10_000: 0})
    assert polls(wanted).rows.keys() == {10_000}
    listed.cost()
    for _ in range(60):
        assert isinstance(polls.maybe(wanted), Postponed)
    assert listed.cost() == 0
    listed.ids.remove(10_000)
    assert polls(wanted, last=True).rows.keys() == set()


@pytest.mark.parametrize("wanted", [EVERYTHING, Wanted({5}), Wanted({5}, {5: 0})])
def test_a_list_whose_complete_reads_fail_is_read_three_times_and_then_only_within_the_allowance(
    wanted: Wanted,
) -> None:
    listed = Ledger(2_000, SHUFFLED, max_concurrency=1, world=lambda moving: moving.move())
    listed.ids.remove(5)
    polls, costs = Polls(listed, daily=10), []
    for _ in range(60):
        with suppress(UnpodListUnstable):
            polls.maybe(wanted)
        costs.append(listed.cost())
    assert all(costs[:3])
    assert not any(costs[3:])
    with pytest.raises(UnpodListUnstable):
        polls.maybe(wanted, last=True)


def in_batches(number: int) -> str:
    """Return numbers as of batches of 300 invoices for one of seven customers after the other."""
    return f"C{number // 300 % 7}-{number // 2_100 * 300 + number % 300:05}"


@pytest.mark.parametrize("order", [NEWEST, OLDEST])
def test_a_missing_number_is_searched_once_and_seen_by_the_poll_after_its_creation_in_whatever_order_numbers_are(
    order: str,
) -> None:
    for size in range(20_000, 21_400, 200):
        ledger = Ledger(size, order, max_concurrency=1, make_row=lambda n: row(n) | {"invoice_number": in_batches(n)})
        poll, wanted = Polls(ledger, daily=1), Wanted({in_batches(size + 5)})
        poll(wanted)
        ledger.cost()
        for _ in range(20):
            assert poll(wanted).rows == {}
        assert ledger.cost() <= 20 + 1
        for _ in range(10):
            ledger.insert()
        assert len(poll(wanted).rows) == 1


def test_a_wait_for_a_number_that_joins_a_poll_finds_it_at_once_although_numbers_are_in_another_order() -> None:
    ledger = Ledger(2_000, max_concurrency=1, make_row=lambda n: row(n) | {"invoice_number": f"R{n * 787 % 2_000:04}"})
    poll = Polls(ledger, daily=1)
    for _ in range(3):
        poll(Wanted({1_900}))
    assert poll(Wanted({1_900, f"R{300 * 787 % 2_000:04}"})).rows.keys() == {1_900, f"R{300 * 787 % 2_000:04}"}


@pytest.mark.parametrize("number", [1_000, 3_000])
def test_a_watch_with_memory_reads_each_page_once_however_many_invoices_are_on_it(number: int) -> None:
    ledger = Ledger(10_000, max_concurrency=1)
    wanted = Wanted(set(random.Random(1).sample(range(10_000), number)))
    memory = None
    for _ in range(3):
        watch = ListWatch(ledger, memory=memory)
        ledger.cost()
        seen = watch.poll(wanted)
        assert isinstance(seen, Snapshot)
        assert len(seen.rows) == number
        memory = json.loads(json.dumps(watch.memory()))
    assert ledger.cost() <= 100 + 5


@pytest.mark.parametrize("memory", [{}, {"rows": [[1, 2]]}, [1], "a text", {"allowance": None}])
def test_a_memory_of_another_version_is_ignored(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(invoices=10) as sandbox:
        monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", sandbox.connection_json())
        condition = Condition.from_arguments(sandbox.ledger.ids(), wait_for="any")
        poller = InvoicePoller(condition, UnpodHook().get_conn, 5)
        poller.continue_from(0, memory)
        assert poller.poll() is not None
        poller.close()
