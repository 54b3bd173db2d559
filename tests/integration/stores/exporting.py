"""Exports in processes of their own, to be killed. Run as a script it forks one for every line that it is given.

Forking saves the seconds that importing takes; nothing of a store's client library has been started by then.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_provider_unpod.export import ExportError, write_export
from airflow_provider_unpod.export.options import ExportOptions
from airflow_provider_unpod.export.publication import Publication
from tests.export.support import FakeReading, row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROWS = 2000
OPTIONS = ExportOptions(compression="gzip", partition_by=("currency", "month"))
SURVIVED = 2  # the exit code of an export that was made despite its end
FEWER_FILES: dict[str, Any] = {"partition_by": ("currency",)}


class Terminated(BaseException):
    """Raised as Airflow does in the main thread of a task on SIGTERM."""


def generation(number: int, size: int) -> Iterator[dict[str, Any]]:
    """The invoices of one export, unlike those of any other."""
    return (row(n, generation=number) for n in range(1, size + 1))


def export(address: str, conn_id: str | None, number: int, mode: str = "full", size: int = ROWS) -> Any:
    options = replace(OPTIONS, export_mode=mode, **({} if size == ROWS else FEWER_FILES))
    return write_export(FakeReading(generation(number, size)), address, conn_id=conn_id, options=options)


def end_after_commit() -> None:
    Publication._tidy = die  # type: ignore[assignment, method-assign]  # the step after the commit


def end_at_request(address: str, number: int, end: Callable[[], NoReturn]) -> Callable[[], bool]:
    """Call ``end`` in place of the ``number``-th request to the store, or operation on a local folder.

    Return a function that says whether it was called.
    """
    import aiohttp

    left = number

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            end()

    request = aiohttp.ClientSession._request

    async def counted(*args: Any, **kwargs: Any) -> Any:
        count()
        return await request(*args, **kwargs)

    aiohttp.ClientSession._request = counted  # type: ignore[method-assign]  # all client libraries use it

    local = address.removeprefix("file://")
    operations = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.scandir"}

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if event in operations and str(args[0]).startswith(local):
            count()

    sys.addaudithook(audit)
    return lambda: left <= 0


def die(*_: object) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL ends the process")


def fail(*_: object) -> NoReturn:
    import aiohttp

    # An error of connections and of files; S3's client library does not retry it, as the connection of the tests says.
    raise aiohttp.ClientOSError("The connection to the store broke.")


def terminate(signum: int, frame: object) -> NoReturn:
    raise Terminated


def run(*arguments: Any, ends: str | None = None, at: int = 0) -> int:
    """Export, and end before that: after the commit, or at a request, by SIGKILL or by an error of the store.

    Return the exit code.
    """
    if ends == "after commit":
        end_after_commit()
    elif ends is not None:
        ended = end_at_request(arguments[0], at, {"killed": die, "refused": fail}[ends])
        export(*arguments)
        return SURVIVED if ended() else 0
    export(*arguments)
    return 0


def main() -> None:
    import adlfs  # noqa: F401 - what takes time to import is imported once
    import s3fs  # noqa: F401 - likewise

    responses = os.dup(1)
    os.dup2(2, 1)  # log lines must not appear between the responses
    with tempfile.TemporaryDirectory() as folder:  # what Airflow looks up for its first export is looked up once
        export(folder, None, 0, size=1)
    answers = os.fdopen(responses, "w")
    for line in sys.stdin:
        arguments, how = json.loads(line)
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, terminate)
            try:
                os._exit(run(*arguments, **how))
            except Terminated:
                os._exit(143)
            except ExportError:
                os._exit(1)
        print(pid, file=answers, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=answers, flush=True)


if __name__ == "__main__":
    main()
