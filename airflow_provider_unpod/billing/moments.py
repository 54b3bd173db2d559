"""Dates and times: the one parser for what the API sends and what users write.

A wall time that occurs twice when the clocks go back is the first of the two, in texts, dates and datetimes alike.
"""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta, timezone, tzinfo

#: A full date, with both dashes or none, and perhaps a time: ISO 8601 without weeks and numbered days. Written out,
#: because ``fromisoformat`` differs between Python versions, and more lenient parsers complete "12:30" by today's date.
_MOMENT = re.compile(
    r"(\d{4})(-?)(\d\d)\2(\d\d)"
    r"(?:[Tt ](\d\d)(?::?(\d\d)(?::?(\d\d)(?:[.,](\d+))?)?)?([Zz]|[+-]\d\d(?::?\d\d){0,2})?)?",
    re.ASCII,
).fullmatch
#: The format that the API sends. Parsed for every row where dates matter, so by the C parser.
_USUAL = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{6})?Z", re.ASCII).fullmatch
_COLON_OR_NOT = re.compile(r":?(\d\d)").findall


def parse_moment(text: str, zone: tzinfo = timezone.utc) -> datetime:
    """Read an ISO 8601 text with a full date as an aware moment in UTC; digits beyond microseconds are cut off.

    :param zone: the time zone of a text that names none.
    :raises ValueError: if the text is not a full date, or the moment lies outside the years 1 to 9999 in UTC.
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
    """Give a moment in UTC as a plain ``datetime``; a naive one is wall time in ``zone``.

    :raises ValueError: if it lies outside the years 1 to 9999 in UTC.
    """
    # Taken apart, because Airflow's users pass pendulum's subclass, which defaults to the second of two equal wall
    # times and costs in comparisons.
    if moment.tzinfo is None:
        moment = datetime(*moment.timetuple()[:6], moment.microsecond, tzinfo=zone)
    utc = in_zone(moment, timezone.utc)
    return datetime(*utc.timetuple()[:6], utc.microsecond, tzinfo=timezone.utc)


def in_zone(moment: datetime, zone: tzinfo) -> datetime:
    """Give an aware moment as wall time in ``zone``.

    :raises ValueError: if it lies outside the years 1 to 9999 there.
    """
    try:
        return moment.astimezone(zone)
    except OverflowError:
        raise ValueError(f"{moment.isoformat()} is outside the years 1 to 9999 in {zone}") from None


def _zone_of(offset: str) -> timezone:
    hours, minutes, seconds = (*map(int, _COLON_OR_NOT(offset)), 0, 0)[:3]
    time(hours, minutes, seconds)  # more than 23 hours or 59 minutes are not an offset
    distance = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    return timezone(-distance if offset[0] == "-" else distance)
