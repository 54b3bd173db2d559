"""After concurrent or killed exports to one path, there is one complete export and no other files."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_provider_unpod.export.errors import ExportError, ExportRefused
from airflow_provider_unpod.export.manifest import FORMAT, MANIFEST_NAME, VERSION, ListedFile, Manifest
from airflow_provider_unpod.export.publication import Publication
from tests.properties import examples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


class Killed(BaseException):
    """The process was killed, so not even its cleanup runs."""


class MemoryFolder:
    """A consistent store: every operation is atomic and immediately visible."""

    address = "memory://exports"

    def __init__(self, files: dict[str, bytes], before: Callable[[], None] = lambda: None) -> None:
        self.files = files
        self._before = before

    def address_of(self, name: str) -> str:
        return f"{self.address}/{name}"

    def read(self, name: str) -> bytes | None:
        self._before()
        return self.files.get(name)

    def put(self, name: str, content: bytes) -> None:
        self._before()
        self.files[name] = content

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            self._before()
            self.files.pop(name, None)

    def names(self) -> list[str]:
        self._before()
        return sorted(self.files)


ACME, OTHER = {"organization": "acme"}, {"organization": "other"}


def mapped(map_index: int, run_id: str = "r") -> dict[str, Any]:
    return {**ACME, "run": {"dag_id": "d", "run_id": run_id, "task_id": "t", "map_index": map_index}}


MAPPED = [mapped(0), mapped(1)]


def publish(folder: Any, about: dict[str, Any] = ACME) -> Manifest:
    """Write an export of two files, with the steps of the writer."""
    with Publication(folder, about) as publication:

        def write_files(export_id: str) -> Manifest:
            files = []
            for number in (1, 2):
                name = f"currency=USD/invoices-{export_id}-{number:05d}.jsonl"
                content = f"{export_id} {number}".encode()
                folder.put(name, content)
                files.append(ListedFile(name, 0, len(content), hashlib.sha256(content).hexdigest()))
            return Manifest.from_content(
                {
                    "format": FORMAT,
                    "version": VERSION,
                    "export_id": export_id,
                    **about,
                    "file_format": "jsonl",
                    "compression": None,
                    "fields": [],
                    "columns": [],
                    "count": 0,
                    "totals": {},
                    "files": [file.as_dict() for file in files],
                    "changes": None,
                }
            )

        return publication.publish(write_files)


def assert_certified(files: dict[str, bytes]) -> Manifest:
    manifest = Manifest.from_bytes(files[MANIFEST_NAME], MANIFEST_NAME)
    for file in manifest.files:
        assert hashlib.sha256(files[file.path]).hexdigest() == file.sha256
    return manifest


def assert_nothing_else(files: dict[str, bytes], manifest: Manifest) -> None:
    assert set(files) == manifest.paths | {MANIFEST_NAME}


class Scheduler:
    """Runs tasks in threads, one store operation at a time, in a given order."""

    def __init__(self, files: dict[str, bytes], tasks: int, owners: Sequence[dict[str, Any]] = (ACME,)) -> None:
        self._owners = owners
        self._turns = [threading.Semaphore(0) for _ in range(tasks)]
        self._rested = threading.Semaphore(0)
        self.killed = [False] * tasks
        self.outcomes: list[Any] = [None] * tasks
        self._threads = [threading.Thread(target=self._run, args=(n, files), daemon=True) for n in range(tasks)]
        for thread in self._threads:
            thread.start()
            self._rested.acquire()

    def _wait(self, task: int) -> None:
        self._rested.release()
        self._turns[task].acquire()
        if self.killed[task]:
            raise Killed

    def _run(self, task: int, files: dict[str, bytes]) -> None:
        try:
            about = self._owners[task % len(self._owners)]
            self.outcomes[task] = publish(MemoryFolder(files, lambda: self._wait(task)), about)
        except (ExportError, Killed) as error:
            self.outcomes[task] = error
        finally:
            self._rested.release()

    def step(self, task: int) -> None:
        if self.outcomes[task] is None:
            self._turns[task].release()
            self._rested.acquire()

    def kill(self, task: int) -> None:
        self.killed[task] = True
        while self.outcomes[task] is None:
            self.step(task)

    def finish(self) -> None:
        while None in self.outcomes:
            for task in range(len(self.outcomes)):
                self.step(task)
        for thread in self._threads:
            thread.join()


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(st.integers(0, 2), max_size=150), st.integers(2, 3))
def test_concurrent_tasks_leave_one_complete_export_and_no_other_files(turns: list[int], tasks: int) -> None:
    files: dict[str, bytes] = {}
    old = publish(MemoryFolder(files))
    scheduler = Scheduler(files, tasks)
    for turn in turns:
        scheduler.step(turn % tasks)
    scheduler.finish()

    current = assert_certified(files)
    assert_nothing_else(files, current)
    certified = [outcome.export_id for outcome in scheduler.outcomes if isinstance(outcome, Manifest)]
    assert current.export_id in certified or (not certified and current.export_id == old.export_id)


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(st.integers(0, 1), max_size=60), st.lists(st.integers(0, 1), max_size=60))
@example([1] * 100 + [0] * 100, [])  # both have ended before the kill
def test_a_task_that_dies_while_another_exports_does_no_harm(first: list[int], second: list[int]) -> None:
    files: dict[str, bytes] = {}
    publish(MemoryFolder(files))
    scheduler = Scheduler(files, 2)
    for turn in first:
        scheduler.step(turn)
    scheduler.kill(0)
    for turn in second:
        scheduler.step(turn)
    scheduler.finish()

    current = Manifest.from_bytes(files[MANIFEST_NAME], MANIFEST_NAME)
    killed, other = scheduler.outcomes
    # A task that was killed right after its commit may have lost its files: then readers get an error. Neither task
    # may have been killed at all, since both may have ended before.
    if not (isinstance(killed, Killed) and isinstance(other, Manifest) and current.export_id != other.export_id):
        assert_certified(files)
    assert_nothing_else(files, publish(MemoryFolder(files)))


def assert_one_owner_at_most(scheduler: Scheduler, files: dict[str, bytes]) -> None:
    certified = [outcome for outcome in scheduler.outcomes if isinstance(outcome, Manifest)]
    owners = {(manifest.content["organization"], str(manifest.content.get("run"))) for manifest in certified}
    assert len(owners) < 2
    if certified:
        assert assert_certified(files).export_id in [manifest.export_id for manifest in certified]


@pytest.mark.parametrize("owners", [(ACME, OTHER), MAPPED], ids=["organizations", "mapped tasks"])
def test_only_one_of_two_concurrent_owners_is_certified(owners: Sequence[dict[str, Any]]) -> None:
    for moment in range(30):
        for second in (moment, 100):
            files: dict[str, bytes] = {}
            scheduler = Scheduler(files, 2, owners)
            for task in [0] * moment + [1] * second:
                scheduler.step(task)
            scheduler.finish()

            assert_one_owner_at_most(scheduler, files)
            assert not any(name.startswith("_exporting-") for name in files)


@pytest.mark.parametrize("moment", range(8))
def test_a_task_whose_claim_another_run_deleted_does_not_replace_an_export_of_its_own_run(moment: int) -> None:
    """The first task writes its files. Meanwhile a task of another run ends, and then the other task of its run."""
    files: dict[str, bytes] = {}
    scheduler = Scheduler(files, 3, [mapped(0), mapped(0, "other"), mapped(1)])
    for task in [0] * moment + [1] * 100 + [2] * 100:
        scheduler.step(task)
    scheduler.finish()

    first, _, other = scheduler.outcomes
    assert not (isinstance(first, Manifest) and isinstance(other, Manifest))


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(st.integers(0, 2), max_size=120), st.integers(0, 2), st.sampled_from([(ACME, OTHER), MAPPED]))
def test_only_one_of_two_owners_is_certified_even_if_one_of_three_tasks_dies(
    turns: list[int], killed: int, owners: Sequence[dict[str, Any]]
) -> None:
    files: dict[str, bytes] = {}
    scheduler = Scheduler(files, 3, owners)
    for turn in turns:
        scheduler.step(turn)
    scheduler.kill(killed)
    scheduler.finish()

    assert_one_owner_at_most(scheduler, files)


def test_the_claim_that_a_killed_task_of_another_organization_left_is_named() -> None:
    files: dict[str, bytes] = {}
    scheduler = Scheduler(files, 1)
    for _ in range(5):
        scheduler.step(0)
    scheduler.kill(0)
    (claim,) = (name for name in files if name.startswith("_exporting-"))

    with pytest.raises(ExportRefused, match=f"^Use a separate path for each organization.* 'acme'.* delete {claim}"):
        publish(MemoryFolder(files), OTHER)
    del files[claim]
    assert publish(MemoryFolder(files), OTHER).paths <= set(files)


def killed_at(moment: int) -> tuple[dict[str, bytes], bool]:
    """Return the folder of an export that was killed at some time, and whether it was complete."""
    files: dict[str, bytes] = {}
    publish(MemoryFolder(files))
    scheduler = Scheduler(files, 1)
    for _ in range(moment):
        scheduler.step(0)
    done = scheduler.outcomes[0] is not None
    scheduler.kill(0)
    return files, done


def end_without_change(folder: Any) -> None:
    with Publication(folder, ACME) as publication:
        publication.withdraw()


def end_by_an_error(folder: Any) -> None:
    with pytest.raises(TimeoutError), Publication(folder, ACME):
        raise TimeoutError


@pytest.mark.parametrize("end", [end_without_change, end_by_an_error])
def test_files_of_a_killed_task_are_deleted_by_the_next_task_even_if_it_exports_nothing(
    end: Callable[[MemoryFolder], None],
) -> None:
    for moment in itertools.count():
        files, done = killed_at(moment)
        current = files[MANIFEST_NAME]
        end(MemoryFolder(files))

        assert files[MANIFEST_NAME] == current
        assert_nothing_else(files, assert_certified(files))
        if done:
            break
    assert moment > 10


def test_another_owner_that_is_refused_deletes_no_files() -> None:
    files, _ = killed_at(8)
    before = dict(files)

    with pytest.raises(ExportRefused):
        publish(MemoryFolder(files), OTHER)
    assert files == before


class SlowlyListed(MemoryFolder):
    """Lists claims first. Then another task starts and writes its data before the other files are listed."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(files)
        self.meanwhile: Callable[[], None] = lambda: None

    def names(self) -> list[str]:
        claims = [name for name in super().names() if name.startswith("_exporting-")]
        self.meanwhile()
        return [*claims, *(name for name in super().names() if not name.startswith("_exporting-"))]


