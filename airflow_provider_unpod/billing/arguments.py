"""Checks of the arguments that users write, and that templates and other tasks hand on; one for each kind of value.

A rendered template is a text: that of a list is the list again. The text of nothing (``"None"``) is refused, because
a task would wait for an invoice of that name for ever. Messages have one form:
`` `name` must be …, got …. What to do. ``
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from airflow_provider_unpod.billing.errors import UnpodConfigError, short_repr
from airflow_provider_unpod.billing.invoice import currency_code, match_key, status_key
from airflow_provider_unpod.billing.moments import parse_moment, to_utc

if TYPE_CHECKING:
    from airflow_provider_unpod.billing.invoice import InvoiceId

#: What templates render to where there is nothing, in Python and in JSON.
_NOTHING = frozenset({"", "none", "null"})
#: Some 30 years; ``datetime`` and event loops fail on times that are much longer.
_MAX_SECONDS = 1e9
GAVE_NOTHING = "Did a template or an upstream task return nothing?"
#: Characters that no status or id contains, but the ``str()`` of a wrongly rendered object does: a nested list, a set,
#: a generator (``{{ rows | map(...) }}``), a connection, JSON.
_NO_NAME = re.compile(r"""[\[\]{}<>"']|\(\)""").search


def unrendered(value: Any, name: str) -> Any:
    """Turn the text of a list, or a text with commas, into a list; give any other value back.

    :raises UnpodConfigError: if a text begins like a list but is not one.
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
        raise UnpodConfigError(
            f"`{name}` looks like a list but cannot be parsed, got {short_repr(value)}. Write for example [1, 2] or "
            "['a', 'b']."
        )
    return [part.strip() for part in text.split(",")] if "," in text else value


def statuses_of(value: Any, name: str, *, may_be_empty: bool = False) -> tuple[str, ...]:
    """Check one status or several, and give them stripped, case-folded and sorted: their order means nothing.

    :raises UnpodConfigError: if one is not a status, or if there is none and ``may_be_empty`` is false.
    """
    given = _several(unrendered(value, name))
    if not all(map(_is_name, given)) or not (given or may_be_empty):
        or_empty = ", or []" if may_be_empty else ""
        raise UnpodConfigError(
            f"`{name}` must be a status such as 'paid', or several{or_empty}, got {short_repr(value)}. {GAVE_NOTHING}"
        )
    return tuple(sorted(set(map(status_key, given))))


def invoice_ids_of(value: Any, name: str) -> dict[InvoiceId, InvoiceId]:
    """Check one invoice id or several: a dictionary from the form in which they are compared to the id as given.

    :raises UnpodConfigError: if one is not an id, or there is none.
    """
    by_key: dict[InvoiceId, InvoiceId] = {}
    for one in _ids(value, name):
        key = match_key(one)
        # An integer beyond 64 bits becomes its digits, which messages and Airflow's storage can hold.
        by_key.setdefault(key, one if isinstance(one, str) else key)
    return by_key


def text_of(value: Any, name: str) -> str:
    """Check a non-empty string. An integer is its digits: native templates make one of ``"12345"``.

    :raises UnpodConfigError: if it is neither, or the text of another object.
    """
    if type(value) is int:
        return str(value)
    if not _is_name(value):
        raise UnpodConfigError(f"`{name}` must be a non-empty string, got {short_repr(value)}. {GAVE_NOTHING}")
    return str(value)


def org_handle_of(value: Any) -> str | None:
    """Check an organization handle; ``None`` means the connection's.

    :raises UnpodConfigError: if it is anything else.
    """
    return None if value is None else text_of(value, "org_handle")


def choice_of(value: Any, name: str, choices: Sequence[Any]) -> Any:
    """Check one of several values.

    :raises UnpodConfigError: for any other value.
    """
    if value in choices:
        return value
    *others, last = map(repr, choices)
    raise UnpodConfigError(f"`{name}` must be {', '.join(others)} or {last}, got {short_repr(value)}.")


def whole_number_of(value: Any, name: str, *, least: int = 1, most: int | None = None) -> int:
    """Check an integer within limits; a text, a fraction and a bool are not integers.

    :raises UnpodConfigError: if it is anything else, or out of range.
    """
    if type(value) is int and value >= least and (most is None or value <= most):
        return value
    limits = f"{least} or more" if most is None else f"from {least} to {most}"
    raise UnpodConfigError(f"`{name}` must be a whole number, {limits}, got {short_repr(value)}.")


def decimals_of(value: Any, name: str) -> dict[str, Decimal]:
    """Check amounts by currency, such as ``{"USD": "0.01"}``; ``None`` means no amounts.

    :raises UnpodConfigError: if it is anything else; a float has been rounded already.
    """
    try:
        amounts = {
            currency_code(one): Decimal(amount) for one, amount in dict(value or {}).items() if _is_exact(amount)
        }
        if len(amounts) == len(value or {}) and all(amount.is_finite() and amount >= 0 for amount in amounts.values()):
            return amounts
    except (TypeError, ValueError, AttributeError, ArithmeticError):
        pass
    raise UnpodConfigError(f'`{name}` must be amounts by currency, such as {{"USD": "0.01"}}, got {short_repr(value)}.')


def seconds_of(value: Any, name: str) -> float:
    """Check seconds or a ``timedelta``, and give seconds.

    :raises UnpodConfigError: if it is neither, negative or not finite.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if type(seconds) in (int, float) and 0 <= seconds <= _MAX_SECONDS:
        return float(seconds)
    raise UnpodConfigError(f"`{name}` must be seconds, 0 to 1,000,000,000, or a timedelta, got {short_repr(value)}.")


def moment_of(value: Any, name: str, zone: tzinfo) -> datetime:
    """Check an ISO 8601 text, ``date`` or ``datetime``, and give the moment in UTC.

    One without an offset is wall time in ``zone``. An integer of eight digits is a date, too: native templates make one
    of ``{{ ds_nodash }}``.

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
    """Check the IANA name of a time zone, and give the zone.

    :raises UnpodConfigError: if there is no such zone.
    """
    try:
        return ZoneInfo(value)
    except (KeyError, ValueError, OSError, TypeError):
        raise UnpodConfigError(
            f"`{name}` must be an IANA time zone such as UTC or Europe/Berlin, got {short_repr(value)}."
        ) from None


def _is_exact(amount: object) -> bool:
    return isinstance(amount, (str, int, Decimal)) and not isinstance(amount, bool)


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
                f"`{name}` must be an invoice id or number, or several, got {short_repr(one)}. {GAVE_NOTHING}"
            )
    if not ids:
        raise UnpodConfigError(f"`{name}` must be at least one invoice id, got none. {GAVE_NOTHING}")
    return ids
