"""The costs of an export without the read: CPU per row, and memory by number of invoices.

Run as ``python -m benchmarks.export_memory [--store s3]``. Each measurement is a process of its own. ``s3`` is rclone's
S3 server, which ``.ci/install-servers`` installs; the default is a local folder.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
CASES: list[tuple[str, str | None, tuple[str, ...]]] = [
    ("jsonl", None, ()),
    ("jsonl", "gzip", ()),
    ("csv", "gzip", ()),
    ("parquet", "zstd", ()),
    ("jsonl", "gzip", ("currency", "status", "month")),
]


def measure(
    address: str, conn_id: str | None, rows: int, file_format: str, compression: str | None, keys: list[str]
) -> None:
    """Write one export, and print its cost."""
    from airflow_provider_unpod.export import write_export
    from airflow_provider_unpod.export.options import ExportOptions
    from tests.export import support

    reading = support.FakeReading(support.rows(rows))
    begun = time.process_time()
    options = ExportOptions(file_format, compression, tuple(keys))
    written = write_export(reading, address, conn_id=conn_id, options=options)
    cpu = time.process_time() - begun
    assert written is not None  # only an export of changes can find none
    size = sum(file.bytes for file in written.manifest.files)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"cpu": cpu, "peak": peak, "size": size}))


def in_a_process(*arguments: object) -> dict[str, float]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "benchmarks.export_memory", "--measure", json.dumps(arguments)]
    output = subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", choices=["file", "s3"], default="file")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure)
        return
    # By its folder, since some of the stores' libraries contain a package `tests.integration`.
    sys.path.insert(0, str(ROOT / "tests" / "integration" / "stores"))
    from servers import STORES

    print(f"{arguments.rows} invoices to {arguments.store}; compared with 1,000")
    print(f"{'format':38} {'CPU':>8} {'per row':>9} {'peak':>9} {'above':>9} {'size':>9}")
    with tempfile.TemporaryDirectory() as folder, STORES[arguments.store](Path(folder)) as store:
        os.environ.update(store.environment)
        for number, (file_format, compression, keys) in enumerate(CASES):
            where = (store.address(f"case-{number}"), store.conn_id)
            how = (file_format, compression, list(keys))
            small = in_a_process(*where, 1000, *how)
            large = in_a_process(*where, arguments.rows, *how)
            name = " ".join(filter(None, [file_format, compression, "by " + ", ".join(keys) if keys else ""]))
            # The difference, since imports cost the same for both.
            cpu = large["cpu"] - small["cpu"]
            print(
                f"{name:38} {cpu:7.2f}s {cpu / (arguments.rows - 1000) * 1e6:7.2f}us {large['peak']:6.0f}MiB"
                f" {large['peak'] - small['peak']:6.1f}MiB {large['size'] / 2**20:6.1f}MiB"
            )


if __name__ == "__main__":
    main()
