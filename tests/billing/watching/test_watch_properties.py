"""Whatever happens to the list and whenever, the polls say only what is true."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from airflow_provider_unpod.billing.errors import UnpodListUnstable, UnpodUnavailable
from airflow_provider_unpod.billing.invoice import InvoiceId
from airflow_provider_unpod.billing.watching.allowance import Allowance
from airflow_provider_unpod.billing.watching.subscriptions import Postponed, Snapshot, Wanted
from airflow_provider_unpod.billing.watching.watch import ListWatch
from tests.billing.reading.moving_list import NEWEST, OLDEST, SHUFFLED, MovingList
from tests.billing.watching.ledger import Clock, Ledger
from tests.properties import examples

BY_STATUS, BY_CHANGE = "by (status, id)", "by change"
STATUSES = ["pending", "paid", "failed", "refunded"]
#: Requests by which reads in turn may exceed the allowance: one search, and the checks of the list's end.
OVERRUN = 60
CHANGES = st.tuples(
    st.sampled_from(["insert", "insert", "back-date", "delete", "status", "status", "status", "burst", "cut"]),
    st.integers(0, 10_000),
    st.sampled_from(STATUSES),
)


class Remembered(Ledger):
    """A list that remembers when each invoice had which status. ``None`` means that it did not exist."""

    def __init__(self, rows: int, order: str, limit: int, counts: str) -> None:
        self.moment = 0
        self.past: dict[InvoiceId, list[tuple[int, str | None]]] = {}
        #: The moment at which the list was last seen in an order other than that of its ids.
        self.disorder = -1
        #: Whether an invoice was inserted out of order. At the end of a page, it hides its neighbors for one poll.
        self.back_dated = False
        self.sorting = order
        self.planned: list[Any] = []
        listed = order if order in (NEWEST, OLDEST, SHUFFLED) else OLDEST
        super().__init__(
            rows, listed, cap=limit, page_size=20, counts=counts, max_concurrency=1, world=_act, between=_act
        )
        for number in self.ids:
            self.status[number] = STATUSES[number % 4]
        self.sort()
        for number in list(self.ids):
            self.note(number)

    def note(self, number: int) -> None:
        self.moment += 1
        here = number in self.ids
        self.past.setdefault(number, []).append((self.moment, self.status[number] if here else None))
        rising = all(one < other for one, other in zip(self.ids, self.ids[1:], strict=False))
        falling = all(one > other for one, other in zip(self.ids, self.ids[1:], strict=False))
        if not (rising or falling):
            self.disorder = self.moment

    def sort(self) -> None:
        if self.sorting == BY_STATUS:
            self.ids.sort(key=lambda number: (self.status[number], number))

    def change(self, what: str, place: int, status: str) -> None:
        number = self.ids[place % len(self.ids)] if self.ids else -1
        if what in ("insert", "burst", "back-date"):
            for _ in range(45 if what == "burst" else 1):
                new = self.next_id
                self.status[new] = status
                if what == "back-date":
                    self.back_dated = True
                    self.next_id += 1
                    self.ids.insert(place % (len(self.ids) + 1), new)
                else:
                    self.insert()
                self.sort()
                self.note(new)
        elif number >= 0 and what in ("delete", "cut"):
            at = place % len(self.ids)
            for gone in self.ids[at : at + (30 if what == "cut" else 1)]:
                self.ids.remove(gone)
                self.note(gone)
        elif number >= 0:
            self.status[number] = status
            if self.sorting == BY_CHANGE:
                self.ids.remove(number)
                self.ids.append(number)
            self.sort()
            self.note(number)

    def during(self, number: InvoiceId, begin: int, end: int) -> set[str | None]:
        """Return all that was true of an invoice at any time between two moments."""
        before: str | None = None
        found = set()
        for moment, status in self.past.get(number, ()):
            if moment <= begin:
                before = status
            elif moment <= end:
                found.add(status)
        return found | {before}


def _act(listed: MovingList) -> None:
    assert isinstance(listed, Remembered)
    if listed.planned and (step := listed.planned.pop(0)) is not None:
        listed.change(*step)


class Audited(Allowance):
    """An allowance that counts what polls needed."""

    needed = 0

    def spend_on_poll(self, requests: int, *, first: bool) -> None:
        self.needed += requests
        super().spend_on_poll(requests, first=first)


class Watching(RuleBasedStateMachine):
    """A list, everything that may happen to it, and a watch of it that must not be misled."""

    @initialize(
        rows=st.sampled_from([0, 1, 19, 20, 21, 40, 130]),
        order=st.sampled_from([NEWEST, NEWEST, OLDEST, OLDEST, SHUFFLED, BY_STATUS, BY_CHANGE]),
        limit=st.sampled_from([100, 100, 20, 19, 12]),
        counts=st.sampled_from(["right", "right", "right", "null"]),
        daily=st.sampled_from([0, 3_333, 100_000]),
        everything=st.booleans(),
    )
    def start(self, rows: int, order: str, limit: int, counts: str, daily: int, everything: bool) -> None:
        self.ledger = Remembered(rows, order, limit, counts)
        self.clock = Clock()
        self.daily, self.everything = daily, everything
        self.allowance = Audited(daily, clock=self.clock)
        self.watch = ListWatch(self.ledger, self.allowance)
        self.wanted: set[int] = {0, 5, 10**6}
        self.certain: dict[InvoiceId, int] = {}
        self.subscribed: dict[InvoiceId, int] = {}
        self.told: dict[InvoiceId, str] = {}
        self.told_at = 0
        self.polls = 0

    @rule(change=CHANGES)
    def change(self, change: Any) -> None:
        self.ledger.change(*change)

    @rule(limit=st.sampled_from([100, 30, 20, 15, 11]))
    def limit_pages(self, limit: int) -> None:
        self.ledger.cap = limit

    @rule(steps=st.lists(st.one_of(st.none(), CHANGES), max_size=12))
    def plan_changes_between_requests_and_between_rows_and_count(self, steps: list[Any]) -> None:
        self.ledger.planned = steps

    @rule(after=st.one_of(st.none(), st.integers(0, 8)))
    def break_the_server(self, after: int | None) -> None:
        self.ledger.broken_after = after

    @rule(places=st.sets(st.integers(-3, 200), max_size=8), certain=st.booleans())
    def want_others(self, places: set[int], certain: bool) -> None:
        self.wanted = places
        self.certain = {key: self.polls for key in places if certain and key % 2}
        self.subscribed = dict.fromkeys(self.certain, self.ledger.moment)

    @rule(last=st.sampled_from([False, False, False, True]), minutes=st.sampled_from([1, 1, 1, 60]))
    def poll(self, last: bool, minutes: int) -> None:
        self.clock.now += 60 * minutes
        self.polls += 1
        ledger, begin = self.ledger, self.ledger.moment
        known = set(self.watch.statuses())
        ledger.requests.clear()
        try:
            seen = self.watch.poll(Wanted(frozenset(self.wanted), self.certain, self.everything), last=last)
        except (UnpodListUnstable, UnpodUnavailable):
            self.ledger.broken_after = None
            return
        end = ledger.moment
        if isinstance(seen, Postponed):
            assert not last
            assert not self.everything or self.watch._follower is None
            return
        for key, invoice in seen.rows.items():
            assert invoice.status in ledger.during(invoice.key, begin, end), f"{key} is not of this poll"
        for key, since in self.subscribed.items():
            assert key in seen.rows or None in ledger.during(key, since, end), f"{key} is falsely absent"
        if self.everything:
            self.check_changes(seen, begin, end, known)
        if ledger.disorder < 0:
            for key in self.wanted:
                now = ledger.during(key, begin, end)
                assert None in now or key in seen.rows, f"{key} was not found"

    def check_changes(self, seen: Snapshot, begin: int, end: int, known: set[InvoiceId]) -> None:
        ledger = self.ledger
        for key in seen.changed:
            repeated = seen.rows[key].status == self.told.get(key) and len(ledger.during(key, self.told_at, end)) == 1
            assert ledger.back_dated or not repeated, f"{key} is told twice"
            self.told[key] = seen.rows[key].status
        if seen.first:
            assert not seen.changed
            self.told = dict(seen.statuses())
        self.told_at = begin
        if ledger.disorder < 0:
            newest = max(map(int, known), default=-1)
            for key in ledger.past:
                now = ledger.during(key, begin, end)
                open_or_new = self.told.get(key, "pending") == "pending" and (key in self.told or int(key) > newest)
                if len(now) == 1 and None not in now and (key in self.wanted or (open_or_new and not seen.first)):
                    assert self.told.get(key) in now, f"a change of {key} is missed"

    @invariant()
    def what_no_poll_needs_is_within_the_allowance(self) -> None:
        if hasattr(self, "allowance"):
            total = self.watch._source.requests
            assert total - self.allowance.needed <= self.daily * self.clock.now / 86_400 + OVERRUN

    def finish(self) -> None:
        """A list that has come to rest is known completely, and every change of it has been told."""
        ledger = self.ledger
        ledger.planned, ledger.broken_after = [], None
        self.allowance.daily, self.daily = 10**7, 10**9
        missing: dict[InvoiceId, int] = dict.fromkeys(self.wanted, self.polls)
        for _ in range(16):
            self.clock.now += 3_600
            self.polls += 1
            begin = ledger.moment
            try:
                seen = self.watch.poll(Wanted(frozenset(self.wanted), missing, self.everything))
            except UnpodListUnstable:
                continue
            assert isinstance(seen, Snapshot)
            if self.everything:
                self.check_changes(seen, begin, ledger.moment, set())
        assert isinstance(seen, Snapshot)
        here = ledger.statuses()
        assert {key: one.status for key, one in seen.rows.items() if key in self.wanted} == {
            key: here[key] for key in self.wanted if key in here
        }
        if self.everything:
            assert seen.statuses() == here
            assert {key: status for key, status in self.told.items() if key in here} == here

    def teardown(self) -> None:
        if hasattr(self, "watch"):
            self.finish()


TestWhateverHappensToTheListThePollsSayOnlyWhatIsTrue = Watching.TestCase
TestWhateverHappensToTheListThePollsSayOnlyWhatIsTrue.settings = settings(
    max_examples=examples(100), stateful_step_count=30, deadline=None
)
