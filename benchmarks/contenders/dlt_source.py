"""dlt's `rest_api` source with its page-number paginator. Rows are taken from the source; nothing is loaded."""

import json
import os
from typing import IO

os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"

import measure
from dlt.sources.rest_api import rest_api_source


def read(url: str, headers: dict[str, str], output: IO[str]) -> None:
    source = rest_api_source(
        {
            "client": {
                "base_url": url,
                "headers": headers,
                "paginator": {"type": "page_number", "base_page": 1, "page_param": "page", "total_path": None},
            },
            "resources": [
                {
                    "name": "billing",
                    "endpoint": {
                        "path": "api/v2/platform/organisation/billing/",
                        "params": {"page_size": 100},
                        "data_selector": "results",
                    },
                }
            ],
        }
    )
    for row in source.resources["billing"]:
        output.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    measure.run(read)
