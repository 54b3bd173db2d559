"""Loading into PostgreSQL, against the script that a user would otherwise write; reconciling.

Run it by ``python -m benchmarks.loading``. Each contender runs in a process of its own, against an empty database, and
they take turns; the medians count. Wall clock, CPU and memory are taken after the imports. The script fills a table of
the same columns, types and key from the same files; it proves nothing.
"""

from __future__ import annotations

import argparse
import csv
import gc
import gzip
import io
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timezone
from pathlib import Path
from typing import Any

import psycopg2

from airflow_provider_unpod.export import export_files, read_export, write_export
from airflow_provider_unpod.export.entries import entries_of_export
from airflow_provider_unpod.export.options import ExportOptions
from airflow_provider_unpod.export.reader import stream_export
from airflow_provider_unpod.export.reconciliation import reconcile
from airflow_provider_unpod.loading.dialects import DIALECTS
from airflow_provider_unpod.loading.dialects import Target as Table
from airflow_provider_unpod.loading.load import Load
from airflow_provider_unpod.loading.rows import COLUMNS, KEY, STAGED
from airflow_provider_unpod.task_boundary import cleaned
from benchmarks.targets import Target, settled, verdict
from tests.export.support import FakeReading, rows
from tools.local_postgres import LocalPostgres

#: By contender the measurements of each round.
Results = dict[str, list[dict[str, float]]]


def main() -> int:
    """Make an export, then run each contender in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contender", choices=sorted(CONTENDERS))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--database", default="")
    given = parser.parse_args()
    if given.contender:
        print(json.dumps(measured(given.contender, given.folder, given.database)))
        return 0
    with tempfile.TemporaryDirectory() as folder, LocalPostgres() as server:
        options = ExportOptions(compression="gzip")
        write_export(FakeReading(rows(given.rows)), folder, options=options, about={"organization": "acme"})
        databases = itertools.count()

        def measure() -> list[Target]:
            found = compared(folder, server, given.rounds, databases)
            print(f"{given.rows:,} invoices\n\n{table(found)}\n", flush=True)
            return targets(found)

        return verdict(settled(measure))


def compared(folder: str, server: LocalPostgres, rounds: int, databases: Iterator[int]) -> Results:
    """Have all contenders take turns. The reconciliation needs no comparison, so it runs once."""
    found: Results = {contender: [] for contender in CONTENDERS}
    for number in range(rounds):
        for contender, results in found.items():
            if contender != "reconciliation" or number == 0:
                results.append(in_a_process(contender, folder, server, f"database_{next(databases)}"))
    return found


def table(found: Results) -> str:
    """Medians, as markdown."""
    lines = ["| what | wall clock | CPU | memory above the imports |", "| --- | ---: | ---: | ---: |"]
    for contender, results in found.items():
        wall, cpu, memory = (median(results, name) for name in ("wall", "cpu", "memory"))
        lines.append(f"| {contender} | {wall:.2f} s | {cpu:.2f} s | +{memory:.0f} MiB |")
    return "\n".join(lines)


def targets(found: Results) -> list[Target]:
    ratio = median(found["load"], "wall") / median(found["script"], "wall")
    return [
        Target("wall clock of a load, against the script", 1.5, ratio, noisy=True),
        Target("MiB of memory, a load", 60, median(found["load"], "memory"), noisy=True),
        Target("seconds of CPU, a reconciliation", 10, median(found["reconciliation"], "cpu"), noisy=True),
        Target("MiB of memory, a reconciliation", 100, median(found["reconciliation"], "memory"), noisy=True),
    ]


def median(results: list[dict[str, float]], name: str) -> float:
    """Return the median of a figure over all rounds."""
    return statistics.median(result[name] for result in results)


def in_a_process(contender: str, folder: str, server: LocalPostgres, database: str) -> dict[str, float]:
    """Run a contender on a separate database, and return its measurements."""
    server.create_database(database)
    command = [sys.executable, "-m", "benchmarks.loading", "--contender", contender, "--folder", folder]
    done = subprocess.run([*command, "--database", server.url(database)], check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def measured(contender: str, folder: Path, database: str) -> dict[str, float]:
    """Seconds and MiB of one contender."""
    export_files(folder)  # imports what reads a folder, which Airflow does on its first use
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is from now on
    before, began, cpu = memory("VmRSS"), time.monotonic(), time.process_time()
    CONTENDERS[contender](folder, database)
    return {
        "wall": time.monotonic() - began,
        "cpu": time.process_time() - cpu,
        "memory": (memory("VmHWM") - before) / 1024,
    }


def memory(which: str) -> int:
    """KiB that this process has (``VmRSS``), or had at most (``VmHWM``)."""
    return int(re.findall(rf"{which}:\s+(\d+)", Path("/proc/self/status").read_text())[0])


def script(folder: Path, database: str) -> None:
    """The script of a user: parse, COPY, merge."""
    dialect = DIALECTS["postgres"]
    names = [column.name for column in STAGED]
    key = ", ".join(column.name for column in KEY)
    updates = ", ".join(f"{one.name} = excluded.{one.name}" for one in COLUMNS if one not in KEY)
    with psycopg2.connect(database) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE invoices ({dialect.columns(COLUMNS)}, PRIMARY KEY ({key}))")
        cursor.execute(f"CREATE TEMPORARY TABLE staging ({dialect.columns(STAGED)}) ON COMMIT DROP")
        for file in folder.glob("invoices-*.jsonl.gz"):
            buffer = io.StringIO()
            writer = csv.writer(buffer)
            with gzip.open(file, "rt") as lines:
                for line in lines:
                    row = json.loads(line)
                    cells = [row.pop("id"), *(row.pop(name, None) for name in names[1:-1])]
                    writer.writerow([*cells, json.dumps(row)])
            buffer.seek(0)
            cursor.copy_expert("COPY staging FROM STDIN WITH (FORMAT csv)", buffer)
        manifest = json.loads((folder / "_manifest.json").read_text())
        cursor.execute(
            f"INSERT INTO invoices SELECT %s, {', '.join(names)}, %s, %s, NULL FROM staging"
            f" ON CONFLICT ({key}) DO UPDATE SET {updates}",
            (manifest["organization"], manifest["export_id"], manifest["read_at"]),
        )


def load(folder: Path, database: str) -> None:
    """This package, including the verification of the export."""
    connection = psycopg2.connect(database)
    job = Load(stream_export(str(folder)), DIALECTS["postgres"], Table("invoices", None), cleaned)
    job.run(connection, create_table=True)
    connection.close()


def reconciliation(folder: Path, database: str) -> None:
    """An export against itself."""
    sides: list[Any] = [
        entries_of_export(read_export(str(folder)), by="id", zone=timezone.utc, selection=None) for _ in range(2)
    ]
    assert list(reconcile(*sides)) == []


CONTENDERS: dict[str, Callable[[Path, str], None]] = {
    "script": script,
    "load": load,
    "reconciliation": reconciliation,
}

if __name__ == "__main__":
    os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp())
    sys.exit(main())
