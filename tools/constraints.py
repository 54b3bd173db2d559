"""``make constraints``: writes constraints/. The files have only versions: no index, no address, no path."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent
CONSTRAINTS = REPOSITORY / "constraints"
#: One file serves every Python: it marks what differs.
COMPILE = (
    *("pip", "compile", "--quiet", "--upgrade", "--universal", "--python-version", "3.10"),
    *("--no-annotate", "--no-header", "--no-emit-index-url", "--no-emit-find-links"),
)


class Release(NamedTuple):
    """A line of constraints/releases.txt."""

    version: str
    #: Packages published before this day are those of its day.
    day: str
    #: The Pythons that are claimed for it, as (major, minor).
    pythons: tuple[tuple[int, int], ...]

    @property
    def minor(self) -> str:
        """The minor version, e.g. "3.3"."""
        return self.version.rpartition(".")[0]


def releases() -> list[Release]:
    """The Airflow releases that CI installs, oldest first."""
    found = []
    for line in (CONSTRAINTS / "releases.txt").read_text().splitlines():
        if not line.startswith("#"):
            version, day, pythons = line.split()
            first, last = (int(each.rpartition(".")[2]) for each in pythons.split("-"))
            found.append(Release(version, day, tuple((3, minor) for minor in range(first, last + 1))))
    return found


def resolve(fixed: str, *arguments: str) -> str:
    """The versions that the resolver chooses for what ``arguments`` name, given the lines ``fixed``."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write(fixed)
        constraints.flush()
        done = subprocess.run(
            [Path(sys.executable).with_name("uv"), *COMPILE, "--constraints", constraints.name, *arguments],
            cwd=REPOSITORY,
            env={**os.environ, "UV_PYTHON_DOWNLOADS": "never"},
            check=False,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise RuntimeError(f"uv found no solution:\n{done.stderr}")
    return done.stdout


def of_its_day(release: Release) -> str:
    """All packages of an environment: what runs as of the release's day, beside it the newest tools that fit."""
    airflow = f"apache-airflow=={release.version}\n"
    extras = ("pyproject.toml", "--all-extras", "--group", "services")
    runtime = resolve(airflow, *extras, "--exclude-newer", f"{release.day}T00:00:00Z")
    return resolve(runtime, *extras, "--group", "dev")


def lowest(release: Release) -> str:
    """The lowest versions that pyproject.toml allows of what this package imports, on the oldest Airflow."""
    airflow = f"apache-airflow=={release.version}\n"
    extras = ("pyproject.toml", "--extra", "sandbox", "--extra", "parquet", "--extra", "zstd", "--extra", "sql")
    day = ("--exclude-newer", f"{release.day}T00:00:00Z")
    runtime = resolve(airflow, *extras, *day, "--resolution", "lowest-direct")
    return resolve(runtime, *extras, "--group", "dev")


def main() -> int:
    try:
        files = {f"airflow-{release.version}.txt": of_its_day(release) for release in releases()}
        files["lowest.txt"] = lowest(releases()[0])
        # The documentation is built without Airflow.
        files["docs.txt"] = resolve("", "--group", "docs")
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    for old in CONSTRAINTS.glob("airflow-*.txt"):
        old.unlink()
    for name, text in files.items():
        (CONSTRAINTS / name).write_text(text)
        print(f"constraints/{name}: {len(text.splitlines())} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
