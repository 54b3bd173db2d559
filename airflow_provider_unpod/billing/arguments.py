"""Lists, statuses and invoice ids as users write them, and as templates and other tasks hand them on.

A template of a list renders to a text, one of nothing to ``"None"``: the first is the list again, the second is refused
at once, because nobody would ever see an invoice of that name.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.billing.errors import UnpodConfigError, shown
from airflow_provider_unpod.billing.invoice import match_key

if TYPE_CHECKING:
    from airflow_provider_unpod.billing.invoice import InvoiceId

#: What templates render to where there is nothing, in Python and in JSON.
_NOTHING = frozenset({"", "none", "null"})
_GAVE_NOTHING = "Did a template or an upstream task give nothing?"
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
        raise UnpodConfigError(f"`{name}` is the text of no list such as [1, 2] or ['a', 'b']: {shown(value)}.")
    return [part.strip() for part in text.split(",")] if "," in text else value


def statuses_of(value: Any, name: str, *, may_be_empty: bool = False) -> tuple[str, ...]:
    """One status or several, in small letters, as they are compared; sorted, because their order means nothing.

    :raises UnpodConfigError: if it is anything else, or none where there must be one.
    """
    given = _several(unrendered(value, name))
    if not all(map(_is_name, given)) or not (given or may_be_empty):
        or_empty = ", or be []" if may_be_empty else ""
        raise UnpodConfigError(
            f"`{name}` must name a status such as 'paid'{or_empty}, not {shown(value)}. {_GAVE_NOTHING}"
        )
    return tuple(sorted({one.strip().lower() for one in given}))


def invoice_ids_of(value: Any, name: str) -> dict[InvoiceId, InvoiceId]:
    """One invoice id or several, each once in the order given, by the form in which they are compared.

    :raises UnpodConfigError: if one is no id, or there is none.
    """
    by_key: dict[InvoiceId, InvoiceId] = {}
    for one in _ids(value, name):
        by_key.setdefault(match_key(one), one)
    return by_key


def text_of(value: Any, name: str) -> str:
    """A text that names something.

    :raises UnpodConfigError: if it is none, or empty, or the text of something else.
    """
    if not _is_name(value):
        raise UnpodConfigError(f"`{name}` must be a text that names something, not {shown(value)}. {_GAVE_NOTHING}")
    return str(value)


def org_handle_of(value: Any) -> str | None:
    """An organisation handle; only ``None`` stands for the connection's, nothing that was meant to be another.

    :raises UnpodConfigError: if it is neither.
    """
    return None if value is None else text_of(value, "org_handle")


def seconds_of(value: Any, name: str) -> float:
    """Seconds, or a ``timedelta``, as seconds.

    :raises UnpodConfigError: if it is neither, or no time that anybody can wait.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and 0 <= seconds < float("inf"):
        return float(seconds)
    raise UnpodConfigError(f"`{name}` must be seconds, from 0 on, or a timedelta, not {shown(value)}.")


def is_final(value: object) -> bool:
    """Whether an argument is what the task will get, so that it can be checked when the DAG is parsed.

    A template is not, nor is another task's result (which is never iterated: it would go on for ever), nor what holds
    one of them, nor what can be gone through only once.
    """
    if isinstance(value, str):
        return "{{" not in value and "{%" not in value
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(is_final, value))
    if isinstance(value, dict):
        return all(map(is_final, value.values()))
    return not hasattr(value, "resolve") and not isinstance(value, Iterator)


def check_connection_of(task: Any) -> None:
    """Refuse, while a DAG is parsed, a task's connection id and organisation handle that name nothing.

    :raises UnpodConfigError: naming the argument.
    """
    if is_final(task.unpod_conn_id):
        text_of(task.unpod_conn_id, "unpod_conn_id")
    if is_final(task.org_handle):
        org_handle_of(task.org_handle)


def given_templates(task: Any) -> tuple[str, ...]:
    """The names of a task's template fields that are not ``None``, to be asked when it is made."""
    return tuple(name for name in task.template_fields if getattr(task, name, None) is not None)


def check_rendered(task: Any, names: Iterable[str]) -> None:
    """Refuse the ``None`` of an upstream task, or of a native template: it would stand for the default.

    :param names: from :func:`given_templates`.
    :raises UnpodConfigError: naming the field.
    """
    for name in names:
        if getattr(task, name) is None:
            raise UnpodConfigError(f"`{name}` is None now that it is rendered, which was not meant. {_GAVE_NOTHING}")


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
                f"`{name}` must be an invoice id or number, or several; {shown(one)} is none. {_GAVE_NOTHING}"
            )
    if not ids:
        raise UnpodConfigError(f"`{name}` is empty: give at least one invoice id. {_GAVE_NOTHING}")
    return ids
