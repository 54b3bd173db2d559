"""Programs that judge reliability see what is wrong, and the documentation shows what they wrote."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.__main__ import compared
from benchmarks.documents import RELIABILITY, replace_section
from benchmarks.faults import __main__ as faults
from benchmarks.faults import disks
from benchmarks.faults.causes import CAUSES
from benchmarks.faults.deployment import USES
from benchmarks.faults.trial import title
from benchmarks.soak import COUNT_MORE, MEMORY_RATIO, Footprint, Soaked, exported, footprint
from benchmarks.tables import TABLES, Table
from benchmarks.targets import ATTEMPTS, Target, settled, verdict
from benchmarks.waiting import WAITS, StillList, days, for_all, searches

STEADY = Footprint(memory=200.0, threads=8, descriptors=30, connections=4)


def test_a_steady_process_has_not_grown_whatever_it_needed_to_warm_up() -> None:
    warming_up = [replace(STEADY, memory=50.0 + number, descriptors=number) for number in range(10)]
    assert Soaked("steady", [*warming_up, *[STEADY] * 30], "", []).grew == []


@pytest.mark.parametrize("leak", ["memory", "threads", "descriptors", "connections"])
def test_what_is_leaked_each_time_is_growth(leak: str) -> None:
    leaking = [replace(STEADY, **{leak: getattr(STEADY, leak) + number}) for number in range(40)]
    assert Soaked("leaking", leaking, "", []).grew == [leak]


@pytest.mark.parametrize(
    ("exports", "exit_status", "problems"),
    [
        (60, 0, []),
        (60, 1, ["ended with status 1"]),
        (60, None, ["ended with status None"]),
        (20, 0, ["20 exports in 300 s, at least 30 expected"]),
    ],
)
def test_a_process_that_stops_exporting_is_not_one_that_did_not_grow(
    tmp_path: Path, exports: int, exit_status: int | None, problems: list[str]
) -> None:
    line = json.dumps({"fault": "", "error": "", "footprint": asdict(STEADY)})
    (tmp_path / "rounds").write_text(f"{line}\n" * exports)
    assert exported(tmp_path, exit_status, seconds=300).unexpected == problems


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_connection_is_counted_in_each_version_of_ip(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    before = footprint(os.getpid()).connections
    try:
        listener = socket.create_server((address, 0), family=family)
    except OSError:
        pytest.skip(f"This machine has no {address}.")
    with listener, socket.create_connection(listener.getsockname()[:2]):
        assert footprint(os.getpid()).connections == before + 2  # the listener is one, too


def test_the_page_says_how_much_growth_the_soak_test_allows() -> None:
    text = " ".join(RELIABILITY.read_text().split())
    assert f"over {COUNT_MORE} more threads, descriptors or connections" in text
    assert f"over {MEMORY_RATIO - 1:.0%} more memory".replace("%", " %") in text


def test_the_page_shows_every_fault_for_every_use_and_nothing_that_went_wrong() -> None:
    table = RELIABILITY.read_text().partition("### Faults")[2].partition("\n\n`-`")[0]
    header, _, *rows = (line.strip("|").split("|") for line in re.findall(r"^\|.*$", table, re.M))
    assert [cell.strip() for cell in header] == ["", *map(title, USES)]
    assert [row[0].strip() for row in rows] == [cause.name for cause in CAUSES]
    for cause, row in zip(CAUSES, rows, strict=True):
        cells = dict(zip(USES, (cell.strip() for cell in row[1:]), strict=True))
        assert {use for use, cell in cells.items() if cell != "-"} == set(cause.meets), cause.name
        assert "wrong" not in "".join(row)


@pytest.mark.parametrize("escaped", [0, 2, ATTEMPTS])
def test_a_fault_is_tried_again_if_the_export_ended_before_it(monkeypatch: pytest.MonkeyPatch, escaped: int) -> None:
    missed = iter([True] * escaped + [False])

    class OneTrial:
        def __init__(self, world: object, cause: object) -> None:
            self.missed = next(missed)
            self.wrong: dict[str, str] = {}

        def run(self) -> None: ...

    monkeypatch.setattr(faults, "Trial", OneTrial)
    if escaped < ATTEMPTS:
        assert not faults.met(None, CAUSES[0]).missed  # type: ignore[arg-type]  # no world is needed
    else:
        with pytest.raises(RuntimeError, match="3 exports ended before the fault"):
            faults.met(None, CAUSES[0])  # type: ignore[arg-type]


def test_a_full_disk_refuses_an_export_as_a_real_one_does() -> None:
    try:
        mounting = disks.mounting()
    except RuntimeError as error:
        pytest.skip(str(error))
    script = (
        "from benchmarks.faults.disks import DISKS, LEFT, fill, make_room\n"
        "for disk in DISKS:\n"
        "    fill(disk)\n"
        "    try:\n"
        "        (disk / 'export').write_bytes(bytes(2 * LEFT))\n"
        "    except OSError as error:\n"
        "        print(error.errno, end=' ')\n"
        "    make_room(disk)\n"
        "    (disk / 'export').write_bytes(bytes(2 * LEFT))\n"
    )
    done = subprocess.run([*mounting, sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.split() == [str(errno.ENOSPC)] * 2
    assert not any((disk / "export").exists() for disk in disks.DISKS)  # only that process saw the disks


def test_a_program_replaces_its_own_part_of_a_page_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- Written by `python -m it`: -->\n<!-- The end of what `it` writes. -->\nbelow\n")
    replace_section(page, "it", "old")
    replace_section(page, "it", "new")

    text = page.read_text()
    assert text.startswith("above\n")
    assert text.endswith("\nbelow\n")
    assert "new" in text
    assert "old" not in text
    with pytest.raises(ValueError, match="must contain the lines"):
        replace_section(page, "another", "text")


def measures(*figures: float, noisy: bool = True) -> Iterator[list[Target]]:
    return iter([[Target("ratio", 1.3, figure, noisy)] for figure in figures])


def test_a_program_fails_with_a_line_for_each_missed_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict([Target("ratio", 1.3, 1.3), Target("requests", 10, 9)]) == 0
    assert capsys.readouterr().err == ""
    assert verdict([Target("ratio", 1.3, 1.31), Target("requests", 10, 9)]) == 1
    assert capsys.readouterr().err == "Missed: ratio must be at most 1.3, got 1.31.\n"


def test_a_missed_time_is_measured_again_and_the_best_measurement_counts() -> None:
    rounds = measures(1.5, 1.2, 9.9)
    assert settled(lambda: next(rounds)) == [Target("ratio", 1.3, 1.2, noisy=True)]
    assert len(list(rounds)) == 1  # a third was not needed


def test_a_measurement_counts_as_a_whole() -> None:
    """Figures of two measurements would be those of none, and no table would show them."""
    figures = [(1.0, 3.0), (2.0, 1.0), (1.1, 1.4)]
    rounds = iter([[Target("time", 1.3, one, True), Target("memory", 1.3, other, True)] for one, other in figures])
    assert [target.measured for target in settled(lambda: next(rounds))] == [1.1, 1.4]


def test_the_tables_that_are_saved_are_those_that_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [
        Table(f"of {figure}", ("",), targets=[Target("time", 1.3, figure, noisy=True)]) for figure in (1.6, 1.4, 1.5)
    ]
    rounds = iter(tables)
    monkeypatch.setitem(TABLES, "time", lambda scale: next(rounds))
    assert compared("time", quick=False) == ([tables[1]], tables[1].targets)


def test_a_time_that_is_missed_again_and_again_is_missed() -> None:
    rounds = measures(*[1.6, 1.4, 1.5][:ATTEMPTS], 1.0)
    assert settled(lambda: next(rounds)) == [Target("ratio", 1.3, 1.4, noisy=True)]


def test_a_wrong_result_is_not_measured_again() -> None:
    rounds = measures(2, 0, noisy=False)
    assert settled(lambda: next(rounds)) == [Target("ratio", 1.3, 2)]


def test_a_result_that_is_wrong_only_when_a_time_is_measured_again_is_wrong() -> None:
    rounds = iter([[Target("time", 1, 2, noisy=True), Target("rows missing", 0, lost)] for lost in (0, 3)])
    assert verdict(settled(lambda: next(rounds))) == 1


@pytest.mark.slow
def test_a_day_of_waiting_and_a_first_search_reach_their_targets() -> None:
    tables = [*days([1_000]), searches(1_000, 5)]
    assert [target for table in tables for target in table.targets if not target.reached] == []
    assert len(tables[0].rows) == 2 * len(WAITS)


def test_the_list_was_read_again_only_when_a_response_had_each_row() -> None:
    api = StillList(range(1, 251), newest_first=True)
    api.get_page(1, 100)
    api.get_page(1, 100)
    assert api.unseen == 150
    api.get_page(2, 100)
    api.get_page(3, 100)
    assert api.unseen == 0
    assert for_all(list(range(1, 1_001)), newest_first=True).hours_until_all_was_seen(0.05) == float("inf")
