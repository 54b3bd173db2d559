"""Where errors of the API client become Airflow's.

What no retry can mend (a wrong token, an unknown organisation, a connection that cannot work) ends the task at
once; everything else stays what it is and is retried as the task says.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_provider_unpod.billing.errors import UnpodError

if TYPE_CHECKING:
    from collections.abc import Iterator


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
