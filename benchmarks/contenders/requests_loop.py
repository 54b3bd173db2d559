"""A loop with a `requests` session, until a page is short or `count` is reached."""

import json
from typing import IO

import measure
import requests

PATH = "/api/v2/platform/organisation/billing/"


def read(url: str, headers: dict[str, str], output: IO[str], what: str = "write") -> None:
    session = requests.Session()
    session.headers.update(headers)
    page = 1
    while True:
        response = session.get(url + PATH, params={"page": page, "page_size": 100}, timeout=30)
        response.raise_for_status()
        body = response.json()
        rows = body["results"]
        if what == "write":
            for row in rows:
                output.write(json.dumps(row) + "\n")
        if len(rows) < 100 or page * 100 >= body["count"]:
            return
        page += 1


if __name__ == "__main__":
    measure.run(read)
