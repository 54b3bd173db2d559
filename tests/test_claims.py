"""README, docs and metadata claim exactly what constraints/ installs and CI runs."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
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
    row = row_of(release)
    assert row["tested with"] == release.version
    assert row["packages as of"] == release.day
    assert row["Python"] == span(release.pythons)


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


def makefile_versions() -> dict[str, str]:
    """Return the Airflow version of each target that runs all unit tests, by its name."""
    makefile = text_of("Makefile")
    versions = dict(re.findall(r"^AIRFLOW([0-9.]+) := (\S+)$", makefile, re.M))
    targets = dict(
        re.findall(r"^(test\S*): \$\(VENV([0-9.]+)\)/\.ready\n\t\S+ \$\(UNIT\)(?! \$\(QUICK\))", makefile, re.M)
    )
    return {target: versions[suffix] for target, suffix in targets.items()}


def commands_of(script: str) -> list[str]:
    """Return the make targets that a script of CI runs, each with what the tests are limited to."""
    return re.findall(r"^(?:step|attempt) .*\bmake (.+)$", text_of(script), re.M)


def row_of(release: Release) -> dict[str, str]:
    """Return a release's row of the table, by column."""
    lines = [line for line in text_of("docs/compatibility.md").splitlines() if line.startswith("|")]
    header, row = (
        [cell.strip() for cell in next(line for line in lines if line.startswith(f"| {first} |")).split("|")[1:-1]]
        for first in ("Airflow", release.minor)
    )
    return dict(zip(header, row, strict=True))


def preferred_pythons() -> dict[str, str]:
    """Return the Python of the environment of each Airflow version, as the table has it, or "usual"."""
    makefile = text_of("Makefile")
    versions = dict(re.findall(r"^AIRFLOW([0-9.]+) := (\S+)$", makefile, re.M))
    installed = re.findall(r"install,\$\(VENV([0-9.]+)\),(?:\$\(PYTHON\)|\$\(call prefer,python(\S+)\)),", makefile)
    return {versions[suffix]: f"Python {preferred}" if preferred else "usual" for suffix, preferred in installed}


def matrix() -> dict[str, set[str]]:
    """Return the Pythons on which the workflow runs the unit tests, by Airflow version."""
    workflow = text_of(".github/workflows/ci.yml")
    (targets,) = re.findall(r"^ +airflow: \[(.+)\]$", workflow, re.M)
    (pythons,) = re.findall(r"^ +python: \[(.+)\]$", workflow, re.M)
    excluded = set(re.findall(r"- airflow: (\S+)\n +python: \"(\S+)\"", workflow))
    return {
        makefile_versions()[target]: {
            python for python in re.findall(r"[\d.]+", pythons) if (target, python) not in excluded
        }
        for target in targets.split(", ")
    }


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.version)
def test_the_table_says_what_ci_runs(release: Release) -> None:
    """The main environments have the workflow's `python3`, the last one that it installs."""
    workflow = text_of(".github/workflows/ci.yml")
    (installed,) = re.findall(r"python-version: \|\n((?: +3\.\d+\n)+)", workflow)
    usual = f"Python {installed.split()[-1]}"
    nightly = "Python {}".format(*re.findall(r'python-version: "(.+)"', text_of(".github/workflows/nightly.yml")))
    ours = {"3.3": "", "2.11": "-airflow2"}.get(release.minor)
    # Read as text, because a package of the stores installs a module of its own named tests.integration.
    source = text_of("tests/integration/installed/test_installed_wheel.py")
    preferred = ast.literal_eval(re.findall(r"^PREFERRED = (.*)$", source, re.MULTILINE)[0])
    wheel = ".".join(map(str, preferred[release.minor]))
    assert matrix()[release.version] == {f"{major}.{minor}" for major, minor in release.pythons}
    assert wheel in installed.split()

    row = row_of(release)
    assert row["unit tests"] == preferred_pythons()[release.version].replace("usual", usual)
    assert "test-smoke" in commands_of(".ci/run")
    assert row["the wheel"] == f"Python {wheel}"
    integrated = ours is not None and f"test-integration{ours}" in commands_of(".ci/run")
    assert row["integration tests"] == (usual if integrated else "-")
    # Only the main environment has a browser and the distributed Airflow.
    assert {"test-browser", "test-distributed"} <= set(commands_of(".ci/nightly"))
    assert row["browser, distributed"] == (nightly if ours == "" else "-")


def test_ci_runs_all_unit_tests_on_every_release_and_with_the_lowest_versions() -> None:
    run = commands_of(".ci/run")
    assert {makefile_versions().get(command) for command in run} >= {release.version for release in RELEASES}
    assert {"test-lowest", "test-smoke", "docs"} <= set(run)
    assert run[:2] == ["lint", "test"], "a change that breaks much is refused within two minutes"
    assert re.search(r"^\t\$\(PYLOWEST\) \$\(UNIT\) \$\(ARGS\)$", text_of("Makefile"), re.M)


def test_ci_runs_every_suite_against_the_wheel() -> None:
    _, _, from_wheel = text_of(".ci/run").partition(".ci/from-wheel\ncd build/from-wheel\n")
    suites = re.findall(r"make (test\S*)$", from_wheel, re.M)
    assert set(suites) == {
        "test-all",
        *("test-airflow3.2", "test-airflow3.1", "test-airflow2", "test-lowest"),
        *("test-integration", "test-integration-airflow2"),
    }


@pytest.mark.parametrize(
    "target",
    [
        *("coverage", "test-browser", "test-distributed", "faults", "soak"),
        *("bench", "bench-workers", "bench-waiting", "bench-exports", "bench-loading"),
    ],
)
def test_each_night_what_takes_longer_runs_within_bounds(target: str) -> None:
    arguments = {"bench": " ARGS=--save", "bench-workers": ' ARGS="--rounds 3 --speed 2"'}.get(target, "")
    assert re.search(rf"timeout \d+m make {target}{arguments}$", text_of(".ci/nightly"), re.M)


@pytest.mark.parametrize(("broken", "named"), [("nothing", []), ("soak", ["half an hour"]), ("bench", ["benchmarks"])])
def test_at_night_a_failure_stops_no_other_check_and_is_named_at_the_end(
    broken: str, named: list[str], tmp_path: Path
) -> None:
    scripts = tmp_path / ".ci"
    scripts.mkdir()
    for name in ("nightly", "environment"):
        shutil.copy(REPOSITORY / ".ci" / name, scripts)
    for program in (scripts / "install-servers", tmp_path / "make"):
        program.write_text(f'#!/bin/sh\necho "ran $*"\n[ "$1" != {broken} ]\n')
        program.chmod(0o755)

    path = f"{tmp_path}:{os.environ['PATH']}"
    night = subprocess.run([scripts / "nightly"], env={**os.environ, "PATH": path}, capture_output=True, text=True)

    _, failure, failed = night.stdout.partition("=== failed")
    assert night.stdout.count("\nran ") == text_of(".ci/nightly").count("\nattempt ")
    assert failed.splitlines()[1:] == named
    assert (night.returncode, bool(failure)) == ((1, True) if named else (0, False)), night.stderr


def test_the_nightly_workflow_leaves_time_for_all_of_its_steps() -> None:
    steps = sum(int(minutes) for minutes in re.findall(r"timeout (\d+)m", text_of(".ci/nightly")))
    (most,) = re.findall(r"timeout-minutes: (\d+)", text_of(".github/workflows/nightly.yml"))
    assert int(most) >= steps + 30
    assert int(most) <= 360  # GitHub ends a job then
