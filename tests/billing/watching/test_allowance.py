"""The requests of a day are spread evenly over it."""

from __future__ import annotations

import pytest

from airflow_provider_unpod.billing.watching.allowance import Allowance, allowance_for
from tests.billing.watching.ledger import Clock

_HOUR = 3_600.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


def spend_a_day(allowance: Allowance, clock: Clock, each: float) -> int:
    """Make every request that is allowed in a day, and return how many."""
    made, end = 0, clock.now + 24 * _HOUR
    while clock.now < end:
        clock.now += each
        while allowance.grants(1):
            allowance.spend(1)
            made += 1
    return made


@pytest.mark.parametrize("each", [1.0, 60.0, _HOUR])
def test_a_day_has_the_requests_of_the_connection_however_often_it_is_polled(clock: Clock, each: float) -> None:
    allowance = Allowance(3_333, clock=clock)

    assert not allowance.grants(1)
    assert 3_331 <= spend_a_day(allowance, clock, each) <= 3_333
    assert 3_331 <= spend_a_day(allowance, clock, each) <= 3_334


def test_requests_can_be_saved_up_to_those_of_a_day(clock: Clock) -> None:
    allowance = Allowance(1_000, clock=clock)
    clock.now += 12 * _HOUR
    assert allowance.grants(500)
    assert not allowance.grants(501)

    clock.now += 100 * _HOUR
    assert allowance.grants(1_000)
    allowance.spend(1_000)
    assert not allowance.grants(1)


def test_a_read_that_needs_more_than_a_day_has_is_made_when_a_day_is_saved(clock: Clock) -> None:
    allowance = Allowance(1_000, clock=clock)
    clock.now += 23 * _HOUR
    assert not allowance.grants(2_500)
    clock.now += 2 * _HOUR
    assert allowance.grants(2_500)


def test_what_a_wait_needs_is_read_over_the_allowance_too_and_delays_the_rest_by_a_day_at_most(clock: Clock) -> None:
    allowance = Allowance(24, clock=clock)
    clock.now += _HOUR
    allowance.spend_on_poll(10_000, first=False)
    clock.now += 23 * _HOUR
    assert not allowance.grants(1)
    clock.now += 3 * _HOUR
    assert allowance.grants(1)


def test_an_allowance_of_zero_grants_nothing(clock: Clock) -> None:
    allowance = Allowance(0, saved=5, clock=clock)
    clock.now += 48 * _HOUR
    allowance.spend_on_poll(1_000, first=False)

    assert not allowance.grants(0)
    assert not allowance.grants(1)


def test_polls_that_need_more_than_the_allowance_are_one_warning_with_both_figures(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    allowance = Allowance(3_333, clock=clock)
    for _ in range(120):
        allowance.spend_on_poll(20, first=False)
        clock.now += 60

    (warning,) = caplog.messages
    assert "28,800 requests a day" in warning
    assert "3,333" in warning
    assert "poke_interval" in warning


def test_the_first_read_of_a_list_is_no_reason_for_a_warning(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    allowance = Allowance(3_333, clock=clock)
    clock.now += 60
    allowance.spend_on_poll(2_100, first=True)
    for _ in range(100):
        clock.now += 60
        allowance.spend_on_poll(2, first=False)

    assert caplog.messages == []


def test_all_waits_of_an_organization_share_one_allowance_as_long_as_one_of_them_polls() -> None:
    one = allowance_for(("unpod_default", "acme"), 1_000)

    assert allowance_for(("unpod_default", "acme"), 1_000) is one
    assert allowance_for(("unpod_default", "other"), 1_000) is not one
    assert allowance_for(("unpod_default", "acme"), 2_000).daily == 2_000
