"""The event trigger reports every change once, and a crash at any moment loses none."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_unpod.billing.errors import UnpodConfigError
from airflow_provider_unpod.billing.invoice import InvoiceId
from airflow_provider_unpod.billing.watching.allowance import Allowance
from airflow_provider_unpod.billing.watching.history import History
from airflow_provider_unpod.billing.watching.subscriptions import Subscriptions
from airflow_provider_unpod.billing.watching.watch import ListWatch
from airflow_provider_unpod.transitions import transitions_of
from airflow_provider_unpod.triggers import events
from airflow_provider_unpod.triggers.invoice import UnpodInvoiceEventTrigger
from tests.billing.reading.moving_list import MovingList, row
from tests.properties import examples

STATUSES = ["pending", "paid", "failed", "refunded"]


class Database:
    """The parts of Airflow that outlive a triggerer: stored events, and the state stores of assets."""

    def __init__(self) -> None:
        self.emitted: list[dict[str, Any]] = []
        self.kept: dict[tuple[str, str], Any] = {}

    def accessors(self, *assets: str) -> Any:
        database = self

        class Accessor:
            def __init__(self, asset: str) -> None:
                self.asset = asset

            async def aget(self, key: str, default: Any = None) -> Any:
                return database.kept.get((self.asset, key), default)

            async def aset(self, key: str, value: Any) -> None:
                database.kept[self.asset, key] = value

        class Accessors:
            _by_name = {asset: Accessor(asset) for asset in assets}  # noqa: RUF012 - as Airflow has it

        return Accessors()


class World:
    """A list of invoices, and a triggerer that can be killed at any time."""

    def __init__(self, invoices: int = 5, monkeypatch: pytest.MonkeyPatch | None = None, **arguments: Any) -> None:
        self.statuses: dict[int, str] = {}
        self.truth: dict[int, list[str]] = {}
        self.ledger = MovingList(0, make_row=lambda number: row(number, self.statuses[number]))
        for _ in range(invoices):
            self.create()
        self.arguments = arguments
        self.database = Database()
        self.started = False

    def create(self, status: str = "pending") -> None:
        number = self.ledger.next_id
        self.statuses[number] = status
        self.truth[number] = [status]
        self.ledger.insert()

    def set(self, number: int, status: str) -> None:
        if self.statuses[number] != status:
            self.statuses[number] = status
            self.truth[number].append(status)

    def run(self, polls: Sequence[Callable[[], object]], crash: str = "") -> list[dict[str, Any]]:
        """Run a triggerer for some polls, with a step before each; the transitions that were emitted.

        :param crash: when the triggerer is killed: ``"before storing"`` the last event, before ``"confirming"`` that
            it is stored, or, if empty, afterwards.
        """
        trigger = UnpodInvoiceEventTrigger(**self.arguments)
        trigger = UnpodInvoiceEventTrigger(**trigger.serialize()[1])
        trigger.asset_state_store = self.database.accessors("a", "b")
        subscriptions = Subscriptions()
        tracker = ListWatch(self.ledger, Allowance(10**9, saved=1e9))
        before = len(self.database.emitted)
        fed: Any = None
        idle: Any = None
        stream: Any = None
        pending: Any = None

        async def live() -> None:
            for number, step in enumerate(polls, 1):
                step()
                poll = tracker.poll(subscriptions.begin(), number=subscriptions.polls)
                event_of_poll = events.PolledEvent(poll)
                fed.put_nowait(event_of_poll)
                reported: list[dict[str, Any]] = []
                # The trigger takes the snapshot, emits its events, and asks for the next.
                while (event := await next_event()) is not None:
                    reported += event.payload["transitions"]
                last = number == len(polls)
                if last and crash == "before storing":
                    return
                self.database.emitted += reported
                if last and crash == "confirming":
                    return
                for commit in event_of_poll.commits:
                    await commit()

        async def feed() -> AsyncIterator[Any]:
            while True:
                yield await fed.get()
                idle.set()

        async def next_event() -> Any:
            nonlocal pending
            pending = pending or asyncio.ensure_future(anext(stream))
            asked = asyncio.ensure_future(wants_more())
            await asyncio.wait([pending, asked], return_when=asyncio.FIRST_COMPLETED)
            asked.cancel()
            if not pending.done():
                return None
            event, pending = pending.result(), None
            return event

        async def wants_more() -> None:
            await idle.wait()
            idle.clear()

        async def main() -> None:
            nonlocal fed, idle, stream, pending
            fed, idle, pending = asyncio.Queue(), asyncio.Event(), None
            stream = trigger._watch(feed(), subscriptions)
            pending = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)  # it subscribes
            try:
                await live()
            finally:
                if pending is not None:
                    pending.cancel()

        asyncio.run(main())
        return self.database.emitted[before:]


def nothing() -> None:
    """A step without changes."""


def brief(transitions: list[dict[str, Any]]) -> list[tuple[Any, Any, Any]]:
    return [(one["invoice_id"], one["from"], one["to"]) for one in transitions]


def test_on_the_first_start_existing_invoices_are_not_reported() -> None:
    world = World()
    assert world.run([nothing, nothing, lambda: world.set(3, "paid"), nothing]) == world.database.emitted
    assert brief(world.database.emitted) == [(3, "pending", "paid")]


def test_on_first_start_all_reports_the_existing_invoices() -> None:
    world = World(3, on_first_start="all")
    assert brief(world.run([nothing] * 3)) == [(n, None, "pending") for n in range(3)]
    assert world.run([nothing] * 3) == []


def test_all_changes_of_one_poll_come_in_one_list_with_records() -> None:
    world = World()

    def change() -> None:
        world.set(1, "paid")
        world.set(2, "failed")
        world.create("paid")

    reported = world.run([nothing, change, nothing])
    assert brief(reported) == [(1, "pending", "paid"), (2, "pending", "failed"), (5, None, "paid")]
    assert reported[0]["invoice"]["amount"] == "1.00"
    assert reported[0]["key"] == "1:pending:paid:1"


@pytest.mark.parametrize("to_statuses", ["paid", "PAID", "['Paid']", {"paid", "odd"}])
@pytest.mark.parametrize("invoice_ids", [["1", 2], "1, 2", "[1, '2']", {1, 2}])
def test_only_changes_to_the_given_statuses_of_the_given_invoices_are_reported(
    to_statuses: Any, invoice_ids: Any
) -> None:
    world = World(to_statuses=to_statuses, invoice_ids=invoice_ids)

    def change(status: str) -> None:
        for number in range(5):
            world.set(number, status)

    changes: list[Callable[[], None]] = [partial(change, status) for status in ("failed", "paid", "refunded")]
    reported = world.run([nothing, *changes, nothing])
    assert brief(reported) == [(1, "failed", "paid"), (2, "failed", "paid")]


def test_a_status_in_capitals_matches_to_statuses() -> None:
    world = World(1, to_statuses="paid")

    assert brief(world.run([nothing, lambda: world.set(0, " Paid")])) == [(0, "pending", "paid")]


def test_a_status_written_another_way_is_not_a_change() -> None:
    world = World(2)
    changes = [partial(world.set, 0, status) for status in ["paid", "Paid", "PAID ", "paid"]]

    assert brief(world.run([nothing, *changes])) == [(0, "pending", "paid")]
    world.set(0, "PAID")
    assert world.run([nothing, nothing]) == []


def test_a_second_change_from_failed_to_paid_has_another_key() -> None:
    world = World(1)
    changes = [partial(world.set, 0, status) for status in ["failed", "paid", "failed", "paid"]]
    reported = world.run([nothing, *changes])

    assert brief(reported)[1] == brief(reported)[3] == (0, "failed", "paid")
    assert reported[1]["key"] != reported[3]["key"]


def test_changes_made_while_no_triggerer_ran_are_reported_once_one_runs() -> None:
    world = World()
    world.run([nothing, lambda: world.set(0, "paid")])
    world.set(0, "refunded")
    world.set(1, "paid")
    world.create("failed")

    assert brief(world.run([nothing, nothing])) == [
        (0, "paid", "refunded"),
        (1, "pending", "paid"),
        (5, None, "failed"),
    ]
    assert world.run([nothing] * 3) == []


def test_changes_made_while_no_triggerer_ran_are_reported_however_far_the_list_moves() -> None:
    world = World(2_000)
    for number in range(2_000):
        if number % 200 != 20:
            world.set(number, "paid")
    world.run([nothing] * 2)
    paid = list(range(420, 2_000, 200))
    for number in paid:
        world.set(number, "paid")

    def purge() -> None:
        for _ in range(100):
            world.ledger.delete(185)

    reported = world.run([nothing, purge, *[nothing] * 3])
    assert sorted(one["invoice_id"] for one in reported) == [number for number in paid if number in world.ledger.ids]
    assert len(reported) >= 6


def test_all_statuses_are_copied_at_most_once_a_poll_however_many_invoices_vanish(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(300)
    world.run([nothing] * 2)
    for number in range(300):
        world.set(number, "paid")
    copies: list[int] = []
    copied = ListWatch.statuses

    def statuses(tracker: ListWatch) -> Any:
        copies.append(1)
        return copied(tracker)

    monkeypatch.setattr(ListWatch, "statuses", statuses)

    def purge() -> None:
        for number in range(100, 200):
            world.ledger.delete(world.ledger.ids.index(number))

    assert len(world.run([nothing, purge, *[nothing] * 2])) == 200
    assert len(copies) <= 4


def test_a_row_that_cannot_become_a_record_is_reported_as_it_came() -> None:
    world = World()
    make = world.ledger.make_row
    world.ledger.make_row = lambda number: make(number) | ({"tax_amount": "soon"} if number == 3 else {})

    def change() -> None:
        world.set(1, "paid")
        world.set(3, "paid")

    reported = world.run([nothing, change])
    assert [one["invoice_id"] for one in reported] == [1, 3]
    assert reported[1]["invoice"]["tax_amount"] == "soon"


def test_text_that_a_database_cannot_store_is_in_no_event_and_no_state() -> None:
    world = World()
    make = world.ledger.make_row
    world.ledger.make_row = lambda number: make(number) | ({"name": "AC\x00ME\ud800"} if number == 3 else {})
    emitted = world.run([nothing, lambda: world.set(3, "od\x00d")], "confirming")

    assert [(one["to"], one["invoice"]["name"]) for one in emitted] == [("od\ufffdd", "AC\ufffdME\ufffd")]
    state = json.dumps(world.database.kept[next(iter(world.database.kept))], ensure_ascii=False)
    assert "\\u0000" not in state
    state.encode()
    (again,) = world.run([nothing, nothing])  # found by its key, so the state knows the text as it came
    assert again == emitted[0]
    assert world.run([nothing, nothing]) == []


def test_without_a_state_store_no_unconfirmed_transitions_pile_up() -> None:
    async def emit() -> list[Any]:
        journal = events.Journal(None, [])
        await journal.record([{"key": "1:pending:paid:1"}])
        return journal._unconfirmed

    assert asyncio.run(emit()) == []


@pytest.mark.parametrize("crash", ["before storing", "confirming"])
def test_a_crash_before_the_confirmation_repeats_the_event_under_the_same_key(crash: str) -> None:
    world = World()
    first = world.run([nothing, lambda: world.set(0, "paid")], crash)
    again = world.run([nothing, nothing])

    assert [one["key"] for one in again] == ["0:pending:paid:1"]
    assert first == [] or [one["key"] for one in first] == ["0:pending:paid:1"]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ({"on_first_start": "some"}, "on_first_start"),
        ({"invoice_ids": []}, "`invoice_ids` must be at least one"),
        ({"invoice_ids": ["101", None]}, "`invoice_ids`"),
        ({"invoice_ids": 1.5}, "`invoice_ids`"),
        ({"invoice_ids": "None"}, "`invoice_ids`"),
        *[({"to_statuses": one}, "`to_statuses`") for one in ([], "", " ", 3, ["paid", None], {"paid": 1}, "null")],
    ],
)
def test_an_invalid_argument_is_refused_when_the_dag_is_parsed(arguments: dict[str, Any], hint: str) -> None:
    with pytest.raises(UnpodConfigError, match=hint):
        UnpodInvoiceEventTrigger(**arguments)


@given(st.permutations(["paid", "failed", "PAID"]), st.permutations([7, "12", "INV-3", 30, "30", "A"]))
def test_a_trigger_is_the_same_in_whatever_order_its_statuses_and_ids_come(statuses: list[str], ids: list[Any]) -> None:
    stored = UnpodInvoiceEventTrigger(to_statuses=statuses, invoice_ids=ids).serialize()[1]

    assert (stored["to_statuses"], stored["invoice_ids"]) == (["failed", "paid"], [7, 12, 30, "A", "INV-3"])


@pytest.mark.parametrize("again", [{}, {"to_statuses": ["paid", "failed"], "invoice_ids": ["3", 2, "1"]}])
def test_another_order_of_statuses_and_ids_is_the_same_watcher(again: dict[str, Any]) -> None:
    world = World(to_statuses=["failed", "paid"], invoice_ids=[1, 2, "3"])
    world.run([nothing, nothing])
    world.set(2, "paid")
    world.arguments |= again

    assert brief(world.run([nothing, nothing])) == [(2, "pending", "paid")]


@pytest.mark.parametrize("ids", [["1", "2"], [2, 1], ["2", 1, "1"], "1, 2"])
def test_stored_state_is_found_under_the_same_key_by_every_spelling_of_the_ids(ids: Any) -> None:
    world = World(to_statuses="paid", invoice_ids=ids)
    world.run([nothing])

    kept_for = ["unpod_default", None, ["paid"], [1, 2]]
    digest = hashlib.sha256(json.dumps(kept_for).encode()).hexdigest()[:16]
    assert {key for _, key in world.database.kept} == {f"airflow_provider_unpod.history.{digest}"}


LIFE = st.lists(
    st.tuples(
        # The changes before each poll of this run: (invoice, status), or a new invoice.
        st.lists(st.lists(st.tuples(st.integers(0, 6), st.sampled_from(STATUSES)), max_size=4), min_size=2, max_size=5),
        st.sampled_from(["", "before storing", "confirming"]),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=examples(150), deadline=None)
@given(LIFE)
def test_whenever_the_triggerer_dies_no_change_is_lost_or_reported_under_two_keys(life: Any) -> None:
    world = World(5, invoice_ids=range(7))
    world.run([nothing, nothing])

    def step(changes: list[tuple[int, str]]) -> Callable[[], None]:
        def happen() -> None:
            for number, status in dict(changes).items():
                if number in world.statuses:
                    world.set(number, status)
                elif number == world.ledger.next_id:
                    world.create(status)

        return happen

    for polls, crash in life:
        world.run([step(changes) for changes in polls], crash)
    world.run([nothing, nothing, nothing])

    reported: dict[int, dict[str, dict[str, Any]]] = {}
    for one in world.database.emitted:
        assert reported.setdefault(one["invoice_id"], {}).setdefault(one["key"], one)["to"] == one["to"]
    for number, path in world.truth.items():
        steps = list(reported.get(number, {}).values())
        born = number >= 5
        if len(path) == 1 and not born:
            assert not steps
            continue
        if steps:
            last = [one for one in world.database.emitted if one["invoice_id"] == number][-1]
            assert last["to"] == path[-1]
        else:
            assert path[0] == path[-1]  # it changed back before the next poll
        assert len(steps) <= len(path) - 1 + born


MOVES = st.one_of(
    st.tuples(st.just("set"), st.integers(0, 160), st.sampled_from(STATUSES)),
    st.tuples(st.just("purge"), st.integers(0, 70), st.integers(1, 60)),
    st.tuples(st.just("create"), st.integers(1, 8), st.sampled_from(STATUSES)),
)


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.lists(st.lists(MOVES, max_size=6), min_size=1, max_size=4), min_size=1, max_size=5))
def test_however_far_a_list_of_many_pages_moves_between_polls_the_current_statuses_are_reported(lives: Any) -> None:
    world = World(150)
    world.ledger.page_size = world.ledger.cap = 3

    def step(moves: list[tuple[str, int, Any]]) -> Callable[[], None]:
        def happen() -> None:
            for what, where, much in moves:
                if what == "set" and where in world.statuses:
                    world.set(where, much)
                elif what == "create":
                    for _ in range(where):
                        world.create(much)
                elif what == "purge":
                    del world.ledger.ids[where : where + much]

        return happen

    world.run([nothing])
    for polls in lives:  # one triggerer each; what happens before its first poll happened while none ran
        world.run([step(moves) for moves in polls], "confirming")
    world.run([nothing] * 12)

    reported = {one["invoice_id"]: one["to"] for one in world.database.emitted}
    for number in world.ledger.ids:
        assert reported.get(number, "pending" if number < 150 else None) == world.statuses[number]


@settings(max_examples=examples(100), deadline=None)
@given(
    st.dictionaries(
        st.one_of(st.integers(0, 10**12), st.text("AB-019", min_size=1)),
        st.sampled_from([*STATUSES, "odd"]),
        max_size=60,
    ),
    st.integers(0, 40),
)
def test_a_stored_and_loaded_history_finds_the_same_changes(statuses: dict[Any, str], max_settled: int) -> None:
    history = History(statuses)
    loaded = History.load(history.dump(max_settled))

    assert loaded.news_in(statuses) == set()
    for key, status in statuses.items():
        if status in ("pending", "odd"):
            assert loaded.news_in({key: "paid"}) == {key}


def test_a_stored_history_is_small_however_many_invoices_there_are() -> None:
    many: dict[InvoiceId, str] = {
        number: "pending" if number % 100 == 0 else STATUSES[number * 7919 % 13 % 3 + 1] for number in range(100_000)
    }
    dumped = History(many).dump()

    assert len(json.dumps(dumped)) < 50_000
    assert History.load(dumped).news_in({**many, 100_001: "paid", 50: "refunded"}) == {100_001}


def test_transitions_of_returns_each_transition_once_and_in_order() -> None:
    class Event:
        def __init__(self, extra: Any) -> None:
            self.extra = extra

    def payload(*keys: str) -> Any:
        transitions = [{"key": key, "seen_at": f"2026-01-0{key}"} for key in keys]
        return {"from_trigger": True, "payload": {"transitions": transitions}}

    events = {"asset": [Event(payload("2", "3")), Event({}), Event(None)], "other": [Event(payload("1", "2"))]}

    assert [one["key"] for one in transitions_of(events)] == ["1", "2", "3"]
