"""The HTTP provider's operator with a `pagination_function`, as in its documentation."""

import json
import os
import tempfile
from typing import IO, Any

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp())  # before Airflow is imported
os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "WARNING"

import measure
import requests
from airflow.providers.http.operators.http import HttpOperator

PATH = "api/v2/platform/organisation/billing/"


def next_page(response: requests.Response) -> dict[str, Any] | None:
    body = response.json()
    page = int(response.url.split("page=")[1].split("&")[0])
    if len(body["results"]) < 100 or page * 100 >= body["count"]:
        return None
    return {"data": {"page": page + 1, "page_size": 100}}


def read(url: str, headers: dict[str, str], output: IO[str]) -> None:
    os.environ["AIRFLOW_CONN_HTTP_DEFAULT"] = url
    operator = HttpOperator(
        task_id="read",
        method="GET",
        endpoint=PATH,
        headers=headers,
        data={"page": 1, "page_size": 100},
        pagination_function=next_page,
        response_filter=lambda responses: [row for response in responses for row in response.json()["results"]],
    )
    for row in operator.execute({}):
        output.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    measure.run(read)
