"""The floor: downloads the pages over the given number of connections and ignores them."""

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from threading import local
from typing import IO
from urllib.parse import urlsplit

import measure

PATH = "/api/v2/platform/organisation/billing/?page=%d&page_size=100"


def read(url: str, headers: dict[str, str], output: IO[str], connections: str) -> None:
    here = local()

    def get(page: int) -> bytes:
        if not hasattr(here, "connection"):
            here.connection = http.client.HTTPConnection(urlsplit(url).netloc)
        here.connection.request("GET", PATH % page, headers=headers)
        body: bytes = here.connection.getresponse().read()
        return body

    with ThreadPoolExecutor(int(connections)) as threads:
        count = json.loads(threads.submit(get, 1).result())["count"]
        for _ in threads.map(get, range(2, -(-count // 100) + 1)):
            pass


if __name__ == "__main__":
    measure.run(read)
