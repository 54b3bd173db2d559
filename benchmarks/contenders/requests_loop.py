"""Page after page with a `requests` session, until a page comes short or `count` is reached."""

import json
import sys

import measure
import requests

PATH = "/api/v2/platform/organisation/billing/"


def read(url, headers, output, what="write"):
    session = requests.Session()
    session.headers.update(headers)
    page = 1
    while True:
        response = session.get(url + PATH, params={"page": page, "page_size": 100}, timeout=30)
        response.raise_for_status()
        answer = response.json()
        rows = answer["results"]
        if what == "write":
            for row in rows:
                output.write(json.dumps(row) + "\n")
        if len(rows) < 100 or page * 100 >= answer["count"]:
            return
        page += 1


if __name__ == "__main__":
    sys.exit(measure.run(read))
