"""The parser for dates and times accepts only full dates. A wall time that occurs twice means the first."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pendulum
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_unpod.billing.moments import parse_moment, to_utc

UTC = timezone.utc
HAVANA = ZoneInfo("America/Havana")
FIRST_MIDNIGHT = datetime(2026, 11, 1, 4, tzinfo=UTC)


@given(st.datetimes(timezones=st.just(UTC)))
def test_every_time_that_python_writes_is_read_back(moment: datetime) -> None:
    assert parse_moment(moment.isoformat()) == moment


@given(st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.timezones()))  # noqa: DTZ001
def test_offsets_are_read_to_the_second(moment: datetime) -> None:
    assert parse_moment(moment.isoformat()) == moment.astimezone(UTC)


@given(st.text(max_size=30) | st.from_regex(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d"))
def test_any_string_is_a_time_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_moment(text).tzinfo is UTC


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-02-01", datetime(2026, 2, 1, tzinfo=UTC)),
        ("20260201", datetime(2026, 2, 1, tzinfo=UTC)),
        ("2026-02-01T10", datetime(2026, 2, 1, 10, tzinfo=UTC)),
        ("2026-02-01t10:30z", datetime(2026, 2, 1, 10, 30, tzinfo=UTC)),
        ("2026-02-01 10:30:15.123456789Z", datetime(2026, 2, 1, 10, 30, 15, 123456, tzinfo=UTC)),
        ("2026-02-01T103015,5-0330", datetime(2026, 2, 1, 14, 0, 15, 500000, tzinfo=UTC)),
        ("2026-02-01T10:30:15+05", datetime(2026, 2, 1, 5, 30, 15, tzinfo=UTC)),
    ],
)
def test_iso_8601_is_read_the_same_by_every_python(text: str, moment: datetime) -> None:
    assert parse_moment(f" {text}\n") == moment


@pytest.mark.parametrize(
    "text",
    [
        *("", "now", "12:30", "2026", "2026-02", "202602", "P1D", "2026-02-01/P1D", "2026-W05-1", "2026-032"),
        *("2026-02-30", "2026-0201", "26-02-01", "2026-02-01Z", "2026-02-01T", "2026-02-01T24:00", "2026-02-01T10:61"),
        *("2026-02-01T10:00+24:00", "2026-02-01T10:00+99:99", "2026-02-01T10:00-05:60", "2026-02-01T10:00+05:3"),
        *("0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01", "10000-01-01", "\uff12026-02-01", "1770000000"),
    ],
)
def test_a_string_that_is_not_a_full_date_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_moment(text)


@pytest.mark.parametrize(
    "written",
    [
        datetime(2026, 11, 1),  # noqa: DTZ001  # naive is the point
        datetime(2026, 11, 1, fold=1),  # noqa: DTZ001
        pendulum.naive(2026, 11, 1),
    ],
)
def test_a_midnight_that_occurs_twice_means_the_first(written: datetime) -> None:
    assert parse_moment("2026-11-01", HAVANA) == parse_moment("2026-11-01T00:00", HAVANA) == FIRST_MIDNIGHT
    assert to_utc(written, HAVANA) == FIRST_MIDNIGHT
    assert type(to_utc(written, HAVANA)) is datetime


def test_an_aware_time_is_not_changed() -> None:
    second = pendulum.instance(FIRST_MIDNIGHT).add(hours=1).in_timezone("America/Havana")
    assert second.hour == 0
    assert to_utc(second, HAVANA) == FIRST_MIDNIGHT + timedelta(hours=1)


def test_a_midnight_that_is_skipped_means_the_start_of_its_day() -> None:
    begin = parse_moment("2026-03-08", HAVANA)
    assert begin == datetime(2026, 3, 8, 5, tzinfo=UTC)
    assert begin.astimezone(HAVANA).hour == 1
