"""The boundary between Airflow and the billing client: arguments in, results and errors out.

Arguments are checked when a DAG is parsed as far as they are known then, and again once templates are rendered.
Results become what Airflow's database can store. Errors that no retry can mend (a wrong token, an unknown
organization, an invalid connection) end the task at once; all others stay what they are and are retried as the task
says.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, TypeVar

from airflow_provider_unpod.billing.arguments import GAVE_NOTHING, org_handle_of, text_of
from airflow_provider_unpod.billing.errors import UnpodConfigError, UnpodError, short_repr

log = logging.getLogger(__name__)

T = TypeVar("T")

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
#: The same in JSON, and integers that may have more than 64 bits.
_SUSPICIOUS = re.compile(r"\\u0000|\\ud[89a-f]|[0-9]{19}").search
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
#: The integers that Airflow's processes can pass to each other (msgpack).
_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**64 - 1


@contextmanager
def fail_fast() -> Iterator[None]:
    """Turn a permanent :class:`UnpodError` into ``AirflowFailException``; a context manager and a decorator.

    The new exception has the same text and neither cause nor the frames below, so that a task log shows what is wrong
    once. Wrapped around another ``fail_fast`` it removes the frames in between, too.

    :raises AirflowFailException: for an ``UnpodError`` whose ``permanent`` is true; Airflow then spends no retries on
        the task.
    """
    from airflow.providers.common.compat.sdk import AirflowFailException

    try:
        yield
    except AirflowFailException as error:
        # A new one, since a context manager gives an exception that passes through it all of its frames again.
        raise AirflowFailException(*error.args) from None
    except UnpodError as error:
        if not error.permanent:
            raise
        raise AirflowFailException(str(error)) from None


def storable(value: T) -> T:
    """A JSON-ready value in a form that Airflow can store: for XCom, the events of triggers and assets, and state.

    One U+0000 in a trigger's event ends the triggerer of the whole deployment on PostgreSQL, whose ``jsonb`` refuses
    it. So every U+0000, and every unpaired surrogate, which UTF-8 cannot encode, becomes U+FFFD; an integer of more
    than 64 bits, which Airflow's processes cannot pass to each other, becomes the text of its digits. This holds for
    keys and values at any depth, and each call that replaces something logs one warning. All else is unchanged.
    """
    if _is_storable(value):
        return value
    replaced: list[object] = []
    result: T = cleaned(value, replaced)
    if replaced:
        log.warning(
            "Airflow cannot store U+0000, unpaired surrogates or integers of more than 64 bits. %d of them were "
            "replaced, by U+FFFD or by the text of the digits; the first: %s",
            len(replaced),
            short_repr(replaced[0]),
        )
    return result


def _is_storable(value: object) -> bool:
    """Whether nothing needs to be replaced. In doubt false: a pair of surrogates looks like one in JSON.

    Ten thousand waits may end with one poll, and this is several times as fast as the copy.
    """
    try:
        return not _SUSPICIOUS(json.dumps(value))
    except (TypeError, ValueError):  # not JSON, or an integer of more than 4,300 digits
        return False


def cleaned(item: Any, replaced: list[object]) -> Any:
    """As :func:`storable`, without a warning: what was replaced is appended to ``replaced``."""
    if isinstance(item, dict):
        # Clean names keep their values; a name that becomes equal to one of them stays apart by further U+FFFD.
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
        return str(Decimal(item))  # Python's own `str` refuses more than 4,300 digits
    return item


def materialized(value: Any) -> Any:
    """An argument in a form that can be iterated again and that looks the same whenever the DAG is parsed.

    A generator or another iterable becomes a list; its own text would hold an address, and each parse would make a new
    version of the DAG. So does a set, sorted, because its order differs from process to process. Text, lists, mappings
    and another task's result, which must not be iterated, stay what they are.
    """
    if isinstance(value, Set):
        return sorted(value, key=lambda one: (type(one).__name__, str(one)))
    if isinstance(value, (str, bytes, list, tuple, Mapping)) or _is_result(value) or not isinstance(value, Iterable):
        return value
    return list(value)


def is_final(value: object) -> bool:
    """Whether an argument is what the task will get, so that it can be checked when the DAG is parsed.

    A template is not, nor is another task's result, nor a container of one of them.
    """
    if isinstance(value, str):
        return "{{" not in value and "{%" not in value
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(is_final, value))
    if isinstance(value, dict):
        return all(map(is_final, value.values()))
    return not _is_result(value)


def _is_result(value: object) -> bool:
    """Whether this is another task's result, which is not known yet; iterating it would never end."""
    return hasattr(value, "resolve")


def check_connection_of(task: Any) -> None:
    """Refuse an invalid connection id or organization handle of a task when the DAG is parsed.

    :raises UnpodConfigError: naming the argument.
    """
    if is_final(task.unpod_conn_id):
        text_of(task.unpod_conn_id, "unpod_conn_id")
    if is_final(task.org_handle):
        org_handle_of(task.org_handle)


def given_templates(task: Any) -> tuple[str, ...]:
    """The names of a task's template fields that are not ``None``; call it when the task is made."""
    return tuple(name for name in task.template_fields if getattr(task, name, None) is not None)


def check_rendered(task: Any, names: Iterable[str]) -> None:
    """Refuse a ``None`` that came from an upstream task or a native template, since it would mean the default.

    :param names: from :func:`given_templates`.
    :raises UnpodConfigError: naming the field.
    """
    for name in names:
        if getattr(task, name) is None:
            raise UnpodConfigError(
                f"`{name}` rendered to None. To use the default, do not pass it at all. {GAVE_NOTHING}"
            )
