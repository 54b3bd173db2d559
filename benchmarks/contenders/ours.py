"""This package: `read` (the list alone) or `export` (jsonl with its manifest, as the operator writes it)."""

import json
import sys
from pathlib import Path
from typing import IO

import measure

from airflow_provider_unpod.billing.client import UnpodClient
from airflow_provider_unpod.billing.reading.reading import read_list

if "export" in sys.argv:  # imported before the measurement, as inside Airflow
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    from airflow_provider_unpod.export.writer import write_export

    ObjectStoragePath("file:///").exists()


def read(url: str, headers: dict[str, str], output: IO[str], what: str, consistency: str, connections: str) -> None:
    token = headers["Authorization"].split()[1]
    with UnpodClient(url, token, headers["Org-Handle"], max_concurrency=int(connections)) as client:
        reading = read_list(client, consistency=consistency)
        if what == "export":
            write_export(reading, f"{output.name}.export")
        elif what == "write":
            for invoice in reading:
                output.write(json.dumps(invoice.as_record()) + "\n")
        else:
            for _ in reading:
                pass


def adopt_export(output: str) -> None:
    """Move the export's data file to the output path, where the rows of every contender are counted."""
    folder = Path(f"{output}.export")
    if (folder / "_manifest.json").exists():
        (file,) = folder.glob("invoices-*.jsonl")
        file.replace(output)


if __name__ == "__main__":
    measure.run(read)
    if "export" in sys.argv:
        adopt_export(sys.argv[2])
