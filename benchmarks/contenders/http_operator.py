"""The HTTP provider's operator with a `pagination_function`, as its documentation shows it."""

import json
import os
import sys
import tempfile

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp())  # before Airflow is imported
os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "WARNING"

import measure
from airflow.providers.http.operators.http import HttpOperator

PATH = "api/v2/platform/organisation/billing/"


def next_page(response):
    answer = response.json()
    page = int(response.request.url.split("page=")[1].split("&")[0])
    if len(answer["results"]) < 100 or page * 100 >= answer["count"]:
        return None
    return {"data": {"page": page + 1, "page_size": 100}}


def read(url, headers, output):
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
    sys.exit(measure.run(read))
