"""With many processes, of which some are killed, and a database restart, every payment is booked exactly once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_unpod.export import read_export
from airflow_provider_unpod.sandbox import Sandbox
from tools.distributed import STORE_CONNECTION, DistributedAirflow, distributed, missing

ORGANIZATIONS = 30
WAITS = 60


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


def booked(airflow: DistributedAirflow) -> list[tuple[str, int]]:
    """Return the payments of all runs that a watcher has started."""
    found = []
    for run in airflow.runs("book_payments"):
        if run["state"] == "success":
            found += [(key, number) for key, number in airflow.result("book_payments", run["dag_run_id"], "book")]
    return found


def test_exports_waits_and_payments_survive_a_worker_the_triggerer_and_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert missing() == []
    handles = tuple(f"org-{number}" for number in range(ORGANIZATIONS))
    with Sandbox(orgs=handles, invoices=250, rate_limit=1000, latency=100) as sandbox:
        for ledger in sandbox.ledgers.values():
            ledger.create("10.00", "USD", "paid", extra={"note": "cut\u0000here"})
        unpaid = [sandbox.create("1.00", "USD", extra={"note": "a\u0000b"}).id for _ in range(WAITS)]
        dags = Path(__file__).parent / "dags"
        with distributed(tmp_path, dags, {"unpod_default": sandbox.connection_json()}) as (airflow, postgres, store):
            airflow.wait_for(lambda: len(airflow.dags()) == 3, "the DAGs to be parsed")
            waits = airflow.trigger("wait_for_everything", conf={"invoices": unpaid})
            waiting = patiently(lambda: states(airflow, "wait_for_everything", waits)["deferred"] == WAITS)
            airflow.wait_for(waiting, "all waits to be deferred", timeout=300)

            exports = airflow.trigger("export_everything")
            under_way = patiently(lambda: states(airflow, "export_everything", exports)["running"] >= 4)
            airflow.wait_for(under_way, "exports to run", timeout=120, interval=0.2)
            airflow.kill("worker-1")
            for number in unpaid[: WAITS // 2]:
                sandbox.pay(number)
            airflow.kill("triggerer")
            for number in unpaid[WAITS // 2 :]:
                sandbox.pay(number)
            # The task that lists the invoices has ended, too: with two, waits are in the middle of ending.
            ending = patiently(lambda: states(airflow, "wait_for_everything", waits)["success"] >= 2)
            airflow.wait_for(ending, "the first wait to end", timeout=300, interval=0.1)
            postgres.stop()
            postgres.start()

            ended(airflow, "wait_for_everything", waits)
            ended(airflow, "export_everything", exports)
            delivered = patiently(lambda: len({number for _, number in booked(airflow)}) == WAITS)
            airflow.wait_for(delivered, "every payment to be booked", timeout=300)

            payments = booked(airflow)
            keys_of = {number: {key for key, other in payments if other == number} for _, number in payments}
            assert {number: len(keys) for number, keys in keys_of.items()} == dict.fromkeys(unpaid, 1)

            monkeypatch.setenv(f"AIRFLOW_CONN_{STORE_CONNECTION.upper()}", store.connection)
            for handle, ledger in sandbox.ledgers.items():
                export = read_export(f"{airflow.environment['UNPOD_EXPORTS']}/{handle}")
                assert sorted(record["id"] for record in export) == sorted(ledger.ids())
                listed = {Path(each["path"]).name for each in export.manifest["files"]}
                assert {file.name for file in (store.bucket / "exports" / handle).rglob("*") if file.is_file()} == {
                    *listed,
                    "_manifest.json",
                }
        assert airflow.left_behind() == []
