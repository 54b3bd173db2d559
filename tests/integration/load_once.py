"""A process that loads one export: ``python -m tests.integration.load_once URL FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

import psycopg2

from tests.loading.support import Database

if __name__ == "__main__":
    url, folder = sys.argv[1:]
    Database("postgres", lambda: psycopg2.connect(url)).load(Path(folder))
