"""Loading into PostgreSQL, against the script that a user would otherwise write; reconciling.

Run it by ``python -m benchmarks.loading``.

Prints ratios of one run; the script parses the same files with ``json``, COPYs them and merges, and proves nothing.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from datetime import timezone
from pathlib import Path
from typing import Any

from airflow_provider_unpod.export import read_export, write_export
from airflow_provider_unpod.export.entries import entries_of_export
from airflow_provider_unpod.export.options import ExportOptions
from airflow_provider_unpod.export.reconciliation import reconcile
from tests.export.support import FakeReading, rows
from tools.local_postgres import LocalPostgres


def main() -> int:
    """Make an export, then run each contender in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
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
        found = {}
        for contender in CONTENDERS:
            server.create_database(contender)
            command = [sys.executable, "-m", "benchmarks.loading", "--contender", contender, "--folder", folder]
            done = subprocess.run(
                [*command, "--database", server.url(contender)], check=True, capture_output=True, text=True
            )
            found[contender] = json.loads(done.stdout.splitlines()[-1])
    print(f"{given.rows:,} invoices\n")
    print("| what | wall clock | CPU | memory above the imports |\n| --- | ---: | ---: | ---: |")
    for contender, result in found.items():
        print(f"| {contender} | {result['wall']:.1f} s | {result['cpu']:.1f} s | +{result['memory']:.0f} MiB |")
    print(f"\nThe load takes x{found['load']['wall'] / found['script']['wall']:.2f} of the script.")
    return 0


def measured(contender: str, folder: Path, database: str) -> dict[str, float]:
    """Seconds and MiB of one contender."""
    run = CONTENDERS[contender]
    before, began, cpu = peak_memory(), time.monotonic(), time.process_time()
    run(folder, database)
    return {
        "wall": time.monotonic() - began,
        "cpu": time.process_time() - cpu,
        "memory": (peak_memory() - before) / 1024,
    }


def peak_memory() -> int:
    """KiB that this process has had at most; unlike ``ru_maxrss`` without those of its parent."""
    return int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0])


def script(folder: Path, database: str) -> None:
    """What a user would write: parse, COPY, merge."""
    import psycopg2

    with psycopg2.connect(database) as connection, connection.cursor() as cursor:
        columns = "id bigint primary key, amount numeric, currency text, status text, invoice_date timestamptz"
        cursor.execute(f"CREATE TABLE invoices ({columns})")
        cursor.execute("CREATE TEMPORARY TABLE staging (LIKE invoices) ON COMMIT DROP")
        for file in folder.glob("invoices-*.jsonl.gz"):
            buffer = io.StringIO()
            with gzip.open(file, "rt") as lines:
                for line in lines:
                    row = json.loads(line)
                    cells = (row[name] for name in ("id", "amount", "currency", "status", "invoice_date"))
                    buffer.write("\t".join(map(str, cells)) + "\n")
            buffer.seek(0)
            cursor.copy_expert("COPY staging FROM STDIN", buffer)
        cursor.execute(
            "INSERT INTO invoices SELECT * FROM staging ON CONFLICT (id) DO UPDATE SET amount = excluded.amount,"
            " currency = excluded.currency, status = excluded.status, invoice_date = excluded.invoice_date"
        )


def load(folder: Path, database: str) -> None:
    """Ours, the check of the export included."""
    import psycopg2

    from airflow_provider_unpod.export.reader import stream_export
    from airflow_provider_unpod.loading.dialects import DIALECTS, Target
    from airflow_provider_unpod.loading.load import Load
    from airflow_provider_unpod.task_boundary import cleaned

    connection = psycopg2.connect(database)
    Load(stream_export(str(folder)), DIALECTS["postgres"], Target("invoices", None), cleaned).run(
        connection, create_table=True
    )
    connection.close()


def reconciliation(folder: Path, database: str) -> None:
    """An export against itself."""
    sides: list[Any] = [
        entries_of_export(read_export(str(folder)), by="id", zone=timezone.utc, selection=None) for _ in range(2)
    ]
    assert list(reconcile(*sides)) == []


CONTENDERS = {"script": script, "load": load, "reconciliation": reconciliation}

if __name__ == "__main__":
    os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp())
    sys.exit(main())
