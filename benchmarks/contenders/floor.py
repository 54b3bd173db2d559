"""The floor: as many connections as told download the plain pages, and nobody looks at what came."""

import http.client
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import local
from urllib.parse import urlsplit

import measure

PATH = "/api/v2/platform/organisation/billing/?page=%d&page_size=100"


def read(url, headers, output, connections):
    here = local()

    def get(page):
        if not hasattr(here, "connection"):
            here.connection = http.client.HTTPConnection(urlsplit(url).netloc)
        here.connection.request("GET", PATH % page, headers=headers)
        return here.connection.getresponse().read()

    with ThreadPoolExecutor(int(connections)) as threads:
        count = json.loads(threads.submit(get, 1).result())["count"]
        for _ in threads.map(get, range(2, -(-count // 100) + 1)):
            pass


if __name__ == "__main__":
    sys.exit(measure.run(read))
