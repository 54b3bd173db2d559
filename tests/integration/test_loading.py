"""Loading into a real PostgreSQL: the same tests as for SQLite, killed tasks, and concurrent loads.

Needs PostgreSQL's programs and the dependency group ``postgres``; without them these tests fail.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from airflow_provider_unpod.billing.moments import parse_moment
from airflow_provider_unpod.export import read_export
from airflow_provider_unpod.export.errors import LoadError
from airflow_provider_unpod.loading.dialects import DIALECTS, Target
from airflow_provider_unpod.loading.load import Load
from airflow_provider_unpod.loading.rows import COLUMNS
from airflow_provider_unpod.task_boundary import cleaned
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


@pytest.fixture(params=["psycopg2", "psycopg"])  # type: ignore[no-redef]
def database(url: str, request: pytest.FixtureRequest) -> Database:
    """In place of the imported fixture."""
    driver = pytest.importorskip(request.param, reason="the PostgreSQL provider of this Airflow knows only psycopg 2")
    return Database("postgres", lambda: driver.connect(url))


@pytest.fixture
def one_driver(url: str) -> Database:
    """For what takes long, and where the driver is of no consequence."""
    return Database("postgres", lambda: psycopg2.connect(url))


def test_amounts_are_numeric_and_dates_have_a_time_zone(database: Database, tmp_path: Path) -> None:
    full([row(1, amount="0.123456789", invoice_date="2026-02-01T01:00:00+05:30")], tmp_path)
    database.load(tmp_path)

    assert database.query("SELECT amount + 1, invoice_date AT TIME ZONE 'UTC' < '2026-02-01' FROM invoices") == [
        (Decimal("1.123456789"), True)
    ]
    assert database.query("SELECT jsonb_typeof(extra) FROM invoices") == [("object",)]


def test_a_load_that_is_killed_at_any_time_changes_nothing_and_the_next_one_loads_everything(
    one_driver: Database, url: str, tmp_path: Path
) -> None:
    full(list(rows(5_000)), tmp_path)
    command = [sys.executable, str(Path(__file__).with_name("load_once.py")), url, str(tmp_path)]
    began = time.monotonic()
    subprocess.run(command, check=True)
    lasts = time.monotonic() - began
    moments = random.Random(1)
    killed = 0
    for _ in range(30):
        with one_driver.connect() as connection:
            connection.cursor().execute("DROP TABLE IF EXISTS invoices, invoices_exports")
        process = subprocess.Popen(command)
        try:
            process.wait(lasts * moments.uniform(0.3, 1.0))
        except subprocess.TimeoutExpired:
            process.kill()
            killed += process.wait() != 0
        # Either nothing is there, or everything is, with its entry in the ledger.
        tables = one_driver.query("SELECT count(*) FROM pg_tables WHERE tablename LIKE 'invoices%'")
        if tables != [(0,)]:
            assert one_driver.query("SELECT count(*) FROM invoices") == [(5_000,)]
            assert one_driver.query("SELECT count(*) FROM invoices_exports") == [(1,)]
    assert killed >= 3

    one_driver.load(tmp_path)
    export = read_export(str(tmp_path))
    assert one_driver.query("SELECT count(*), sum(amount) FROM invoices") == [
        (5_000, sum(Decimal(record["amount"]) for record in export))
    ]
    assert one_driver.query("SELECT export_id FROM invoices_exports") == [(export.export_id,)]


def test_after_a_hundred_random_sequences_the_table_equals_the_api_or_the_load_failed_with_a_reason(
    one_driver: Database, tmp_path: Path
) -> None:
    choose = random.Random(2)
    kinds = ("set", "set", "set", "delete", "full", "changes", "cleared changes", "load", "load")
    for number in range(100):
        with one_driver.connect() as connection:
            connection.cursor().execute("DROP TABLE IF EXISTS invoices, invoices_exports")
        steps = [
            (kind, choose.randint(1, 6), choose.choice(["pending", "paid", "failed", "refunded"]))
            for kind in choose.choices(kinds, k=15)
        ]
        check_sequence(one_driver, tmp_path / f"sequence {number}", steps)


def test_a_load_into_a_schema(database: Database, tmp_path: Path) -> None:
    full([row(1)], tmp_path)
    statement(database, 'CREATE SCHEMA "fin.ance"')

    assert database.load(tmp_path, schema="fin.ance").state == "loaded"

    assert database.query('SELECT invoice_id FROM "fin.ance".invoices') == [("1",)]


def test_a_refused_gap_leaves_the_table_unlocked(database: Database, tmp_path: Path) -> None:
    full([row(1)], tmp_path)
    changes([row(1, status="paid")], tmp_path)
    with pytest.raises(LoadError):
        database.load(tmp_path)

    full([row(1)], tmp_path)
    assert database.load(tmp_path).state == "loaded"


def statement(database: Database, sql: str) -> None:
    with closing(database.connect()) as connection:
        connection.cursor().execute(sql)
        connection.commit()


@pytest.mark.parametrize(
    "setting",
    [
        "timezone = 'Asia/Kolkata'",
        "datestyle = 'German, DMY'",
        "default_transaction_isolation = 'serializable'",
        "client_encoding = 'latin1'",
        "standard_conforming_strings = off",
        "search_path = 'odd', 'public'",
    ],
)
def test_the_settings_of_a_session_change_nothing_that_is_loaded(
    database: Database, tmp_path: Path, setting: str
) -> None:
    expected = row(1, invoice_date="2026-02-01T03:04:05.000006Z", charge_type="Müller \\ 'x'", note="Ü")
    full([expected], tmp_path / "export")
    ((name,),) = database.query("SELECT current_database()")
    statement(database, f'ALTER DATABASE "{name}" SET {setting}')
    statement(database, "CREATE SCHEMA odd")

    assert database.load(tmp_path / "export").state == "loaded"

    assert database.load(tmp_path / "export").state == "already loaded"
    form = "'YYYY-MM-DD\"T\"HH24:MI:SS.US+00:00'"
    moments = ", ".join(f"to_char({name} AT TIME ZONE 'UTC', {form})" for name in ("invoice_date", "read_at"))
    assert database.query(f"SELECT {moments}, charge_type, extra ->> 'note' FROM invoices") == [
        (
            "2026-02-01T03:04:05.000006+00:00",
            parse_moment(read_export(str(tmp_path / "export")).manifest["read_at"]).isoformat(),
            "Müller \\ 'x'",
            "Ü",
        )
    ]


def test_a_table_by_another_name_is_loaded_one_export_after_the_other(database: Database, tmp_path: Path) -> None:
    full([row(number, status="pending") for number in range(1, 2_001)], tmp_path / "older")
    full([row(number, status="paid") for number in range(1_000, 3_001)], tmp_path / "newer")
    ((name,),) = database.query("SELECT current_database()")
    statement(database, f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'serializable'")
    for _ in range(3):
        statement(database, "DROP TABLE IF EXISTS invoices, invoices_exports")

        with ThreadPoolExecutor() as both:
            older = both.submit(database.load, tmp_path / "older", schema="public")
            newer = both.submit(database.load, tmp_path / "newer")

        assert newer.result().state == "loaded"
        assert older.result().state in ("loaded", "older")
        assert database.query("SELECT DISTINCT status FROM invoices WHERE vanished_at IS NULL") == [("paid",)]
        assert database.load(tmp_path / "newer").current == read_export(str(tmp_path / "newer")).export_id


def test_a_hook_that_commits_by_itself_or_has_begun_a_transaction_is_loaded_through_all_the_same(
    database: Database, tmp_path: Path
) -> None:
    full([row(1)], tmp_path / "export")
    for number, autocommit in enumerate((True, False)):
        with closing(database.connect()) as connection:
            connection.autocommit = autocommit
            connection.cursor().execute("SET search_path TO public")
            load = Load(
                read_export(str(tmp_path / "export")), DIALECTS["postgres"], Target(f"t{number}", None), cleaned
            )
            assert load.run(connection, create_table=True).state == "loaded"


TABLE = ", ".join(f"{one.name} {DIALECTS['postgres'].types[one.kind]}" for one in COLUMNS)
PARTITION = "CREATE TABLE one PARTITION OF invoices FOR VALUES IN ('acme')"
PRIMARY = "PRIMARY KEY (organization, invoice_id)"


@pytest.mark.parametrize(
    "sql",
    [
        f"CREATE TABLE invoices (before INT DEFAULT 7, {TABLE}, booked BOOLEAN, {PRIMARY})",
        f"CREATE TABLE invoices ({TABLE}, cents NUMERIC GENERATED ALWAYS AS (amount * 100) STORED, {PRIMARY})",
        f"CREATE TABLE invoices ({TABLE}, {PRIMARY}) PARTITION BY LIST (organization); {PARTITION}",
        f"CREATE TABLE below ({TABLE}, {PRIMARY}); CREATE VIEW invoices AS SELECT * FROM below",
    ],
    ids=["more columns", "generated column", "partitions", "view"],
)
def test_a_table_that_the_user_created_is_loaded_and_updated(database: Database, tmp_path: Path, sql: str) -> None:
    statement(database, sql)
    for status in ("pending", "paid"):
        full([row(1, status=status), row(2)], tmp_path / "export")

        assert database.load(tmp_path / "export").rows == 2

        assert database.invoices("invoice_id, status") == [("1", status), ("2", "failed")]


def test_a_trigger_that_changes_amounts_rolls_the_load_back(database: Database, tmp_path: Path) -> None:
    full([row(1)], tmp_path / "export")
    statement(
        database,
        f"CREATE TABLE invoices ({TABLE}, {PRIMARY});"
        "CREATE FUNCTION less() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.amount := NEW.amount - 0.01; RETURN NEW; END $$;"
        "CREATE TRIGGER less BEFORE INSERT ON invoices FOR EACH ROW EXECUTE FUNCTION less()",
    )

    with pytest.raises(LoadError, match="sums"):
        database.load(tmp_path / "export")

    assert database.query("SELECT count(*) FROM invoices") == [(0,)]


def test_a_user_without_write_access_to_the_table_sees_the_message_of_the_database(
    database: Database, tmp_path: Path
) -> None:
    full([row(1)], tmp_path / "export")
    database.load(tmp_path / "export", table="usual")
    statement(database, f"CREATE TABLE invoices ({TABLE}, {PRIMARY})")
    statement(database, "CREATE TABLE invoices_exports (LIKE usual_exports)")
    name = f"reader_{abs(hash(tmp_path))}"
    statement(database, f"CREATE ROLE {name}; GRANT SELECT ON invoices, invoices_exports TO {name}")

    def reader() -> Any:
        connection = database.connect()
        connection.cursor().execute(f"SET ROLE {name}")
        return connection

    with pytest.raises(Exception, match="permission denied for table invoices"):
        Database("postgres", reader).load(tmp_path / "export", create_table=False)
