"""Validators for arguments, one for each kind of value.

Values come from users, from rendered templates and from other tasks. A template renders to a string, so a string that
contains a list is parsed as a list. The string ``"None"`` is refused: a task would wait for an invoice of that name
forever. Every message has the form `` `name` must be …, got …. What to do. ``
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeAlias
from zoneinfo import ZoneInfo

from airflow_provider_unpod.billing.errors import UnpodConfigError, short_repr
from airflow_provider_unpod.billing.invoice import currency_code, match_key, status_key
from airflow_provider_unpod.billing.moments import parse_moment, to_utc

if TYPE_CHECKING:
    from airflow_provider_unpod.billing.invoice import InvoiceId

#: Function that checks an argument. It takes the value and the argument's name, and returns the normalized value.
Check: TypeAlias = Callable[[Any, str], Any]

#: What templates render missing values to, in Python and in JSON.
_NOTHING = frozenset({"", "none", "null"})
#: About 30 years. ``datetime`` and event loops fail on much longer times.
_MAX_SECONDS = 1e9
GAVE_NOTHING = "Did a template or an upstream task return nothing?"
#: Characters that no status or id contains, but the ``str()`` of a wrongly rendered object does: a nested list, a set,
#: a generator (``{{ rows | map(...) }}``), a connection, JSON.
_NO_NAME = re.compile(r"""[\[\]{}<>"']|\(\)""").search


def unrendered(value: Any, name: str) -> Any:
    """Parse a string that contains a list, or comma-separated values, into a list. Return any other value unchanged.

    :raises UnpodConfigError: if a string begins like a list but is not one.
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
    """Check one status or several, and return them stripped, case-folded and sorted.

    :raises UnpodConfigError: if one is not a status, or if the list is empty and ``may_be_empty`` is false.
    """
    given = _several(unrendered(value, name))
    if not all(map(_is_name, given)) or not (given or may_be_empty):
        or_empty = ", or []" if may_be_empty else ""
        raise UnpodConfigError(
            f"`{name}` must be a status such as 'paid', or several{or_empty}, got {short_repr(value)}. {GAVE_NOTHING}"
        )
    return tuple(sorted(set(map(status_key, given))))


def invoice_ids_of(value: Any, name: str) -> dict[InvoiceId, InvoiceId]:
    """Check one invoice id or several, and map the :func:`match_key` of each to the id as given.

    :raises UnpodConfigError: if one is not an id, or the list is empty.
    """
    by_key: dict[InvoiceId, InvoiceId] = {}
    for one in _ids(value, name):
        key = match_key(one)
        # An integer beyond 64 bits becomes a string of its digits: Airflow cannot store the integer.
        by_key.setdefault(key, one if isinstance(one, str) else key)
    return by_key


def text_of(value: Any, name: str) -> str:
    """Check a non-empty string. An integer becomes a string, because native templates render ``"12345"`` to one.

    :raises UnpodConfigError: if it is neither, or if it is the ``str()`` of another object.
    """
    if type(value) is int:
        return str(value)
    if not _is_name(value):
        raise UnpodConfigError(f"`{name}` must be a non-empty string, got {short_repr(value)}. {GAVE_NOTHING}")
    return str(value)


def optional(check: Check) -> Check:
    """Return a check that accepts ``None`` and passes all other values to ``check``."""
    return lambda value, name: None if value is None else check(value, name)


def org_handle_of(value: Any) -> str | None:
    """Check an organization handle. ``None`` stands for the handle of the connection.

    :raises UnpodConfigError: if it is neither ``None`` nor a non-empty string.
    """
    return None if value is None else text_of(value, "org_handle")


def choice_of(value: Any, name: str, choices: Sequence[Any]) -> Any:
    """Check that ``value`` is one of ``choices``.

    :raises UnpodConfigError: if it is not.
    """
    if value in choices:
        return value
    *others, last = map(repr, choices)
    raise UnpodConfigError(f"`{name}` must be {', '.join(others)} or {last}, got {short_repr(value)}.")


def whole_number_of(value: Any, name: str, *, least: int = 1, most: int | None = None) -> int:
    """Check an integer from ``least`` to ``most``. A string, a fraction and a bool are not integers.

    :raises UnpodConfigError: if it is not an integer, or out of range.
    """
    if type(value) is int and value >= least and (most is None or value <= most):
        return value
    limits = f"{least} or more" if most is None else f"from {least} to {most}"
    raise UnpodConfigError(f"`{name}` must be a whole number, {limits}, got {short_repr(value)}.")


def decimals_of(value: Any, name: str) -> dict[str, Decimal]:
    """Check amounts by currency, such as ``{"USD": "0.01"}``. ``None`` means no amounts.

    :raises UnpodConfigError: if it is anything else, or if an amount is a float: floats are rounded.
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
    """Check a number of seconds or a ``timedelta``, and return seconds.

    :raises UnpodConfigError: if it is neither, negative or not finite.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if type(seconds) in (int, float) and 0 <= seconds <= _MAX_SECONDS:
        return float(seconds)
    raise UnpodConfigError(f"`{name}` must be seconds, 0 to 1,000,000,000, or a timedelta, got {short_repr(value)}.")


def moment_of(value: Any, name: str, zone: tzinfo) -> datetime:
    """Check an ISO 8601 string, ``date`` or ``datetime``, and return a ``datetime`` in UTC.

    A value without an offset is wall time in ``zone``. An integer of eight digits is also a date, because native
    templates render ``{{ ds_nodash }}`` to one.

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
    """Check the IANA name of a time zone, and return the zone.

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
