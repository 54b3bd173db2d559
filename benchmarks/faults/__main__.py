"""The command line, see the package."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks.documents import RELIABILITY, machine, replace_section
from benchmarks.faults.causes import CAUSES, Cause
from benchmarks.faults.deployment import USES, World, started
from benchmarks.faults.disks import DISK, run_with_disks
from benchmarks.faults.trial import Trial, title
from benchmarks.tables import Table
from benchmarks.targets import ATTEMPTS
from tools.distributed import missing


def tried(causes: Iterable[Cause], home: Path) -> tuple[Table, list[str]]:
    """Return the table, and the list of errors."""
    table = Table("Faults", ("", *map(title, USES)))
    wrong = []
    with started(home) as world:
        for cause in causes:
            began = time.monotonic()
            trial = met(world, cause)
            table.rows.append((cause.name, *(trial.cells[use] for use in USES)))
            wrong += [f"{cause.name}: {title(use)}: {problem}" for use, problem in trial.wrong.items()]
            print(f"{time.monotonic() - began:4.0f} s  {' | '.join(table.rows[-1])}", flush=True)
    return table, wrong


def met(world: World, cause: Cause) -> Trial:
    """Try until the fault was met. On a busy machine, an export may end before it.

    :raises RuntimeError: if it never was.
    """
    for _ in range(ATTEMPTS):
        trial = Trial(world, cause)
        trial.run()
        if not trial.missed or trial.wrong:
            return trial
    raise RuntimeError(f"{cause.name}: {ATTEMPTS} exports ended before the fault.")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description="Write docs/reliability.md.")
    names = [cause.name for cause in CAUSES]
    parser.add_argument("--only", choices=names, action="append", help="only this fault, and write nothing; repeatable")
    only = parser.parse_args().only
    if found := missing():
        print("\n".join(found), file=sys.stderr)
        return 1
    if not DISK.is_mount():
        run_with_disks("benchmarks.faults", sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that everything is stopped
    with tempfile.TemporaryDirectory(prefix="unpod-faults-") as home:
        table, wrong = tried([cause for cause in CAUSES if not only or cause.name in only], Path(home))
    legend = "\n".join(f"- {cause.name}: {cause.why}." for cause in CAUSES if cause.why)
    print(f"\n{table}")
    if not only:
        replace_section(
            RELIABILITY,
            "benchmarks.faults",
            f"{machine()}.\n\n{table}\n\n`-` where a use cannot meet a fault:\n\n{legend}",
        )
    print("\n".join(wrong) or "Nothing lost, doubled or half written.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
