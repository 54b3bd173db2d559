"""A list is read completely while it changes, or the read fails."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
from collections.abc import Callable, Iterator
from math import ceil
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, target
from hypothesis import strategies as st

from airflow_provider_unpod.billing.client import Page, UnpodClient
from airflow_provider_unpod.billing.errors import UnpodConfigError, UnpodError, UnpodListUnstable, UnpodUnavailable
from airflow_provider_unpod.billing.invoice import Invoice
from airflow_provider_unpod.billing.reading import fetcher as fetcher_module
from airflow_provider_unpod.billing.reading.evidence import Evidence
from airflow_provider_unpod.billing.reading.fetcher import Fetcher
from airflow_provider_unpod.billing.reading.linked_read import PATIENCE
from airflow_provider_unpod.billing.reading.passes import MAX_PASSES
from airflow_provider_unpod.billing.reading.reading import read_list
from airflow_provider_unpod.billing.reading.windows import Window, chain_length, planned_requests
from airflow_provider_unpod.sandbox import Sandbox
from tests.billing.reading.moving_list import NEWEST, OLDEST, SHUFFLED, MovingList, ScramblingPool, row
from tests.properties import examples

ORDERS = (NEWEST, OLDEST, SHUFFLED)
#: For `fetcher_module.SWIFT`: which answers count as being there at once.
NEVER, BY_DEFAULT, ALWAYS = 0.0, fetcher_module.SWIFT, 3_600.0


@pytest.fixture(autouse=True)
def requests_in_any_order() -> Iterator[None]:
    """Run concurrent requests in an arbitrary but repeatable order."""
    patch = pytest.MonkeyPatch()
    patch.setattr(fetcher_module, "ThreadPoolExecutor", ScramblingPool)
    patch.setattr(fetcher_module, "SWIFT", NEVER)
    ScramblingPool.chooser = random.Random(7)
    yield
    patch.undo()


def read(source: Any, **options: Any) -> tuple[list[int], Evidence]:
    with read_list(source, **options) as reading:
        ids = [invoice.key for invoice in reading]
        return ids, reading.evidence  # type: ignore[return-value]  # these lists have integer ids


# -- a list that stands still


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("count", [0, 1, 2, 11, 12, 13, 18, 24, 36, 60, 72, 99, 100, 101, 200, 201, 1_234])
@pytest.mark.parametrize("past_end", ["404", "200"])
@pytest.mark.parametrize("counts", ["right", "null"])
def test_every_invoice_is_read_once_for_any_length_order_and_kind_of_end(
    order: str, count: int, past_end: str, counts: str
) -> None:
    for consistency, page_size in [("linked", 100), ("linked", 12), ("single-pass", 100), ("single-pass", 12)]:
        quiet = MovingList(count, order, past_end=past_end, counts=counts, page_size=page_size)
        ids, evidence = read(quiet, consistency=consistency)
        assert ids == quiet.ids
        assert evidence.consistency == ("repeated" if consistency == "linked" and counts == "null" else consistency)
        assert evidence.end == ("short" if evidence.consistency == "linked" or len(quiet.requests) == 1 else "past")
        assert evidence.invoices == count
        assert evidence.requests == len(quiet.requests)


@pytest.mark.parametrize("count", [1, 50, 99, 100, 101, 450, 499, 501, 2_000, 5_000, 5_001, 20_000])
def test_an_unchanging_list_costs_a_seventh_more_with_the_proof_and_one_request_more_without(count: int) -> None:
    plain = ceil(count / 100)
    linked, single = MovingList(count), MovingList(count)
    read(linked)
    read(single, consistency="single-pass")
    limit = 1 if count <= 99 else plain + 1 if count <= 500 else plain * (1.2 if count <= 5_000 else 1.16)
    assert len(linked.requests) <= limit
    assert len(single.requests) == (1 if count <= 99 else plain + 1)


@pytest.mark.parametrize("cap", [10, 15, 20, 50, 100])
@pytest.mark.parametrize("count", [9, 10, 60, 333])
@pytest.mark.parametrize("consistency", ["linked", "single-pass"])
def test_a_list_is_read_completely_whatever_page_size_the_server_limits_it_to(
    cap: int, count: int, consistency: str
) -> None:
    clamped = MovingList(count, cap=cap, page_size=100)
    assert read(clamped, consistency=consistency)[0] == clamped.ids


@pytest.mark.parametrize("fixed", [7, 20, 100, 250])
@pytest.mark.parametrize("count", [0, 5, 20, 100, 150, 333])
@pytest.mark.parametrize("past_end", ["404", "200"])
def test_a_server_that_ignores_page_size_is_read_by_whole_passes(fixed: int, count: int, past_end: str) -> None:
    stubborn = MovingList(count, cap=fixed, ignore_page_size=True, past_end=past_end)
    ids, evidence = read(stubborn)
    assert sorted(ids) == sorted(stubborn.ids)
    if count > fixed or count > 100:
        assert evidence.consistency == "repeated"
        assert ("page 1" if fixed < 10 else "page_size") in (evidence.fallback or "")


@pytest.mark.parametrize("page_size", [1, 2, 3, 5, 9])
def test_pages_too_small_to_overlap_are_read_by_whole_passes(page_size: int) -> None:
    small = MovingList(120, page_size=page_size)
    ids, evidence = read(small)
    assert sorted(ids) == sorted(small.ids)
    assert evidence.consistency in ("linked", "repeated")


@pytest.mark.parametrize("consistency", ["linked", "single-pass"])
@pytest.mark.parametrize("counts", ["right", "visible", "null"])
def test_a_server_that_drops_rows_after_slicing_is_refused_early_with_the_reason(counts: str, consistency: str) -> None:
    filtered = MovingList(20_000, counts=counts, hidden_rows=lambda number: number % 7 == 0)
    with pytest.raises(UnpodListUnstable, match=r"page \d had (only )?8\d (of|rows, but page 1 only) 8\d"):
        read(filtered, consistency=consistency)
    assert len(filtered.requests) <= 30


def test_without_a_count_a_list_is_read_with_a_page_size_above_the_servers_limit() -> None:
    quiet = MovingList(101, NEWEST, cap=100, counts="null")
    assert read(quiet, page_size=500)[0] == quiet.ids


def test_a_list_by_date_with_unsorted_ties_is_not_read_in_windows() -> None:
    """Databases break such ties differently for different LIMIT and OFFSET."""

    def same_day(number: int) -> dict[str, Any]:
        return row(number, date="2026-02-01") | {"invoice_date": "2026-02-01T00:00:00Z"}

    tied = MovingList(350, SHUFFLED, make_row=same_day)
    ids, evidence = read(tied)
    assert sorted(ids) == sorted(tied.ids)
    assert evidence.consistency == "repeated"
    assert "same date" in (evidence.fallback or "")


@pytest.mark.parametrize(("order", "named"), [(NEWEST, "by id"), (OLDEST, "by id"), (SHUFFLED, "assumed")])
def test_the_evidence_says_whether_ids_show_the_order(order: str, named: str) -> None:
    assert read(MovingList(400, order))[1].order == named


def test_the_order_is_by_date_where_dates_are_in_order_and_ids_are_not() -> None:
    def backwards(number: int) -> dict[str, Any]:
        return row(number) | {
            "id": (number * 7_919) % 100_003,
            "invoice_date": f"2026-01-01T{number // 60:02}:{number % 60:02}:00Z",
        }

    assert read(MovingList(400, NEWEST, make_row=backwards))[1].order == "by date"


def test_an_invoice_listed_twice_is_an_error_and_not_a_silent_drop() -> None:
    twice = MovingList(250)
    twice.ids[120] = twice.ids[20]
    for consistency in ("linked", "single-pass"):
        with pytest.raises(UnpodListUnstable):
            read(twice, consistency=consistency)


LEVELS = pytest.mark.parametrize("consistency", ["linked", "single-pass"])


@LEVELS
@pytest.mark.parametrize("counted", [251, 249, 400, 10])
def test_a_count_that_never_agrees_with_the_rows_is_an_error(counted: int, consistency: str) -> None:
    with pytest.raises(UnpodListUnstable, match=f"`count` was {counted}, but"):
        read(MovingList(250, counts=counted), consistency=consistency)


@LEVELS
@pytest.mark.parametrize("counted", [5_000, 60])
def test_fewer_invoices_than_count_are_an_error_and_not_an_empty_list(counted: int, consistency: str) -> None:
    empty = MovingList(0, counts=counted, past_end="200")
    with pytest.raises(UnpodListUnstable, match=f"`count` was {counted}, but the list had 0 "):
        read(empty, consistency=consistency)
    assert len(empty.requests) <= 30


@LEVELS
def test_pages_that_ignore_page_size_end_with_the_rows_and_not_at_count(consistency: str) -> None:
    """103 invoices, 20 per page, and a `count` from the time when there were 100."""
    with pytest.raises(UnpodListUnstable, match="`count` was 100"):
        read(MovingList(103, cap=20, ignore_page_size=True, counts=100), consistency=consistency)


@LEVELS
@pytest.mark.parametrize("counts", ["right", "null"])
@pytest.mark.parametrize("fails", [1, 2, 1_000])
def test_a_404_from_a_gateway_in_the_middle_of_the_list_is_not_its_end(
    fails: int, counts: str, consistency: str
) -> None:
    class BehindGateway(MovingList):
        failed = 0

        def get_page(self, page: int, page_size: int, cancellation: object = None) -> Page:
            answer = super().get_page(page, page_size)
            if page == 3 and self.failed < fails:
                self.failed += 1
                return Page([], None, True)
            return answer

    for rows in (300, 500, 777):
        listed = BehindGateway(rows, counts=counts)
        with contextlib.suppress(UnpodListUnstable):
            assert set(read(listed, consistency=consistency)[0]) == listed.at_first


@LEVELS
@pytest.mark.parametrize("credited", [8, 150, 249], ids=["same page", "next page", "last page"])
def test_without_ids_a_credit_note_with_the_number_of_its_invoice_is_named(credited: int, consistency: str) -> None:
    def numbered(number: int) -> dict[str, Any]:
        """Row ``credited`` is the credit note of row 7."""
        fields = row(number)
        del fields["id"]
        credit = {"amount": "-7.00"} if number == credited else {}
        return {"invoice_number": f"INV-{7 if number == credited else number}", **fields, **credit}

    listed = MovingList(250, make_row=numbered)
    with pytest.raises(
        UnpodListUnstable, match=r"number 'INV-7' and no `id` \(an invoice and its credit note"
    ) as caught:
        read(listed, consistency=consistency)
    assert "when fewer invoices change" not in str(caught.value)


def test_an_invoice_that_moves_to_the_next_page_and_is_paid_is_not_called_a_credit_note() -> None:
    def numbered(number: int) -> dict[str, Any]:
        fields = row(number, "pending" if moving.next_id == 250 else "paid")
        del fields["id"]
        return {"invoice_number": f"INV-{number}", **fields}

    def one_comes(moving: MovingList) -> None:
        if len(moving.requests) == 2:
            moving.insert()

    moving = MovingList(250, make_row=numbered, world=one_comes, counts="null", max_concurrency=1)
    with pytest.raises(UnpodListUnstable, match="a row of page 2 was listed twice"):
        read(moving, consistency="single-pass")


@LEVELS
@pytest.mark.parametrize("counts", ["right", "null"])
@pytest.mark.parametrize("past_end", ["last", "first"])
def test_a_page_past_the_end_that_repeats_invoices_is_an_error(past_end: str, counts: str, consistency: str) -> None:
    repeating = MovingList(250, past_end=past_end, counts=counts)
    if consistency == "linked" and counts == "right":
        assert read(repeating)[0] == repeating.ids  # no page behind the end is asked for
    else:
        with pytest.raises(UnpodListUnstable, match="was listed twice"):
            read(repeating, consistency=consistency)


class RepeatedPage(MovingList):
    """Returns page 1 for any page number."""

    def get_page(self, page: int, page_size: int, cancellation: object = None) -> Page:
        self.requests.append((page, page_size))
        return Page([Invoice(row(number)) for number in self.ids[:page_size]], self._count())


@LEVELS
@pytest.mark.parametrize("counts", ["right", 10**9, "null"])
def test_a_server_that_repeats_a_page_forever_is_refused(counts: str | int, consistency: str) -> None:
    endless = RepeatedPage(1_000, counts=counts)
    with pytest.raises(UnpodListUnstable):
        read(endless, consistency=consistency)
    assert len(endless.requests) <= 150


@LEVELS
@pytest.mark.parametrize("rows", [100, 200, 2_500])
@pytest.mark.parametrize("cap", [20, 100])
def test_without_a_count_full_pages_to_the_end_are_read_again_in_another_size(
    cap: int, rows: int, consistency: str
) -> None:
    quiet = MovingList(rows, counts="null", cap=cap)
    ids, evidence = read(quiet, consistency=consistency)
    assert ids == quiet.ids
    needed = (rows // cap + 2) * evidence.passes + (consistency == "linked")
    assert needed <= len(quiet.requests) <= needed + 8  # a single pass also asks ahead


def test_an_empty_page_that_agrees_with_count_is_not_the_whole_list_after_a_response_with_rows() -> None:
    """`count` is always 0. A page of 12 rows has two, a page of ten has none."""
    with pytest.raises(UnpodListUnstable, match="`count` was 0, but"):
        read(MovingList(60, counts=0, page_size=12, hidden_rows=range(50, 60).__contains__))


def test_after_a_response_that_disagreed_with_count_one_response_is_never_the_whole_list() -> None:
    """Of 101 rows, three of the first page are hidden; `count` agrees with what came of it, except at first."""

    def counts_down(moving: MovingList) -> None:
        moving.counts = 99 if len(moving.requests) == 1 else 97

    with pytest.raises(UnpodListUnstable):
        read(MovingList(101, world=counts_down, hidden_rows={50, 60, 70}.__contains__))


@pytest.mark.parametrize("past_end", ["404", "last"])
@LEVELS
def test_without_a_count_a_page_with_only_hidden_rows_is_not_the_end(past_end: str, consistency: str) -> None:
    for hidden in (range(200, 350), range(700)):
        listed = MovingList(700, OLDEST, counts="null", past_end=past_end, hidden_rows=hidden.__contains__)
        with contextlib.suppress(UnpodListUnstable):
            assert set(read(listed, consistency=consistency)[0]) == listed.stable


# -- a list that moves


def every_seventh(*steps: Callable[[MovingList], None]) -> Callable[[MovingList], None]:
    def world(moving: MovingList) -> None:
        if len(moving.requests) % 7 == 0:
            for step in steps:
                step(moving)

    return world


def at_once(step: Callable[[MovingList], None]) -> Callable[[MovingList], None]:
    def world(moving: MovingList) -> None:
        if len(moving.requests) == 50:
            for _ in range(500):
                step(moving)

    return world


drift: dict[str, Callable[[MovingList], None]] = {
    "an insertion every 7 requests": every_seventh(MovingList.insert),
    "a deletion every 7 requests": every_seventh(MovingList.delete),
    "a deletion at the front every 7 requests": every_seventh(lambda moving: moving.delete(0)),
    "a deletion hidden by an insertion": every_seventh(MovingList.delete, MovingList.insert),
    "500 insertions at once": at_once(MovingList.insert),
    "500 deletions at once": at_once(lambda moving: moving.delete(0)),
}


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("how", drift)
def test_20000_invoices_that_move_while_they_are_read_take_260_requests_at_most(order: str, how: str) -> None:
    moving = MovingList(20_000, order, world=drift[how])
    ids, evidence = read(moving)
    assert moving.stable <= set(ids)
    assert len(ids) == len(set(ids))
    assert evidence.consistency == "linked"
    assert len(moving.requests) <= 260


@pytest.mark.parametrize("order", ORDERS)
def test_a_single_pass_over_a_changing_list_fails_if_count_or_ids_show_it(order: str) -> None:
    for how in ("an insertion every 7 requests", "a deletion every 7 requests"):
        with pytest.raises(UnpodListUnstable, match="linked"):
            read(MovingList(20_000, order, world=drift[how]), consistency="single-pass")


@pytest.mark.parametrize("counts", ["right", "null"])
@pytest.mark.parametrize("order", ORDERS)
def test_a_list_that_changes_faster_than_it_can_be_read_fails_after_four_times_the_planned_requests(
    order: str, counts: str
) -> None:
    def flood(moving: MovingList) -> None:
        for _ in range(900):
            moving.delete()
        for _ in range(900):
            moving.insert()

    moving = MovingList(2_000, order, world=flood, counts=counts)
    if order == SHUFFLED:  # of which so little stays that it may well be read
        assert_complete_or_refused(moving)
    else:
        with pytest.raises(UnpodListUnstable):
            read(moving)
    assert len(moving.requests) <= most_requests(moving)


def most_linked_requests(moving: MovingList) -> int:
    """The limit that `docs/completeness.md` promises for a linked read that does not fall back."""
    first = moving.responses[0]
    limited = not first.past_end and 10 <= len(first.invoices) < min(first.count or 0, moving.page_size)
    cap = len(first.invoices) if limited else moving.page_size
    return 4 * planned_requests((first.count or 0) + cap, cap) + 50


def most_requests(moving: MovingList) -> int:
    """The limit that `docs/completeness.md` promises for a linked read."""
    pages = ceil(moving.longest / min(moving.smallest_cap, moving.page_size))
    return most_linked_requests(moving) + 5 * (pages + 3)


def test_a_list_that_grows_as_fast_as_it_is_read_takes_four_times_the_planned_requests_plus_50() -> None:
    def grow(moving: MovingList) -> None:
        for _ in range(100):
            moving.insert()

    growing = MovingList(2_000, OLDEST, world=grow)
    with pytest.raises(UnpodListUnstable, match="gave up after"):
        read(growing)
    assert len(growing.requests) == most_linked_requests(growing)


@pytest.mark.parametrize(
    ("server", "at_the_end"),
    [
        pytest.param({"cap": 120, "ignore_page_size": True}, 1, id="with a count"),
        pytest.param({"counts": "null"}, 2, id="without a count"),
        pytest.param({"counts": "null", "past_end": "200"}, 3, id="without a count or a 404"),
    ],
)
def test_a_read_that_falls_back_makes_at_most_five_passes_of_a_request_per_page_and_few_at_the_end(
    server: dict[str, Any], at_the_end: int
) -> None:
    def one_replaces_another(moving: MovingList) -> None:
        if moving.requests[-1][0] == 1:
            moving.delete(0)
            moving.insert()

    changing = MovingList(2_400, world=one_replaces_another, **server)
    with pytest.raises(UnpodListUnstable, match="no two of 5 passes"):
        read(changing)
    assert len(changing.requests) == 1 + 5 * (2_400 // changing.cap + at_the_end)


STEPS = st.lists(st.sampled_from("......idflpqQs"), max_size=3)


class Script:
    """Draws the changes before each request, and between its rows and its ``count``. Hypothesis can shrink them."""

    def __init__(self, before: list[list[str]], between: list[list[str]]) -> None:
        self.before, self.between = iter(before), iter(between)
        self.statuses: dict[int, str] = {}

    def world(self, moving: MovingList) -> None:
        self._do(moving, next(self.before, []))

    def gap(self, moving: MovingList) -> None:
        self._do(moving, next(self.between, []))

    def row(self, number: int) -> dict[str, Any]:
        return row(number, self.statuses.get(number, "pending"))

    def _do(self, moving: MovingList, steps: list[str]) -> None:
        for step in steps:
            if step == "i":
                moving.insert()
            elif step == "d":
                moving.delete()
            elif step == "f":
                moving.delete(0)
            elif step == "l" and moving.ids:
                moving.delete(len(moving.ids) - 1)
            elif step == "p":
                moving.delete()
                moving.insert()
            elif step == "q":
                for _ in range(25):
                    moving.insert()
            elif step == "Q":
                for _ in range(25):
                    moving.delete(0)
            elif step == "s" and moving.ids:
                self.statuses[moving.random.choice(moving.ids)] = "paid"
            elif step == "m":
                moving.move()
            elif step == "n":
                moving.counts = "null" if moving.counts == "right" else "right"
            elif step in "0123456789":
                moving.cap = 10 + 5 * int(step)


def moving_lists(steps: st.SearchStrategy[list[str]], between: bool, **options: Any) -> st.SearchStrategy[MovingList]:
    def build(
        rows: int, order: str, seed: int, script: list[list[str]], gaps: list[list[str]], **drawn: Any
    ) -> MovingList:
        happens = Script(script, gaps)
        return MovingList(
            rows, order, seed=seed, world=happens.world, between=happens.gap, make_row=happens.row, **drawn
        )

    return st.builds(
        build,
        rows=st.one_of(st.sampled_from([0, 1, 10, 20, 21, 40]), st.integers(0, 300)),
        order=st.sampled_from(ORDERS),
        seed=st.integers(0, 1_000),
        script=st.lists(steps, max_size=60),
        gaps=st.lists(steps, max_size=60) if between else st.just([]),
        page_size=st.sampled_from([9, 12, 15, 20, 30, 100]),
        max_concurrency=st.sampled_from([1, 2, 4, 8]),
        **{
            name: each if isinstance(each, st.SearchStrategy) else st.just(each)
            for name, each in {"past_end": st.sampled_from(["404", "200"]), **options}.items()
        },
    )


def assert_complete_or_refused(moving: MovingList, consistency: str = "linked", *, honest: bool = True) -> None:
    """
    :param honest: ``False``: the server leaves rows out or miscounts. Where one response has as many invoices as its
        ``count`` no second one is asked for, so that this cannot show.
    """
    given_out: list[Any] = []
    planned = chain_length((len(moving.ids) // 9 + 1) * 9, 9) or len(moving.ids) + 10
    try:
        with read_list(moving, consistency=consistency) as reading:
            given_out.extend(invoice.key for invoice in reading)
    except UnpodListUnstable:
        pass
    else:
        assert moving.stable <= set(given_out) or (not honest and len(moving.requests) == 1)
        assert len(moving.requests) == reading.evidence.requests
    assert len(given_out) == len(set(given_out))
    assert len(moving.requests) <= PATIENCE * 3 * planned + 5 * MAX_PASSES * (len(moving.at_first) + 50)


limits = st.sampled_from([10, 13, 20, 50, 99, 100, 1_000])
thorough = settings(max_examples=examples(400), deadline=None, suppress_health_check=[HealthCheck.too_slow])


@thorough
@given(
    moving_lists(
        st.lists(st.sampled_from(".....idflpqQmn0123456789"), max_size=4),
        between=True,
        cap=st.sampled_from([7, 10, 20, 99, 1_000]),
        ignore_page_size=st.sampled_from([False, False, False, True]),
        hidden_rows=st.sampled_from(
            [lambda number: False, lambda number: False, lambda number: number % 9 == 0, lambda number: number >= 50]
        ),
        counts=st.sampled_from(["right", "right", "visible", "null", 0, 133, 10_000]),
        past_end=st.sampled_from(["404", "200", "last", "first"]),
    )
)
def test_a_read_makes_at_most_four_times_the_planned_requests_plus_50_plus_five_passes(moving: MovingList) -> None:
    with contextlib.suppress(UnpodListUnstable), read_list(moving) as reading:
        list(reading)
    assert len(moving.requests) <= most_requests(moving)
    target(len(moving.requests) / most_requests(moving))


@thorough
@given(moving_lists(STEPS, between=True))
def test_every_invoice_that_existed_during_the_whole_read_is_read_once_or_the_read_fails(moving: MovingList) -> None:
    """The ``count`` is from another time than the rows."""
    assert_complete_or_refused(moving)


@thorough
@given(moving_lists(STEPS, between=True), st.lists(st.sampled_from([NEVER, ALWAYS]), min_size=1, max_size=8))
def test_the_same_if_the_api_responds_fast_always_or_sometimes(moving: MovingList, swift: list[float]) -> None:
    world = moving.world

    def also_of_changing_speed(moving: MovingList) -> None:
        fetcher_module.SWIFT = swift[len(moving.requests) % len(swift)]
        world(moving)

    moving.world = also_of_changing_speed
    try:
        assert_complete_or_refused(moving)
    finally:
        fetcher_module.SWIFT = NEVER


@thorough
@given(moving_lists(STEPS, between=True, counts="null"))
def test_the_same_without_a_count(moving: MovingList) -> None:
    assert_complete_or_refused(moving)


@thorough
@given(moving_lists(st.lists(st.sampled_from("......idflpnn"), max_size=3), between=True))
def test_the_same_if_some_responses_have_no_count(moving: MovingList) -> None:
    assert_complete_or_refused(moving)


def test_rows_of_the_last_window_are_not_lost_if_a_response_after_it_has_no_count() -> None:
    def one_comes_and_count_goes(moving: MovingList) -> None:
        if len(moving.requests) == 3:
            moving.insert()
        if moving.requests[-1] == last_window and moving.requests.count(last_window) == 2:
            moving.counts = "null"

    last_window = (5, 96)
    moving = MovingList(450, NEWEST, world=one_comes_and_count_goes, max_concurrency=1)
    ids, evidence = read(moving)
    assert evidence.fallback == "a response had no `count`"
    assert moving.at_first <= set(ids)


@thorough
@given(moving_lists(st.lists(st.sampled_from("....idflpqQ0123456789"), max_size=3), between=False, cap=20))
def test_the_same_if_the_server_changes_its_page_size_limit_during_the_read(moving: MovingList) -> None:
    assert_complete_or_refused(moving)


@thorough
@given(
    st.sampled_from([2, 3, 7, 50]).flatmap(
        lambda every: moving_lists(
            STEPS,
            between=True,
            hidden_rows=lambda number: number % every == 0,
            counts=st.sampled_from(["right", "visible", "null"]),
        )
    )
)
def test_the_same_if_the_server_drops_rows_after_slicing(moving: MovingList) -> None:
    assert_complete_or_refused(moving, honest=False)


@thorough
@given(
    moving_lists(
        STEPS,
        between=True,
        hidden_rows=lambda number: 5 <= number < 60 or number % 50 == 0,
        counts=st.sampled_from(["right", "visible"]),
    )
)
def test_the_same_if_whole_pages_are_dropped_after_slicing(moving: MovingList) -> None:
    assert_complete_or_refused(moving, honest=False)


@settings(max_examples=examples(300), deadline=None)
@given(
    moving=moving_lists(
        st.just([]),
        between=False,
        cap=st.sampled_from([7, 20, 99, 1_000]),
        ignore_page_size=st.booleans(),
        hidden_rows=st.sampled_from(
            [lambda number: False, lambda number: number % 9 == 0, lambda number: 50 <= number < 175]
        ),
        counts=st.sampled_from(["right", "visible", "null", 0, 20, 100, 133]),
        past_end=st.just("404"),
    ),
    consistency=st.sampled_from(["linked", "single-pass"]),
)
def test_an_unchanging_list_is_complete_for_any_server(moving: MovingList, consistency: str) -> None:
    assert_complete_or_refused(moving, consistency, honest=False)


@settings(max_examples=examples(300), deadline=None)
@given(
    quiet=st.one_of(
        moving_lists(st.just([]), between=False, cap=limits, ignore_page_size=st.booleans()),
        moving_lists(st.just([]), between=False, cap=limits, counts="null"),
    ),
    consistency=st.sampled_from(["linked", "single-pass"]),
)
def test_an_unchanging_list_of_a_server_that_omits_no_rows_is_never_refused(
    quiet: MovingList, consistency: str
) -> None:
    ids, _ = read(quiet, consistency=consistency)
    assert sorted(ids) == sorted(quiet.ids)


@settings(max_examples=examples(150), deadline=None)
@given(
    moving_lists(st.lists(st.sampled_from("....idflpqQs"), max_size=2), between=False, ignore_page_size=True, cap=20)
)
def test_the_same_if_the_server_ignores_page_size(moving: MovingList) -> None:
    assert_complete_or_refused(moving)


@thorough
@given(moving_lists(st.lists(st.sampled_from("...idfls"), max_size=2), between=False))
def test_a_single_pass_ends_without_an_error_only_if_count_never_changed(moving: MovingList) -> None:
    """Excludes pairs of changes that cancel out within one request, which a single pass cannot detect."""
    counted: set[int] = set()
    answer = moving.get_page

    def counting(page: int, page_size: int, cancellation: object = None) -> Page:
        result = answer(page, page_size)
        if not result.past_end:
            counted.add(len(moving.ids))
        return result

    moving.get_page = counting  # type: ignore[method-assign]
    given_out: list[Any] = []
    try:
        with read_list(moving, consistency="single-pass") as reading:
            given_out.extend(invoice.key for invoice in reading)
    except UnpodListUnstable:
        return
    assert len(given_out) == len(set(given_out))
    assert len(counted) <= 1


@thorough
@given(moving_lists(st.lists(st.sampled_from("....idmm"), max_size=3), between=False))
def test_with_a_changing_order_the_number_of_requests_is_limited_and_no_invoice_is_repeated(moving: MovingList) -> None:
    given_out: list[Any] = []
    try:
        with read_list(moving) as reading:
            given_out.extend(invoice.key for invoice in reading)
    except UnpodListUnstable:
        pass
    assert len(given_out) == len(set(given_out))
    assert len(moving.requests) <= 600


@pytest.mark.parametrize("order", [SHUFFLED, NEWEST])
def test_an_invoice_that_jumps_to_the_front_unread_is_noticed_by_count(order: str) -> None:
    """A list sorted by last change. A paid invoice moves to the front, which has already been read."""

    def pay_one(moving: MovingList) -> None:
        if len(moving.requests) == 4:
            moving.move(where=900, to=0)

    moving = MovingList(1_000, order, world=pay_one)
    ids, evidence = read(moving)
    assert set(ids) == moving.at_first
    assert evidence.consistency == "repeated"
    assert "count" in (evidence.fallback or "")


def test_shared_rows_that_change_their_order_lose_no_invoice() -> None:
    def swap(moving: MovingList) -> None:
        if len(moving.requests) == 2:
            moving.ids[99:120] = reversed(moving.ids[99:120])
            moving.ids[80:100] = reversed(moving.ids[80:100])

    moving = MovingList(1_000, SHUFFLED, world=swap)
    ids, evidence = read(moving)
    assert set(ids) == moving.at_first
    assert evidence.consistency in ("repeated", "linked")


@pytest.mark.parametrize("concurrency", [1, 4, 16])
@pytest.mark.parametrize("page_size", [20, 100])
def test_insertions_while_reading_cost_few_requests_with_small_pages_too(page_size: int, concurrency: int) -> None:
    chance = random.Random(3)
    for count in (1_000, 5_000):

        def now_and_then(moving: MovingList) -> None:
            if chance.random() < 1 / 7:
                moving.insert()

        moving = MovingList(count, NEWEST, world=now_and_then, page_size=page_size, max_concurrency=concurrency)
        assert moving.stable <= set(read(moving)[0])
        assert len(moving.requests) <= 1.8 * count / page_size


def test_a_response_that_was_cut_is_not_the_whole_list_even_if_count_decreases_to_its_length() -> None:
    """A page has 15 of 19 rows, later 15 of 16, and one more is deleted before the count."""

    def one_goes(moving: MovingList) -> None:
        if len(moving.requests) in (2, 3):
            moving.delete(0)

    assert_complete_or_refused(MovingList(19, NEWEST, cap=15, world=one_goes, between=one_goes))


@pytest.mark.parametrize(
    ("rows", "page_size", "hidden", "at", "inserted", "deleted"),
    [
        pytest.param(40, 15, {5, 44}, 2, 9, 0, id="one row behind"),
        pytest.param(60, 12, {5, 64}, 4, 10, 3, id="deletions at the front"),
        pytest.param(45, 20, {*range(1, 9), 48}, 6, 5, 0, id="several hidden rows behind"),
        pytest.param(50, 20, {*range(1, 28), 54}, 2, 9, 3, id="a page of hidden rows behind"),
    ],
)
def test_a_short_window_is_not_the_end_of_a_changing_list_if_rows_follow(
    rows: int, page_size: int, hidden: set[int], at: int, inserted: int, deleted: int
) -> None:
    """One hidden row is in a window already read, and another in the window that is last according to `count`."""

    def new_invoices(moving: MovingList) -> None:
        if len(moving.requests) == at:
            for _ in range(inserted):
                moving.insert()
            for _ in range(deleted):
                moving.delete(0)

    moving = MovingList(
        rows, NEWEST, page_size=page_size, hidden_rows=hidden.__contains__, counts="visible", world=new_invoices
    )
    with pytest.raises(UnpodListUnstable):
        read(moving)


def test_two_more_requests_confirm_the_end_of_a_list_that_changed() -> None:
    def one_comes(moving: MovingList) -> None:
        if len(moving.requests) == 3:
            moving.insert()

    quiet, moved, empty = MovingList(450), MovingList(450, world=one_comes), MovingList(450, world=one_comes)
    empty.past_end = "200"
    assert [read(each)[1].end for each in (quiet, moved, empty)] == ["short", "past", "past"]
    assert len(moved.requests) == len(quiet.requests) + 2
    assert len(empty.requests) == len(quiet.requests) + 3  # an empty page must be empty far behind the end, too


@pytest.mark.parametrize(
    ("rows", "hidden", "places"),
    [
        pytest.param(5, 3, [0, 1], id="fewer rows than any page limit has"),
        pytest.param(11, 7, [2, 0], id="as many rows as the smallest page limit"),
    ],
)
def test_a_page_with_a_hidden_row_is_not_the_end_despite_deletions_between_rows_and_count(
    rows: int, hidden: int, places: list[int]
) -> None:
    """What `count` says then fits to the rows that came, and the last row has moved up from behind them."""

    def some_go(moving: MovingList) -> None:
        if len(moving.requests) == 3:
            for place in places:
                moving.delete(place)

    assert_complete_or_refused(MovingList(rows, NEWEST, hidden_rows={hidden}.__contains__, between=some_go))


def test_a_page_limit_that_decreases_during_the_read_is_not_the_end() -> None:
    def sink(moving: MovingList) -> None:
        moving.cap = 20 if len(moving.requests) == 1 else 10

    still = MovingList(29, world=sink)
    assert set(read(still)[0]) == still.at_first


@pytest.mark.parametrize("page_size", [5, 100])
def test_an_empty_page_in_the_middle_is_not_the_end(page_size: int) -> None:
    hidden = {1, *range(40, 60)}
    still = MovingList(
        100, OLDEST, cap=20, ignore_page_size=page_size == 100, page_size=page_size, hidden_rows=hidden.__contains__
    )
    assert_complete_or_refused(still)


@pytest.mark.parametrize("counted", [10**5, 10**9, 10**18])
def test_an_absurd_count_costs_60_requests_at_most(counted: int) -> None:
    boasting = MovingList(150, counts=counted)
    with pytest.raises(UnpodListUnstable, match=f"`count` was {counted}, but the list had 150 "):
        read(boasting)
    assert len(boasting.requests) <= 60


# -- evidence, progress, arguments


def test_evidence_is_available_only_after_the_last_invoice() -> None:
    reading = read_list(MovingList(300))
    next(reading)
    with pytest.raises(RuntimeError, match="Read the list to the end first"):
        _ = reading.evidence
    list(reading)
    record = reading.evidence.as_dict()
    assert record["consistency"] == "linked"
    assert record["count_first"] == record["count_last"] == record["invoices"] == 300
    assert record["windows"] == record["requests"]


def test_a_row_read_twice_with_different_content_keeps_the_first() -> None:
    statuses = iter(["paid"] + ["refunded"] * 50)

    def changing(moving: MovingList) -> None:
        current = next(statuses)
        moving.make_row = lambda number: row(number, current)

    with read_list(MovingList(150, world=changing)) as reading:
        seen = {invoice.key: invoice.status for invoice in reading}
    assert [seen[number] for number in range(149, 49, -1)] == ["paid"] * 100


@pytest.mark.parametrize(
    "options",
    [
        {"consistency": "repeated"},
        {"consistency": "eventual"},
        {"page_size": 0},
        {"page_size": "10"},
        {"max_concurrency": 0},
    ],
)
def test_invalid_arguments_are_refused_before_any_request(options: dict[str, Any]) -> None:
    source = MovingList(10)
    with pytest.raises(UnpodConfigError, match=next(iter(options))):
        read_list(source, **options)
    assert not source.requests


def test_progress_of_a_long_read_is_logged_every_few_seconds(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now = [0.0]
    progress = fetcher_module.Progress(MovingList(0), clock=lambda: now[0])
    progress.report(pages=1, invoices=100, requests=1, rows_to_go=900)
    assert not caplog.messages
    now[0] = 6.0
    progress.report(pages=3, invoices=300, requests=4, rows_to_go=700)
    progress.report(pages=4, invoices=400, requests=5, rows_to_go=600)
    (line,) = caplog.messages
    assert "300 invoices in 3 pages, 4 requests" in line
    assert "about 700 invoices and 14 s to go" in line


# -- over real HTTP, with real threads


@pytest.fixture
def real_threads(requests_in_any_order: None) -> Iterator[None]:
    from concurrent.futures import ThreadPoolExecutor

    patch = pytest.MonkeyPatch()
    patch.setattr(fetcher_module, "ThreadPoolExecutor", ThreadPoolExecutor)
    yield
    patch.undo()


@pytest.mark.usefixtures("real_threads")
@pytest.mark.parametrize("drifting", [[], ["insert:5"], ["delete-front:5"], ["delete-random:5"]])
def test_over_http_every_remaining_invoice_is_read_once_while_the_list_changes(drifting: list[str]) -> None:
    with Sandbox(invoices=3_000, orgs=["acme"], drift=drifting) as sandbox:
        before = {invoice.id for invoice in sandbox.ledger.invoices()}
        with UnpodClient(sandbox.url, sandbox.token, "acme") as client:
            ids, evidence = read(client)
        after_it = {invoice.id for invoice in sandbox.ledger.invoices()}
    assert before & after_it <= set(ids)
    assert len(ids) == len(set(ids))
    assert evidence.consistency == "linked"


def unpod_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("unpod-page")]


@pytest.mark.usefixtures("real_threads")
def test_a_read_that_is_closed_early_or_abandoned_leaves_no_thread_running() -> None:
    with Sandbox(invoices=3_000, orgs=["acme"], latency=20) as sandbox:
        with UnpodClient(sandbox.url, sandbox.token, "acme") as client, read_list(client) as reading:
            for _ in range(150):
                next(reading)
            assert unpod_threads()
        assert not unpod_threads()


@pytest.mark.usefixtures("real_threads")
def test_no_more_requests_are_in_flight_than_allowed() -> None:
    with Sandbox(invoices=3_000, orgs=["acme"], latency=10, drift=["delete-front:2"]) as sandbox:
        with UnpodClient(sandbox.url, sandbox.token, "acme") as client:
            read(client, max_concurrency=3)
        assert 2 <= sandbox.stats["max_in_flight"] <= 3


@pytest.mark.usefixtures("real_threads")
@pytest.mark.parametrize("consistency", ["linked", "single-pass"])
def test_a_very_fast_api_is_read_one_page_at_a_time_without_threads(
    consistency: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher_module, "SWIFT", ALWAYS)
    with Sandbox(invoices=3_000, orgs=["acme"]) as sandbox:
        with (
            UnpodClient(sandbox.url, sandbox.token, "acme") as client,
            read_list(client, consistency=consistency) as reading,
        ):
            assert {(invoice.key, *unpod_threads()) for invoice in reading} == {(key,) for key in sandbox.ledger.ids()}
            assert sandbox.stats["requests"] == reading.evidence.requests
        assert sandbox.stats["max_in_flight"] == 1


@pytest.mark.usefixtures("real_threads")
def test_several_pages_are_requested_in_parallel_over_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher_module, "SWIFT", BY_DEFAULT)
    with Sandbox(invoices=3_000, orgs=["acme"], latency=10) as sandbox:
        with UnpodClient(sandbox.url, sandbox.token, "acme") as client:
            read(client)
        assert sandbox.stats["max_in_flight"] > 1


@pytest.mark.usefixtures("real_threads")
def test_if_a_fast_api_slows_down_the_next_pages_are_requested_in_parallel() -> None:
    by_the_reader: list[bool] = []

    def slow_down(moving: MovingList) -> None:
        fetcher_module.SWIFT = ALWAYS if len(moving.requests) < 5 else NEVER
        by_the_reader.append(threading.current_thread() is threading.main_thread())

    read(MovingList(3_000, world=slow_down))
    assert by_the_reader[:5] == [True] * 5
    assert by_the_reader.count(True) <= 6


@pytest.mark.usefixtures("real_threads")
def test_a_failed_page_ends_the_read_with_its_error_and_leaves_no_thread_running() -> None:
    with Sandbox(invoices=3_000, orgs=["acme"], faults=["206:page=2"], latency=5) as sandbox:
        with UnpodClient(sandbox.url, sandbox.token, "acme") as client, pytest.raises(UnpodError) as caught:
            read(client)
        assert caught.value.status == 206
    assert not unpod_threads()


class Interrupted(MovingList):
    """Page 2 fails as soon as page 1 is requested. Page 1 responds after the failure or the cancellation."""

    def __init__(self) -> None:
        super().__init__(300)
        self.ahead, self.begun, self.over = threading.Event(), threading.Event(), threading.Event()

    def get_page(self, page: int, page_size: int, cancellation: Any = None) -> Page:
        if page == 2:
            self.ahead.set()
            assert self.begun.wait(10)
            self.over.set()
            raise UnpodUnavailable("down")
        with cancellation.calling(self.over.set):
            self.begun.set()
            assert self.over.wait(10)
        cancellation.check()
        return super().get_page(page, page_size)


@pytest.mark.usefixtures("real_threads")
def test_an_outage_raises_its_own_error_whichever_request_fails_first() -> None:
    for _ in range(20):
        fetcher = Fetcher(Interrupted(), 2)
        fetcher.limit = 2
        fetcher.ask(Window(100, 100))
        try:
            answer = fetcher.now(Window(0, 100))
        except UnpodUnavailable:
            pass
        else:  # it was here before the failure was
            assert answer.count == 300
            with pytest.raises(UnpodUnavailable):
                fetcher.take()
        finally:
            fetcher.close()


@pytest.mark.usefixtures("real_threads")
def test_a_request_that_is_no_longer_needed_cannot_fail_a_read() -> None:
    source = Interrupted()
    fetcher = Fetcher(source, 2)
    fetcher.limit = 2
    fetcher.ask(Window(100, 100))
    assert source.ahead.wait(10)
    fetcher.drop()
    try:
        assert fetcher.now(Window(0, 100)).count == 300
    finally:
        fetcher.close()
