"""The command line, see the package."""

from __future__ import annotations

import argparse
import sys

from benchmarks.documents import machine
from benchmarks.environments import HERE, ROOT
from benchmarks.tables import QUICK, TABLES, Scale, Table
from benchmarks.targets import Target, settled, verdict

DOCUMENT = ROOT / "docs" / "benchmarks.md"
#: Everything after this line of the document is replaced by the results of a run.
MARK = "<!-- The results of a run follow, written by `python -m benchmarks --save`. -->"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Print ratios, as Markdown.")
    parser.add_argument("--quick", action="store_true", help="small lists, one round: times are not judged")
    parser.add_argument("--only", choices=TABLES, action="append", help="only this table; repeatable")
    parser.add_argument("--save", action="store_true", help=f"write the results to {DOCUMENT.relative_to(ROOT)}")
    arguments = parser.parse_args()
    if arguments.save and (arguments.quick or arguments.only):
        parser.error("--save needs a complete run: leave out --quick and --only")
    report = [setting()]
    print(report[0], flush=True)
    tables: list[Table] = []
    targets: list[Target] = []
    for name in arguments.only or TABLES:
        made, reached = compared(name, quick=arguments.quick)
        tables += made
        targets += reached
    summary = str(summary_of(targets))
    print(f"\n{summary}", flush=True)
    if arguments.save:
        head = DOCUMENT.read_text(encoding="utf-8").partition(MARK)[0]
        DOCUMENT.write_text("\n\n".join([head + MARK, report[0], *map(str, tables), summary]) + "\n", encoding="utf-8")
    return verdict(target for target in targets if not (arguments.quick and target.noisy))


def compared(name: str, *, quick: bool) -> tuple[list[Table], list[Target]]:
    """Make a comparison, and print its tables as they come; again if a target of its times or memory is missed.

    :return: the tables that count, and their targets.
    """
    measured: list[tuple[list[Table], list[Target]]] = []

    def measure() -> list[Target]:
        made = TABLES[name](QUICK if quick else Scale())
        tables = []
        for table in [made] if isinstance(made, Table) else made:
            print(f"\n{table}", flush=True)
            tables.append(table)
        targets = [target for table in tables for target in table.targets]
        measured.append((tables, targets))
        return targets

    best = measure() if quick else settled(measure)
    return next((tables, targets) for tables, targets in measured if targets is best)


def summary_of(targets: list[Target]) -> Table:
    table = Table("Targets", ("", "at most", "measured", ""))
    for target in targets:
        reached = "yes" if target.reached else "**no**"
        table.rows.append((target.what, f"{target.limit:g}", f"{target.measured:.4g}", reached))
    return table


def setting() -> str:
    """Machine and versions, in two sentences."""
    peers = ", ".join(
        line.partition(" ")[0].replace("==", " ")
        for name, packages in {
            "http_operator": ("apache-airflow==", f"apache-airflow-providers-http=={_http_provider()}"),
            "dlt_source": ("dlt==",),
            "singer_tap": ("singer-sdk==",),
        }.items()
        for line in (HERE / "requirements" / f"{name}.txt").read_text().splitlines()
        if line.startswith(packages)
    )
    return f"{machine()}; {peers}. Contenders and server share the machine."


def _http_provider() -> str:
    return "6.3" if sys.version_info >= (3, 11) else "6.2"


if __name__ == "__main__":
    sys.exit(main())
