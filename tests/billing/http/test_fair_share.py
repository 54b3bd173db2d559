"""Workers share a rate limit using only response headers: few refusals, no deadlock, no starvation."""

from __future__ import annotations

import random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_unpod.billing.http.fair_share import FairShare
from benchmarks.many_workers import LIMIT, Outcome, Simulation


def simulations(workers: int, requests: int = 5, seeds: int = 6, ramp: float = 1.0) -> list[Outcome]:
    return [Simulation(workers, requests, seed, ramp=ramp).run() for seed in range(seeds)]


def test_a_lone_worker_uses_the_whole_limit_without_a_refusal() -> None:
    for outcome in simulations(1, requests=250):
        assert outcome.served == 250
        assert outcome.refused == 0
        assert outcome.wall <= 1.1


def test_a_short_list_on_an_unused_limit_is_not_slowed_down() -> None:
    for outcome in simulations(1, requests=8):
        assert outcome.seconds < 1


@pytest.mark.parametrize(
    ("workers", "refused", "wall"),
    [(8, 0.01, 1.15), (16, 0.01, 1.55), (30, 0.02, 1.35), (32, 0.03, 1.35), (64, 0.02, 1.2), (128, 0.11, 1.2)],
)
def test_workers_that_begin_together_finish_nearly_as_fast_as_the_limit_allows(
    workers: int, refused: float, wall: float
) -> None:
    outcomes = simulations(workers, seeds=12, ramp=0.0)
    assert all(outcome.served == workers * 5 for outcome in outcomes)
    assert fmean(outcome.refused_share for outcome in outcomes) <= refused
    assert fmean(outcome.wall for outcome in outcomes) <= wall


@pytest.mark.parametrize(
    ("workers", "refused", "wall"),
    [(8, 0.01, 1.3), (16, 0.01, 1.55), (32, 0.03, 1.35), (64, 0.03, 1.3), (128, 0.12, 1.2)],
)
@pytest.mark.parametrize("ramp", [0.1, 0.3, 1.0, 10.0])
def test_workers_that_begin_one_after_another_finish_not_much_later(
    workers: int, refused: float, wall: float, ramp: float
) -> None:
    outcomes = simulations(workers, seeds=12, ramp=ramp)
    assert fmean(outcome.refused_share for outcome in outcomes) <= refused
    assert fmean(outcome.wall for outcome in outcomes) <= wall


@pytest.mark.parametrize(("workers", "limit"), [(16, 30), (64, 1_000), (300, 1_000)])
def test_workers_share_other_limits_nearly_as_well(workers: int, limit: int) -> None:
    outcomes = [Simulation(workers, 5, seed, limit).run() for seed in range(6)]
    assert fmean(outcome.refused_share for outcome in outcomes) <= 0.02
    assert fmean(outcome.wall for outcome in outcomes) <= 1.35


def test_shorter_windows_than_documented_are_learned() -> None:
    outcomes = [Simulation(64, 50, seed, window=10.0).run() for seed in range(2)]
    assert fmean(outcome.wall for outcome in outcomes) <= 1.2


@pytest.mark.parametrize(("workers", "refused"), [(8, 0.03), (64, 0.02)])
def test_long_lists_keep_to_the_limit_and_use_it(workers: int, refused: float) -> None:
    outcomes = simulations(workers, requests=40, seeds=2)
    assert fmean(outcome.refused_share for outcome in outcomes) <= refused
    assert fmean(outcome.wall for outcome in outcomes) <= 1.12


def test_workers_that_are_refused_together_come_back_one_by_one() -> None:
    back = []
    for seed in range(60):
        share = FairShare(random.Random(seed))
        share.learn(100.0, LIMIT, 0, 130.0, new_window=True)
        share.refused(100.0, 30.0)
        hold = share.hold(100.0, 0)
        assert hold is not None
        back.append(100.0 + hold)
    assert min(back) >= 131.0
    assert max(len([each for each in back if second <= each < second + 1]) for second in range(130, 500)) <= 5


moves = st.lists(
    st.tuples(
        st.floats(0, 50),  # seconds until the response
        st.integers(1, 1000),  # limit
        st.integers(0, 1100),  # remaining
        st.floats(-5, 120),  # seconds until the window ends
        st.booleans(),  # a new window
        st.booleans(),  # refused
        st.floats(0.1, 100),  # what the refusal asks to wait
    ),
    max_size=30,
)


@given(moves, st.integers())
def test_for_any_headers_no_worker_is_delayed_for_longer_than_a_few_windows(
    moves: list[tuple[float, int, int, float, bool, bool, float]], seed: int
) -> None:
    share, now = FairShare(random.Random(seed)), 1000.0
    for seconds, limit, remaining, left, new_window, refused, wait in moves:
        now += seconds
        share.learn(
            now, limit, remaining, now + left if new_window or share.ends is None else share.ends, new_window=new_window
        )
        if refused:
            share.refused(now, wait)
        else:
            share.served(now)
        hold = share.hold(now, 0)
        assert hold is None or 0 < hold <= 120 + 5 * 120 + 6 * 100
        assert share.hold(now, 3) != 0
        assert share.remaining is not None
        assert share.remaining >= 0
