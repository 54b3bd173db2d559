"""Lists, statuses and invoice ids as users write them, and as templates and other tasks hand them on.

A template of a list renders to a text, one of nothing to ``"None"``: the first is the list again, the second is refused
at once, because nobody would ever see an invoice of that name.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from airflow_provider_unpod.billing.errors import UnpodConfigError, short_repr
from airflow_provider_unpod.billing.invoice import match_key, status_key
from airflow_provider_unpod.billing.moments import parse_moment, to_utc

if TYPE_CHECKING:
    from airflow_provider_unpod.billing.invoice import InvoiceId

#: What templates render to where there is nothing, in Python and in JSON.
_NOTHING = frozenset({"", "none", "null"})
GAVE_NOTHING = "Did a template or an upstream task return nothing?"
#: No status, invoice number or connection id has these, but the text of nearly everything that was meant to be another
#: value: of a list in a list, a set, a generator (``{{ rows | map(...) }}``), a connection, JSON.
_NO_NAME = re.compile(r"""[\[\]{}<>"']|\(\)""").search


def unrendered(value: Any, name: str) -> Any:
    """``value``, except that the text of a list, or texts with commas between, are a list again.

    :raises UnpodConfigError: if it begins like a list and is none.
    """
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text[:1] in ("[", "(", "{"):
        try:
            items = ast.literal_eval(text)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            items = None
        if isinstance(items, (list, tuple, set)):
            return list(items)
        raise UnpodConfigError(f"`{name}` is the text of no list such as [1, 2] or ['a', 'b']: {short_repr(value)}.")
    return [part.strip() for part in text.split(",")] if "," in text else value


def statuses_of(value: Any, name: str, *, may_be_empty: bool = False) -> tuple[str, ...]:
    """One status or several as they are compared (stripped, case-folded); sorted, because their order means nothing.

    :raises UnpodConfigError: if it is anything else, or none where there must be one.
    """
    given = _several(unrendered(value, name))
    if not all(map(_is_name, given)) or not (given or may_be_empty):
        or_empty = ", or be []" if may_be_empty else ""
        raise UnpodConfigError(
            f"`{name}` must name a status such as 'paid'{or_empty}, not {short_repr(value)}. {GAVE_NOTHING}"
        )
    return tuple(sorted(set(map(status_key, given))))


def invoice_ids_of(value: Any, name: str) -> dict[InvoiceId, InvoiceId]:
    """One invoice id or several, each once in the order given, by the form in which they are compared.

    :raises UnpodConfigError: if one is no id, or there is none.
    """
    by_key: dict[InvoiceId, InvoiceId] = {}
    for one in _ids(value, name):
        by_key.setdefault(match_key(one), one)
    return by_key


def text_of(value: Any, name: str) -> str:
    """A non-empty string. An integer is its digits: native templates make one of ``"12345"``.

    :raises UnpodConfigError: if it is neither, or the text of another object.
    """
    if type(value) is int:
        return str(value)
    if not _is_name(value):
        raise UnpodConfigError(f"`{name}` must be a non-empty string, got {short_repr(value)}. {GAVE_NOTHING}")
    return str(value)


def org_handle_of(value: Any) -> str | None:
    """An organization handle, or ``None`` for the connection's.

    :raises UnpodConfigError: if it is anything else.
    """
    return None if value is None else text_of(value, "org_handle")


def seconds_of(value: Any, name: str) -> float:
    """Seconds, or a ``timedelta``, as seconds.

    :raises UnpodConfigError: if it is neither, or no time that anybody can wait.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and 0 <= seconds < float("inf"):
        return float(seconds)
    raise UnpodConfigError(f"`{name}` must be seconds, from 0 on, or a timedelta, not {short_repr(value)}.")


def moment_of(value: Any, name: str, zone: tzinfo) -> datetime:
    """A moment in UTC from an ISO 8601 text, a ``date`` or a ``datetime``; without a zone of its own it is in ``zone``.

    An integer of eight digits is a date, too: native templates make one of ``{{ ds_nodash }}``.

    :raises UnpodConfigError: if it is not a full date.
    """
    try:
        if isinstance(value, datetime):
            return to_utc(value, zone)
        if isinstance(value, date):
            return to_utc(datetime(value.year, value.month, value.day), zone)  # noqa: DTZ001  # its zone is `zone`
        if isinstance(value, str) or type(value) is int:
            return parse_moment(str(value), zone)
    except ValueError:
        pass
    raise UnpodConfigError(
        f"`{name}` must be a full date such as 2026-02-01 or 2026-02-01T00:00:00Z, got {short_repr(value)}."
    )


def zone_of(value: Any, name: str) -> ZoneInfo:
    """A time zone from its IANA name.

    :raises UnpodConfigError: if there is no such zone.
    """
    try:
        return ZoneInfo(value)
    except (KeyError, ValueError, OSError, TypeError):
        raise UnpodConfigError(
            f"`{name}` must be an IANA time zone such as UTC or Europe/Berlin, got {short_repr(value)}."
        ) from None


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value.strip().lower() not in _NOTHING and not _NO_NAME(value)


def _several(value: Any) -> list[Any]:
    single = not isinstance(value, Iterable) or isinstance(value, (str, bytes, Mapping))
    return [value] if single else list(value)


def _ids(value: Any, name: str) -> list[InvoiceId]:
    ids = _several(unrendered(value, name))
    for one in ids:
        if not _is_name(one) and (not isinstance(one, int) or isinstance(one, bool)):
            raise UnpodConfigError(
                f"`{name}` must be an invoice id or number, or several; {short_repr(one)} is none. {GAVE_NOTHING}"
            )
    if not ids:
        raise UnpodConfigError(f"`{name}` is empty: give at least one invoice id. {GAVE_NOTHING}")
    return ids
