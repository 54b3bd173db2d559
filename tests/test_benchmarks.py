"""Programs that judge reliability see what is wrong, and the documentation shows what they wrote."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.documents import RELIABILITY, replace_section
from benchmarks.faults.causes import CAUSES
from benchmarks.faults.deployment import USES
from benchmarks.faults.trial import title
from benchmarks.soak import Footprint, Soaked

STEADY = Footprint(memory=200.0, threads=8, descriptors=30, connections=4)


def test_a_steady_process_has_not_grown_whatever_it_needed_to_warm_up() -> None:
    warming_up = [replace(STEADY, memory=50.0 + number, descriptors=number) for number in range(10)]
    assert Soaked("steady", [*warming_up, *[STEADY] * 30], "", []).grew == []


@pytest.mark.parametrize("leak", ["memory", "threads", "descriptors", "connections"])
def test_what_is_leaked_each_time_is_growth(leak: str) -> None:
    leaking = [replace(STEADY, **{leak: getattr(STEADY, leak) + number}) for number in range(40)]
    assert Soaked("leaking", leaking, "", []).grew == [leak]


def test_the_page_shows_every_fault_for_every_use_and_nothing_that_went_wrong() -> None:
    table = RELIABILITY.read_text().partition("### Faults")[2].partition("\n\n`-`")[0]
    header, _, *rows = (line.strip("|").split("|") for line in re.findall(r"^\|.*$", table, re.M))
    assert [cell.strip() for cell in header] == ["", *map(title, USES)]
    assert [row[0].strip() for row in rows] == [cause.name for cause in CAUSES]
    for cause, row in zip(CAUSES, rows, strict=True):
        cells = dict(zip(USES, (cell.strip() for cell in row[1:]), strict=True))
        assert {use for use, cell in cells.items() if cell != "-"} == set(cause.meets), cause.name
        assert "wrong" not in "".join(row)


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
