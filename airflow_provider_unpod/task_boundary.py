"""The boundary between Airflow and the billing client: arguments, results and errors.

Arguments are checked when a DAG is parsed, as far as they are known, and again when templates are rendered. Results are
converted to values that Airflow's database can store. Permanent errors (a wrong token, an unknown organization, an
invalid connection) fail the task immediately. All other errors are retried as the task says.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_unpod.billing.arguments import GAVE_NOTHING, Check, optional, text_of
from airflow_provider_unpod.billing.errors import UnpodConfigError, UnpodError, short_repr

if TYPE_CHECKING:
    from airflow_provider_unpod.billing.reading.selection import Selection

log = logging.getLogger(__name__)

T = TypeVar("T")

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
#: Matches the JSON of values with such characters, or with integers that may have more than 64 bits.
_SUSPICIOUS = re.compile(r"\\u0000|\\ud[89a-f]|[0-9]{19}").search
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
#: Smallest and largest integer that Airflow's processes can exchange (msgpack).
_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**64 - 1


@contextmanager
def fail_fast() -> Iterator[None]:
    """Turn a permanent :class:`UnpodError` into ``AirflowFailException``. A context manager and a decorator.

    The new exception has the same message but no cause and no inner frames, so that the task log shows the message only
    once. An outer ``fail_fast`` removes the frames of an inner one.

    :raises AirflowFailException: for an ``UnpodError`` whose ``permanent`` is true. Airflow then does not retry the
        task.
    """
    from airflow.providers.common.compat.sdk import AirflowFailException

    try:
        yield
    except AirflowFailException as error:
        # A new exception, because a context manager adds its frames to one that passes through it.
        raise AirflowFailException(*error.args) from None
    except UnpodError as error:
        if not error.permanent:
            raise
        raise AirflowFailException(str(error)) from None


def storable(value: T) -> T:
    """Convert a JSON value to one that Airflow can store in XCom, in events and in state stores.

    PostgreSQL's ``jsonb`` refuses U+0000, and a single one in a trigger's event would stop the triggerer of the whole
    deployment. So U+0000 and unpaired surrogates, which UTF-8 cannot encode, become U+FFFD. Integers of more than 64
    bits, which Airflow's processes cannot exchange, become strings of digits. This applies to keys and values at any
    depth. A call that replaces something logs one warning.
    """
    if _is_storable(value):
        return value
    replaced: list[object] = []
    result: T = cleaned(value, replaced)
    if replaced:
        log.warning(
            "Airflow cannot store U+0000, unpaired surrogates or integers of more than 64 bits. %d of them were "
            "replaced by U+FFFD or by a string of digits; the first: %s",
            len(replaced),
            short_repr(replaced[0]),
        )
    return result


def _is_storable(value: object) -> bool:
    """Return whether ``value`` can be stored unchanged. It may return false for a value that can.

    One poll may end ten thousand waits, and this check is several times as fast as a copy.
    """
    try:
        return not _SUSPICIOUS(json.dumps(value))
    except (TypeError, ValueError):  # not JSON, or an integer of more than 4,300 digits
        return False


def cleaned(item: Any, replaced: list[object]) -> Any:
    """Convert ``item`` like :func:`storable`, and append each replaced value to ``replaced`` instead of warning."""
    if isinstance(item, dict):
        # Valid names are kept. If a replaced name equals another name, further U+FFFD keep them apart.
        copied = {key: None for key in item if not isinstance(key, str) or not _UNSTORABLE.search(key)}
        for key, value in item.items():
            name = cleaned(key, replaced)
            while name != key and name in copied:
                name += _REPLACEMENT
            copied[name] = cleaned(value, replaced)
        return copied
    if isinstance(item, (list, tuple)):
        return [cleaned(one, replaced) for one in item]
    if isinstance(item, str) and _UNSTORABLE.search(item):
        replaced.append(item)
        return _UNSTORABLE.sub(_REPLACEMENT, item)
    if isinstance(item, int) and not _MIN_INTEGER <= item <= _MAX_INTEGER:
        replaced.append(item)
        return str(Decimal(item))  # `str` of an integer refuses more than 4,300 digits
    return item


def materialized(value: Any) -> Any:
    """Convert an argument to one that can be iterated twice and is the same in every parse of the DAG.

    Generators and other iterables become lists: their ``repr`` contains an address, so each parse would create a new
    DAG version. Sets become sorted lists, because their order differs between processes. Strings, lists, mappings and
    results of other tasks are returned unchanged.
    """
    if isinstance(value, Set):
        return sorted(value, key=lambda one: (type(one).__name__, str(one)))
    if isinstance(value, (str, bytes, list, tuple, Mapping)) or _is_result(value) or not isinstance(value, Iterable):
        return value
    return list(value)


def is_final(value: object) -> bool:
    """Return whether an argument is already known when the DAG is parsed.

    Templates and results of other tasks are not, and neither are containers of them.
    """
    if isinstance(value, str):
        return "{{" not in value and "{%" not in value
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(is_final, value))
    if isinstance(value, dict):
        return all(map(is_final, value.values()))
    return not _is_result(value)


def _is_result(value: object) -> bool:
    """Return whether ``value`` is another task's result. Such a value is not known yet and must not be iterated."""
    return hasattr(value, "resolve")


#: Checks of the arguments with which a task connects to Unpod.
CONNECTION: Mapping[str, Check] = {"unpod_conn_id": text_of, "org_handle": optional(text_of)}


def check_arguments(task: Any, checks: Mapping[str, Check]) -> tuple[str, ...]:
    """Check the arguments of a task when it is created, as far as they are known.

    :param checks: the check for each argument, by name.
    :returns: the template fields that are not ``None``, for :func:`check_rendered`.
    :raises UnpodConfigError: if an argument is invalid. The message names it.
    """
    for name, check in checks.items():
        value = getattr(task, name)
        if is_final(value):
            check(value, name)
    return tuple(name for name in task.template_fields if getattr(task, name) is not None)


def check_rendered(task: Any, given: Iterable[str], checks: Mapping[str, Check]) -> None:
    """Check the arguments of a task again after its templates have been rendered.

    A ``None`` from an upstream task or a native template is refused. It would silently select the default.

    :param given: the result of :func:`check_arguments`.
    :raises UnpodConfigError: if an argument is invalid. The message names it.
    """
    for name in given:
        if getattr(task, name) is None:
            raise UnpodConfigError(
                f"`{name}` rendered to None. To use the default, do not pass it at all. {GAVE_NOTHING}"
            )
    for name, check in checks.items():
        check(getattr(task, name), name)


def selection_of(task: Any, *, rendered: bool) -> Selection:
    """Build the selection from a task's arguments.

    :param rendered: whether templates have been rendered. If not, arguments that are not known yet are ignored.
    :raises UnpodConfigError: if an argument is invalid. The message names it.
    """
    from airflow_provider_unpod.billing.reading.selection import Selection

    values = {name: getattr(task, name) for name in ("statuses", "invoice_date_from", "invoice_date_to")}
    known = {name: value for name, value in values.items() if rendered or is_final(value)}
    return Selection.from_arguments(**known, timezone=task.business_timezone)
