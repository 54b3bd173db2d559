"""Loads one export: ``load_once.py URL FOLDER``.

A process of its own, to be killed. It imports nothing of the tests: other distributions install a package of that name.
"""

from __future__ import annotations

import sys
from contextlib import closing

import psycopg2

from airflow_provider_unpod.export import read_export
from airflow_provider_unpod.loading.dialects import DIALECTS, Target
from airflow_provider_unpod.loading.load import Load
from airflow_provider_unpod.task_boundary import cleaned

if __name__ == "__main__":
    url, folder = sys.argv[1:]
    with closing(psycopg2.connect(url)) as connection:
        load = Load(read_export(folder), DIALECTS["postgres"], Target("invoices", None), cleaned)
        load.run(connection, create_table=True)
