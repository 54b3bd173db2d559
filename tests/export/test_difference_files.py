"""The temporary file of a reconciliation's differences."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, suppress
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

import pytest

from airflow_provider_unpod.export import ExportError, difference_files
from airflow_provider_unpod.export.difference_files import Differences
from airflow_provider_unpod.export.errors import ExportRefused, LedgerError
from airflow_provider_unpod.export.reconciliation import Entry, reconcile
from airflow_provider_unpod.export.spool import temporary_file
from airflow_provider_unpod.export.storage import Folder


def broken_ledger() -> Iterator[Entry]:
    yield Entry("1", Decimal("10.00"), "USD", None, None)
    raise LedgerError("line 2 is not a ledger")


def test_a_ledger_that_breaks_off_leaves_no_file_open(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[IO[bytes]] = []

    def recorded() -> IO[bytes]:
        opened.append(temporary_file())
        return opened[-1]

    monkeypatch.setattr(difference_files, "temporary_file", recorded)
    with pytest.raises(LedgerError, match="line 2"):
        Differences(reconcile([], broken_ledger()), 10)

    (file,) = opened
    assert file.closed


def test_a_missing_temporary_folder_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))

    with pytest.raises(ExportError, match=f"`TMPDIR` must be a folder with space.*{tmp_path}/gone"):
        Differences(reconcile([], []), 10)


def task(map_index: int, run_id: str = "r", organization: str = "acme.tv") -> dict[str, Any]:
    run = {"dag_id": "d", "task_id": "compare", "run_id": run_id, "map_index": map_index, "try_number": 1}
    return {"organization": organization, "run": run}


@pytest.fixture
def differences() -> Iterator[Differences]:
    with closing(Differences(reconcile([], [Entry("1", Decimal("10.00"), "USD")]), 10)) as found:
        yield found


@pytest.mark.parametrize("meanwhile", [[], ["another run"]], ids=["", "another run ends in between"])
def test_of_two_tasks_that_write_to_one_folder_at_the_same_time_at_most_one_succeeds(
    differences: Differences, tmp_path: Path, meanwhile: list[str]
) -> None:
    """The second task runs between any two steps of the first."""
    for step in range(20):
        place = tmp_path / str(step)
        outcomes: list[str] = []
        steps = iter(range(step))

        def attempt(map_index: int, folder: Folder, outcomes: list[str] = outcomes) -> None:
            with suppress(ExportRefused):
                differences.write(folder, task(map_index))
                outcomes.append(str(map_index))

        class Interrupted(Folder):
            """A folder in which the other task runs at one request of this task."""

            def _request(self, *arguments: Any, place: Path = place, steps: Iterator[int] = steps) -> Any:
                if next(steps, "other") == "other" and not (place / "done").exists():
                    place.mkdir(exist_ok=True)
                    (place / "done").touch()
                    with Folder(str(place)) as folder:
                        for run_id in meanwhile:
                            differences.write(folder, task(0, run_id))
                        attempt(1, folder)
                return super()._request(*arguments)

        with Interrupted(str(place)) as folder:
            attempt(0, folder)
        assert len(outcomes) <= 1
        assert [path.name for path in place.iterdir() if path.name.startswith("_reconciling")] == []
        if outcomes:
            content = json.loads((place / "reconciliation.json").read_text())
            assert str(content["run"]["map_index"]) == outcomes[0]


def test_the_claim_of_a_killed_task_stops_neither_its_retry_which_deletes_it_nor_the_next_run(
    differences: Differences, tmp_path: Path
) -> None:
    def killed() -> Iterator[bytes]:
        raise KeyboardInterrupt
        yield b""

    for after in (task(0), task(1, run_id="next")):
        with Folder(str(tmp_path)) as folder:
            monkeypatch = pytest.MonkeyPatch()
            monkeypatch.setattr(differences, "_csv_blocks", killed)
            monkeypatch.setattr(folder, "delete", lambda names: None)
            with suppress(KeyboardInterrupt):
                differences.write(folder, task(0))
            monkeypatch.undo()
            assert list(tmp_path.glob("_reconciling-*"))
            differences.write(folder, after)
        assert bool(list(tmp_path.glob("_reconciling-*"))) == (after != task(0))


def test_files_of_another_organization_or_an_unknown_one_are_not_replaced(
    differences: Differences, tmp_path: Path
) -> None:
    with Folder(str(tmp_path)) as folder:
        differences.write(folder, task(0, organization="other.tv"))
        with pytest.raises(ExportRefused, match=r"organization 'other\.tv', not of 'acme\.tv'"):
            differences.write(folder, task(0, run_id="next"))
        (tmp_path / "reconciliation.json").write_text("{")
        with pytest.raises(ExportRefused, match=r"Use another path: .*reconciliation\.json belongs to"):
            differences.write(folder, task(0))
