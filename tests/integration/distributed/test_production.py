"""With many processes, of which some are killed, and a database restart, every payment is booked exactly once."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import psycopg2
import pytest

from airflow_provider_unpod.export import read_export
from airflow_provider_unpod.sandbox import Sandbox
from tools.distributed import BOOKS, STORE_CONNECTION, WORKERS, DistributedAirflow, distributed, missing
from tools.local_airflow import EXAMPLE_SETTINGS
from tools.local_postgres import LocalPostgres

ORGANIZATIONS = 30
WAITS = 60
#: Chooses the moments of the kills; printed, and taken from the environment to repeat a run.
SEED = int(os.environ.get("UNPOD_TEST_SEED") or random.SystemRandom().randrange(10_000))


class Payment(NamedTuple):
    """A row of the table in which the DAG books payments. The key is its primary key."""

    key: str
    invoice: int
    amount: Decimal
    currency: str
    deliveries: int


def states(airflow: DistributedAirflow, dag_id: str, run_id: str) -> Counter[str]:
    tasks = airflow.api("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances?limit=200")["task_instances"]
    return Counter(str(task["state"]) for task in tasks)


def patiently(ask: Callable[[], Any]) -> Callable[[], Any]:
    """Ignore errors of Airflow's API while the database restarts."""

    def asked() -> Any:
        try:
            return ask()
        except (RuntimeError, OSError):
            return None

    return asked


def ended(airflow: DistributedAirflow, dag_id: str, run_id: str) -> None:
    def state() -> bool:
        return airflow.run(dag_id, run_id)["state"] in ("success", "failed")

    airflow.wait_for(patiently(state), f"{dag_id} to end", timeout=900)
    assert set(states(airflow, dag_id, run_id)) == {"success"}


def create_books(postgres: LocalPostgres) -> None:
    with closing(psycopg2.connect(postgres.url(BOOKS))) as books, books, books.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE payments"
            " (key TEXT PRIMARY KEY, invoice BIGINT, amount NUMERIC, currency TEXT, deliveries INT)"
        )


def booked(postgres: LocalPostgres) -> list[Payment]:
    """Return all rows that the runs which a watcher has started have booked."""
    with closing(psycopg2.connect(postgres.url(BOOKS))) as books, books.cursor() as cursor:
        cursor.execute("SELECT key, invoice, amount, currency, deliveries FROM payments ORDER BY invoice, key")
        return [Payment(*row) for row in cursor]


def no_more_to_come(airflow: DistributedAirflow, sandbox: Sandbox) -> None:
    """Wait until the watcher has polled twice more, and the runs that it has started have succeeded."""
    polls = sandbox.stats["requests"]
    airflow.wait_for(lambda: sandbox.stats["requests"] >= polls + 2, "two more polls of the watcher")
    runs = patiently(lambda: {run["state"] for run in airflow.runs("book_payments")} <= {"success", "failed"})
    airflow.wait_for(runs, "all bookings to end", timeout=300)
    assert {run["state"] for run in airflow.runs("book_payments")} == {"success"}


def files_below(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_exports_waits_and_payments_survive_a_worker_the_triggerer_and_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert missing() == []
    chance = random.Random(SEED)
    with capsys.disabled():
        print(f"\nThe moments of the kills: UNPOD_TEST_SEED={SEED}")
    handles = tuple(f"org-{number}" for number in range(ORGANIZATIONS))
    tmpdir = tmp_path / "tmp"
    tmpdir.mkdir()
    with Sandbox(orgs=handles, invoices=250, rate_limit=1000, latency=100) as sandbox:
        for ledger in sandbox.ledgers.values():
            ledger.create("10.00", "USD", "paid", extra={"note": "cut\u0000here"})
        unpaid = [sandbox.create("1.00", "USD", extra={"note": "a\u0000b"}).id for _ in range(WAITS)]
        dags = Path(__file__).parent / "dags"
        connections = {"unpod_default": sandbox.connection_json()}
        with distributed(tmp_path, dags, connections, TMPDIR=str(tmpdir)) as (airflow, postgres, store, _):
            create_books(postgres)
            airflow.wait_for(lambda: len(airflow.dags()) == 3, "the DAGs to be parsed")
            waits = airflow.trigger("wait_for_everything", conf={"invoices": unpaid})
            waiting = patiently(lambda: states(airflow, "wait_for_everything", waits)["deferred"] == WAITS)
            airflow.wait_for(waiting, "all waits to be deferred", timeout=300)

            exports = airflow.trigger("export_everything")
            running = chance.randint(3, 6)
            under_way = patiently(lambda: states(airflow, "export_everything", exports)["running"] >= running)
            airflow.wait_for(under_way, "exports to run", timeout=120, interval=0.2)
            airflow.kill(chance.choice(WORKERS))
            before_the_kill = chance.randint(1, WAITS - 1)
            for number in unpaid[:before_the_kill]:
                sandbox.pay(number)
            airflow.kill("triggerer")
            for number in unpaid[before_the_kill:]:
                sandbox.pay(number)
            # The task that lists the invoices has ended, too: with two, waits are in the middle of ending.
            finished = chance.randint(2, WAITS // 2)
            ending = patiently(lambda: states(airflow, "wait_for_everything", waits)["success"] >= finished)
            airflow.wait_for(ending, "the first waits to end", timeout=300, interval=0.1)
            postgres.stop()
            postgres.start()

            ended(airflow, "wait_for_everything", waits)
            ended(airflow, "export_everything", exports)
            airflow.wait_for(lambda: len(booked(postgres)) >= WAITS, "every payment to be booked", timeout=300)
            no_more_to_come(airflow, sandbox)

            payments = booked(postgres)
            with capsys.disabled():
                print(f"Deliveries repeated under the same key: {sum(each.deliveries - 1 for each in payments)}")
            assert [each[1:4] for each in payments] == [(number, Decimal("1.00"), "USD") for number in unpaid]

            tasks = airflow.tasks("export_everything", exports)
            assert {task["pool"] for task in tasks if task["task_id"] == "export"} == {EXAMPLE_SETTINGS["UNPOD_POOL"]}
            monkeypatch.setenv(f"AIRFLOW_CONN_{STORE_CONNECTION.upper()}", store.connection)
            listed = set()
            for handle, ledger in sandbox.ledgers.items():
                export = read_export(f"{airflow.environment['UNPOD_EXPORTS']}/{handle}")
                exported = {record["id"]: record for record in export}
                invoices = {invoice.id: invoice.row(ledger.dialect) for invoice in ledger.invoices()}
                if handle == sandbox.org_handle:  # read before or after they were paid
                    for number in unpaid:
                        assert exported[number].pop("status") in ("pending", "paid")
                        assert invoices[number].pop("status") == "paid"
                assert exported == invoices
                assert export.count == len(invoices)
                files = [each["path"] for each in export.manifest["files"]]
                listed |= {f"exports/{handle}/{name}" for name in (*files, "_manifest.json")}
            assert files_below(store.bucket) == listed
        assert airflow.left_behind() == []
    assert not [name for name in files_below(tmpdir) if "unpod" in name]
