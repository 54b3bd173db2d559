"""Parses dates and times from the API and from users.

When clocks go back, a wall time occurs twice. It always means the first of the two.
"""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta, timezone, tzinfo

#: A full date with both dashes or none, and an optional time: ISO 8601 without week dates and ordinal dates. Not left
#: to ``fromisoformat``, which differs between Python versions, nor to lenient parsers, which add today's date to
#: "12:30".
_MOMENT = re.compile(
    r"(\d{4})(-?)(\d\d)\2(\d\d)"
    r"(?:[Tt ](\d\d)(?::?(\d\d)(?::?(\d\d)(?:[.,](\d+))?)?)?([Zz]|[+-]\d\d(?::?\d\d){0,2})?)?",
    re.ASCII,
).fullmatch
#: The format that the API sends. It goes to the C parser, since every row may need it.
_USUAL = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{6})?Z", re.ASCII).fullmatch
_COLON_OR_NOT = re.compile(r":?(\d\d)").findall


def parse_moment(text: str, zone: tzinfo = timezone.utc) -> datetime:
    """Parse an ISO 8601 string with a full date into an aware ``datetime`` in UTC, truncated to microseconds.

    :param zone: time zone for a string without an offset.
    :raises ValueError: if the string is not a full date, or the time is outside the years 1 to 9999 in UTC.
    """
    if _USUAL(text):
        return datetime.fromisoformat(text[:-1] + "+00:00")
    match = _MOMENT(text.strip())
    if match is None:
        raise ValueError("not a full ISO 8601 date")
    year, _, month, day, hour, minute, second, fraction, offset = match.groups()
    moment = datetime(  # noqa: DTZ001  # the zone follows
        int(year),
        int(month),
        int(day),
        int(hour or 0),
        int(minute or 0),
        int(second or 0),
        int(f"{fraction[:6]:0<6}") if fraction else 0,
    )
    if offset in ("Z", "z"):
        return moment.replace(tzinfo=timezone.utc)
    return to_utc(moment.replace(tzinfo=_zone_of(offset)) if offset else moment, zone)


def to_utc(moment: datetime, zone: tzinfo) -> datetime:
    """Convert ``moment`` to a plain ``datetime`` in UTC. A naive one is wall time in ``zone``.

    :raises ValueError: if the result is outside the years 1 to 9999.
    """
    # Rebuilt field by field: pendulum's subclass, which Airflow users pass, picks the second of two equal wall times
    # and is slow in comparisons.
    if moment.tzinfo is None:
        moment = datetime(*moment.timetuple()[:6], moment.microsecond, tzinfo=zone)
    utc = in_zone(moment, timezone.utc)
    return datetime(*utc.timetuple()[:6], utc.microsecond, tzinfo=timezone.utc)


def in_zone(moment: datetime, zone: tzinfo) -> datetime:
    """Convert an aware ``datetime`` to ``zone``.

    :raises ValueError: if the result is outside the years 1 to 9999.
    """
    try:
        return moment.astimezone(zone)
    except OverflowError:
        raise ValueError(f"{moment.isoformat()} is outside the years 1 to 9999 in {zone}") from None


def _zone_of(offset: str) -> timezone:
    hours, minutes, seconds = (*map(int, _COLON_OR_NOT(offset)), 0, 0)[:3]
    time(hours, minutes, seconds)  # raises ValueError for more than 23 hours or 59 minutes
    distance = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    return timezone(-distance if offset[0] == "-" else distance)
