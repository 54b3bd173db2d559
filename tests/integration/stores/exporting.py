"""Exports in processes of their own, to be killed. Run as a script it forks one for every line that it is given.

Forking saves the seconds that importing takes; nothing of a store's client library has been started by then.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_provider_unpod.export import write_export
from airflow_provider_unpod.export.options import ExportOptions
from airflow_provider_unpod.export.publication import Publication
from tests.export.support import FakeReading, row

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS = 2000
OPTIONS = ExportOptions(compression="gzip", partition_by=("currency", "month"))


class Terminated(BaseException):
    """Raised as Airflow does in the main thread of a task on SIGTERM."""


def generation(number: int) -> Iterator[dict[str, Any]]:
    """The invoices of one export, unlike those of any other."""
    return (row(n, generation=number) for n in range(1, ROWS + 1))


def export(
    address: str, conn_id: str | None, number: int, mode: str = "full", killed_after_commit: bool = False
) -> Any:
    if killed_after_commit:
        Publication._tidy = die  # type: ignore[assignment, method-assign]  # the step after the commit
    options = replace(OPTIONS, export_mode=mode)
    return write_export(FakeReading(generation(number)), address, conn_id=conn_id, options=options)


def die(*_: object) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL ends the process")


def terminate(signum: int, frame: object) -> NoReturn:
    raise Terminated


def main() -> None:
    import adlfs  # noqa: F401 - what takes time to import is imported once
    import s3fs  # noqa: F401 - likewise
    from airflow.providers.common.compat.sdk import ObjectStoragePath  # noqa: F401 - likewise

    for line in sys.stdin:
        arguments = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.dup2(2, 1)  # log lines must not appear between the responses
            signal.signal(signal.SIGTERM, terminate)
            try:
                export(*arguments)
            except Terminated:
                os._exit(143)
            os._exit(0)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
