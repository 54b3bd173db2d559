"""Where errors of the API client become Airflow's.

What no retry can mend (a wrong token, an unknown organisation, a connection that cannot work) ends the task at
once; everything else stays what it is and is retried as the task says.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.billing.arguments import GAVE_NOTHING, org_handle_of, text_of
from airflow_provider_unpod.billing.errors import UnpodConfigError, UnpodError

if TYPE_CHECKING:
    from collections.abc import Iterable


@contextmanager
def fail_fast() -> Iterator[None]:
    """Turn a permanent :class:`UnpodError` into ``AirflowFailException``; a context manager and a decorator.

    :raises AirflowFailException: from the ``UnpodError`` whose ``permanent`` is true, with its text; Airflow then
        spends no retries on the task.
    """
    try:
        yield
    except UnpodError as error:
        if not error.permanent:
            raise
        from airflow.providers.common.compat.sdk import AirflowFailException

        raise AirflowFailException(str(error)) from error


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
            raise UnpodConfigError(f"`{name}` is None now that it is rendered, which was not meant. {GAVE_NOTHING}")
