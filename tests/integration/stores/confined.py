"""Exports by a worker that may write nothing but 2 MiB of temporary space. Run as a script; prints JSON."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from airflow_provider_unpod.export import read_export
from airflow_provider_unpod.operators.billing import UnpodBillingOperator


def tried(**options: object) -> str:
    """Return the error of an export. Empty if there is none."""
    try:
        UnpodBillingOperator(task_id="export", **options).execute({})  # type: ignore[arg-type]  # by the test
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main() -> None:
    store, read_only = sys.argv[1:]
    found: dict[str, object] = {"user": os.getuid()}
    found["capabilities"] = next(
        line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff")
    )
    found["to XCom"] = tried(statuses="failed")
    found["to a store"] = tried(output_path=store)
    found["read back"] = 0 if found["to a store"] else sum(1 for _ in read_export(store))
    found["to a read-only folder"] = tried(output_path=f"file://{read_only}/export")
    found["too many"] = tried(output_path=f"{store}-many", unpod_conn_id="unpod_many")
    print(json.dumps(found))


main()
