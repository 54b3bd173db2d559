"""Exports that are killed at random moments, by SIGTERM and by SIGKILL."""

from __future__ import annotations

import itertools
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_unpod.export import read_export
from airflow_provider_unpod.export.publication import current_manifest
from airflow_provider_unpod.export.storage import Folder
from tests.integration.stores import exporting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.stores.servers import Store

MOMENTS = 8  # for each signal
PATIENCE = 20  # seconds that a process has to clean up after SIGTERM


class Killer:
    """Starts exports and kills them."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def run(self, arguments: tuple[Any, ...], how: signal.Signals, delay: float = 60, **ending: Any) -> int:
        """The exit code of an export that was killed after ``delay`` seconds, if it was not done by then.

        ``ending`` are the arguments of ``exporting.run``.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([arguments, ending]).encode() + b"\n")
        pid = int(self._process.stdout.readline())
        if not select.select([self._process.stdout], [], [], delay)[0]:
            self._kill(pid, how)
            # A signal handler may raise anywhere, also inside `logging` between taking its lock and the `try`
            # too: the process then hangs. Airflow kills a task that has not ended in time, and so does this.
            if not select.select([self._process.stdout], [], [], PATIENCE)[0]:
                self._kill(pid, signal.SIGKILL)
        return int(self._process.stdout.readline())

    @staticmethod
    def _kill(pid: int, how: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # it has ended this very moment
            os.kill(pid, how)


@pytest.fixture
def killer(store: Store) -> Iterator[Killer]:
    command = [sys.executable, exporting.__file__]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    # Unbuffered, so that select sees all output.
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, env=environment
    ) as process:
        yield Killer(process)


def current_generation(store: Store, folder: str, size: int = exporting.ROWS) -> int:
    """Return the id of the current export. Fail if it is incomplete or mixed."""
    generations = [record["generation"] for record in read_export(folder, store.conn_id)]
    assert len(generations) == size
    assert len(set(generations)) == 1
    return generations[0]


def assert_no_litter(store: Store, folder: str) -> None:
    manifest = current_manifest(Folder(folder, store.conn_id))
    assert manifest is not None
    assert set(Folder(folder, store.conn_id).names()) == manifest.paths | {"_manifest.json"}


@pytest.mark.parametrize("any_store", ["file", "s3", "azure"], indirect=True)
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_readers_see_a_complete_export_and_the_next_try_deletes_leftover_files(
    store: Store, folder: str, how: signal.Signals, killer: Killer
) -> None:
    moments = random.Random(f"{store.name} {how}")

    def duration_of(generation: int) -> float:
        begun = time.perf_counter()
        assert killer.run((folder, store.conn_id, generation), how) == 0
        return time.perf_counter() - begun

    exporting.export(folder, store.conn_id, 0)
    duration = min(duration_of(0), duration_of(1))
    killed = 0
    for number in range(2, 2 * MOMENTS + 2, 2):
        before = current_generation(store, folder)
        ended = killer.run((folder, store.conn_id, number), how, moments.uniform(0, duration))
        killed += ended != 0

        assert current_generation(store, folder) in (before, number)
        if ended != -signal.SIGKILL:
            assert_no_litter(store, folder)
        else:
            exporting.export(folder, store.conn_id, number + 1)
            assert current_generation(store, folder) == number + 1
            assert_no_litter(store, folder)
    assert killed >= MOMENTS // 3


#: Azure's client library repeats a request that was refused.
ENDINGS = [
    ("file", "killed"),
    ("file", "refused"),
    ("s3", "killed"),
    ("s3", "refused"),
    ("azure", "killed"),
    ("gcs", "killed"),
]


@pytest.mark.parametrize(("any_store", "ends"), ENDINGS, indirect=["any_store"])
def test_a_task_that_ends_at_any_request_to_the_store_leaves_a_complete_export_and_the_next_one_tidies(
    store: Store, folder: str, ends: str, killer: Killer
) -> None:
    size = 2  # one row in each partition
    current = 0
    exporting.export(folder, store.conn_id, current, "changes", size)
    for moment in itertools.count(1):
        before = current
        arguments = (folder, store.conn_id, moment, "changes", size)
        ended = killer.run(arguments, signal.SIGKILL, ends=ends, at=moment)

        current = current_generation(store, folder, size)
        assert current in (before, moment)
        assert exporting.export(folder, store.conn_id, current, "changes", size) is None
        assert_no_litter(store, folder)
        if ended == 0:
            break
    assert moment > 15  # claim, listing, three files, manifest, cleanup


@pytest.mark.parametrize("any_store", ["file", "s3", "azure", "gcs"], indirect=True)
def test_files_of_a_task_killed_before_its_cleanup_are_deleted_by_the_next_task_even_without_changes(
    store: Store, folder: str, killer: Killer
) -> None:
    exporting.export(folder, store.conn_id, 0)
    arguments = (folder, store.conn_id, 1, "changes")
    assert killer.run(arguments, signal.SIGKILL, ends="after commit") == -signal.SIGKILL
    assert current_generation(store, folder) == 1
    with pytest.raises(AssertionError):
        assert_no_litter(store, folder)

    assert exporting.export(folder, store.conn_id, 1, "changes") is None
    assert current_generation(store, folder) == 1
    assert_no_litter(store, folder)
