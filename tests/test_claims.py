"""README, docs and metadata claim exactly what constraints/ installs and CI runs."""

from __future__ import annotations

import re
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from tools.constraints import CONSTRAINTS, REPOSITORY, Release, releases

tomllib: Any = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")

PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
RELEASES = releases()


def text_of(path: str) -> str:
    return (REPOSITORY / path).read_text()


def pinned(file: Path) -> dict[str, set[str]]:
    """Return the versions of each package in a constraints file. There may be several for different Pythons."""
    versions: dict[str, set[str]] = {}
    for line in file.read_text().splitlines():
        name, _, rest = line.partition("==")
        versions.setdefault(name, set()).add(rest.partition(" ")[0])
    return versions


def span(pythons: tuple[tuple[int, int], ...]) -> str:
    return f"{pythons[0][0]}.{pythons[0][1]} to {pythons[-1][0]}.{pythons[-1][1]}"


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.version)
def test_each_release_is_pinned_in_its_constraints_and_listed_in_the_table(release: Release) -> None:
    assert pinned(CONSTRAINTS / f"airflow-{release.version}.txt")["apache-airflow"] == {release.version}
    row = f"| {release.minor} | {release.version} | {release.day} | {span(release.pythons)} |"
    assert row in text_of("docs/compatibility.md")


def test_constraints_hold_versions_only_and_no_release_is_left_over() -> None:
    files = {file.name for file in CONSTRAINTS.iterdir()}
    assert files == {
        "releases.txt",
        "lowest.txt",
        "docs.txt",
        *(f"airflow-{release.version}.txt" for release in RELEASES),
    }
    for file in CONSTRAINTS.iterdir():
        assert file.name == "releases.txt" or not re.search(r"://|/|@", file.read_text()), file.name


def test_the_lower_bounds_are_the_versions_that_the_lowest_environment_installs() -> None:
    lowest = pinned(CONSTRAINTS / "lowest.txt")
    extras = PROJECT["optional-dependencies"]
    tested = (extras[name] for name in ("sandbox", "parquet", "zstd", "sql"))
    for requirement in (*PROJECT["dependencies"], *chain.from_iterable(tested)):
        name, bound = re.fullmatch(r"([\w-]+)>=([\d.]+)(?:,<\d+)?", requirement).groups()  # type: ignore[union-attr]
        (installed,) = lowest[name]
        if name == "apache-airflow":
            assert installed == RELEASES[0].version
            assert bound == RELEASES[0].minor
        else:
            assert f"{installed}.0.0".startswith(f"{bound}."), requirement


def test_the_classifiers_name_the_pythons_that_some_release_is_tested_with() -> None:
    claimed = {each.rpartition(" ")[2] for each in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", each)}
    assert claimed == {f"{major}.{minor}" for release in RELEASES for major, minor in release.pythons}
    assert PROJECT["requires-python"] == f">={min(min(release.pythons) for release in RELEASES)[0]}.10"


def test_readme_docs_and_changelog_claim_the_same_airflows() -> None:
    minors = [release.minor for release in RELEASES]
    claim = f"Airflow {minors[0]} and {minors[1]} to {minors[-1]}"
    for path in ("README.md", "docs/index.md", "CHANGELOG.md"):
        assert claim in " ".join(text_of(path).split()), path
        assert "3.x" not in text_of(path), path


def test_ci_runs_the_unit_tests_on_every_release_and_with_the_lowest_versions() -> None:
    makefile, ci = text_of("Makefile"), text_of(".ci/run")
    for release in RELEASES:
        assert re.search(rf"^AIRFLOW[0-9.]+ := {re.escape(release.version)}$", makefile, re.M), release
    for target in (
        "coverage",
        "test-airflow2",
        "test-airflow3.1",
        "test-airflow3.2",
        "test-lowest",
        "test-smoke",
        "docs",
    ):
        assert re.search(rf"make {re.escape(target)}$", ci, re.M), target


def test_ci_runs_every_suite_against_the_wheel() -> None:
    _, _, from_wheel = text_of(".ci/run").partition(".ci/from-wheel\ncd build/from-wheel\n")
    suites = re.findall(r"make (test\S*|coverage)$", from_wheel, re.M)
    assert set(suites) == {
        "coverage",
        *("test-airflow3.2", "test-airflow3.1", "test-airflow2", "test-lowest"),
        *("test-integration", "test-integration-airflow2"),
    }


@pytest.mark.parametrize(
    "target", ["test-browser", "test-distributed", "faults", "soak", "bench", "bench-workers", "bench-loading"]
)
def test_each_night_what_takes_longer_runs_within_bounds(target: str) -> None:
    assert re.search(rf"timeout \d+m make {target}$", text_of(".ci/nightly"), re.M)


def test_the_nightly_workflow_leaves_time_for_all_of_its_steps() -> None:
    steps = sum(int(minutes) for minutes in re.findall(r"timeout (\d+)m", text_of(".ci/nightly")))
    (most,) = re.findall(r"timeout-minutes: (\d+)", text_of(".github/workflows/nightly.yml"))
    assert int(most) >= steps + 30
    assert int(most) <= 360  # GitHub ends a job then