def test_files_of_a_task_that_starts_while_the_folder_is_listed_are_not_deleted() -> None:
    files: dict[str, bytes] = {}
    publish(MemoryFolder(files))
    other = Scheduler(files, 1)

    def other_writes_its_data() -> None:
        while sum("/invoices-" in name for name in files) < 4:
            other.step(0)

    folder: Any = SlowlyListed(files)
    with Publication(folder, ACME) as publication:
        folder.meanwhile = other_writes_its_data
        publication.withdraw()
    other.finish()

    assert_nothing_else(files, assert_certified(files))


class InterruptedOnce(MemoryFolder):
    """Raises before one of its operations, like a signal handler. Later operations succeed."""

    def __init__(self, files: dict[str, bytes], moment: int) -> None:
        super().__init__(files, self._interrupt)
        self.left = moment

    def _interrupt(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_an_exception_at_any_time_leaves_either_the_old_or_the_new_export_and_no_other_files() -> None:
    for moment in itertools.count(1):
        files: dict[str, bytes] = {}
        publish(MemoryFolder(files))
        folder = InterruptedOnce(files, moment)
        with contextlib.suppress(KeyboardInterrupt):
            publish(folder)

        assert_nothing_else(files, assert_certified(files))
        if folder.left > 0:
            break
    assert moment > 10


class Unwritable(MemoryFolder):
    """Refuses all operations or times out, including the cleanup."""

    def __init__(self, error: OSError) -> None:
        super().__init__({}, self._refuse)
        self._error = error

    def names(self) -> list[str]:
        return []

    def _refuse(self) -> None:
        raise ExportError("It could not be written.") from self._error


@pytest.mark.parametrize(
    ("error", "warnings"),
    [(PermissionError(), []), (TimeoutError(), ["The next export will delete the unfinished one in memory://exports"])],
)
def test_an_unfinished_export_is_reported_only_where_a_file_may_have_been_written(
    error: OSError, warnings: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ExportError):
        publish(Unwritable(error))

    assert [message.partition(": ")[0] for message in caplog.messages] == warnings
