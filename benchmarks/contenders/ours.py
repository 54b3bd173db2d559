"""This package: `read` (the list alone) or `export` (jsonl with its manifest, as the operator writes it)."""

import json
import sys
from pathlib import Path

import measure

from airflow_provider_unpod.billing.client import UnpodClient
from airflow_provider_unpod.billing.reading.reading import read_list

if "export" in sys.argv:  # not a cost of reading, and not part of what is measured either: both run inside Airflow
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    from airflow_provider_unpod.export.writer import write_export

    ObjectStoragePath("file:///").exists()


def read(url, headers, output, what, consistency, connections):
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


def adopt_export(output):
    """The export's data file in place of the empty output, so that it is counted as everybody's is."""
    folder = Path(f"{output}.export")
    if (folder / "_manifest.json").exists():
        (file,) = folder.glob("invoices-*.jsonl")
        file.replace(output)


if __name__ == "__main__":
    measure.run(read)
    if "export" in sys.argv:
        adopt_export(sys.argv[2])
