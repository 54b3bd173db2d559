"""Loading into a real PostgreSQL: all that holds on SQLite, tasks that are killed, and loads that meet.

Needs PostgreSQL's programs and the dependency group ``postgres``; without them these tests fail.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import psycopg2
import pytest

from airflow_provider_unpod.export import read_export
from airflow_provider_unpod.export.errors import LoadError
from tests.export.support import row, rows
from tests.loading.support import Database, changes, full
from tests.loading.test_load import *  # noqa: F403  # the same promises, by the fixture below on PostgreSQL
from tests.loading.test_load import check_sequence
from tools.local_postgres import LocalPostgres


@pytest.fixture(scope="module")
def server() -> Iterator[LocalPostgres]:
    with LocalPostgres() as running:
        yield running


@pytest.fixture
def url(server: LocalPostgres, request: pytest.FixtureRequest) -> str:
    name = f"test_{abs(hash(request.node.nodeid))}"
    server.create_database(name)
    return server.url(name)


@pytest.fixture  # type: ignore[no-redef]  # takes the place of the imported one
def database(url: str) -> Database:
    return Database("postgres", lambda: psycopg2.connect(url))


def test_amounts_are_numeric_and_dates_are_moments(database: Database, tmp_path: Path) -> None:
    full([row(1, amount="0.123456789", invoice_date="2026-02-01T01:00:00+05:30")], tmp_path)
    database.load(tmp_path)

    assert database.query("SELECT amount + 1, invoice_date AT TIME ZONE 'UTC' < '2026-02-01' FROM invoices") == [
        (Decimal("1.123456789"), True)
    ]
    assert database.query("SELECT jsonb_typeof(extra) FROM invoices") == [("object",)]


def test_a_load_that_is_killed_at_any_moment_leaves_nothing_and_the_next_one_loads_all(
    database: Database, url: str, tmp_path: Path
) -> None:
    full(list(rows(5_000)), tmp_path)
    command = [sys.executable, str(Path(__file__).with_name("load_once.py")), url, str(tmp_path)]
    began = time.monotonic()
    subprocess.run(command, check=True)
    lasts = time.monotonic() - began
    moments = random.Random(1)
    for _ in range(30):
        with database.connect() as connection:
            connection.cursor().execute("DROP TABLE IF EXISTS invoices, invoices_exports")
        process = subprocess.Popen(command)
        try:
            process.wait(lasts * moments.uniform(0.3, 1.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        # Either nothing is there, or everything is, with its entry in the ledger.
        tables = database.query("SELECT count(*) FROM pg_tables WHERE tablename LIKE 'invoices%'")
        if tables != [(0,)]:
            assert database.query("SELECT count(*) FROM invoices") == [(5_000,)]
            assert database.query("SELECT count(*) FROM invoices_exports") == [(1,)]

    database.load(tmp_path)
    export = read_export(str(tmp_path))
    assert database.query("SELECT count(*), sum(amount) FROM invoices") == [
        (5_000, sum(Decimal(record["amount"]) for record in export))
    ]
    assert database.query("SELECT export_id FROM invoices_exports") == [(export.export_id,)]


def test_of_two_concurrent_loads_the_newer_export_wins(database: Database, tmp_path: Path) -> None:
    full([row(number, status="pending") for number in range(1, 2_001)], tmp_path / "older")
    full([row(number, status="paid") for number in range(1, 2_001)], tmp_path / "newer")
    for _ in range(5):
        with database.connect() as connection:
            connection.cursor().execute("DROP TABLE IF EXISTS invoices, invoices_exports")

        with ThreadPoolExecutor() as both:
            outcomes = list(both.map(database.load, (tmp_path / "older", tmp_path / "newer")))

        assert outcomes[1].state == "loaded"
        assert outcomes[0].state in ("loaded", "older")
        assert database.query("SELECT DISTINCT status FROM invoices") == [("paid",)]


def test_after_a_hundred_random_sequences_the_table_equals_the_api_or_the_load_said_why_not(
    database: Database, tmp_path: Path
) -> None:
    choose = random.Random(2)
    kinds = ("set", "set", "set", "delete", "full", "changes", "cleared changes", "load", "load")
    for number in range(100):
        with database.connect() as connection:
            connection.cursor().execute("DROP TABLE IF EXISTS invoices, invoices_exports")
        steps = [
            (kind, choose.randint(1, 6), choose.choice(["pending", "paid", "failed", "refunded"]))
            for kind in choose.choices(kinds, k=15)
        ]
        check_sequence(database, tmp_path / f"sequence {number}", steps)


def test_a_load_into_a_schema(database: Database, tmp_path: Path) -> None:
    from airflow_provider_unpod.loading.dialects import DIALECTS, Target
    from airflow_provider_unpod.loading.load import Load
    from airflow_provider_unpod.task_boundary import cleaned

    full([row(1)], tmp_path)
    with database.connect() as connection:
        connection.cursor().execute('CREATE SCHEMA "fin.ance"')
    load = Load(read_export(str(tmp_path)), DIALECTS["postgres"], Target("invoices", "fin.ance"), cleaned)

    assert load.run(database.connect(), create_table=True).state == "loaded"
    assert database.query('SELECT invoice_id FROM "fin.ance".invoices') == [("1",)]


def test_a_refused_gap_leaves_the_table_unlocked(database: Database, tmp_path: Path) -> None:
    full([row(1)], tmp_path)
    changes([row(1, status="paid")], tmp_path)
    with pytest.raises(LoadError):
        database.load(tmp_path)

    full([row(1)], tmp_path)
    assert database.load(tmp_path).state == "loaded"
