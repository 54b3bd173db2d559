"""The token is only in the connection: not in logs at DEBUG, the database or files."""

from __future__ import annotations

import base64
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from airflow_provider_unpod.sandbox import Sandbox
from tests.integration.conftest import REPOSITORY, AirflowCommand, LiveAirflow
from tests.odd_server import TOKEN

DAG_ID = "token_everywhere"


def spellings(token: str) -> list[bytes]:
    """A token in plain text, and in forms that a plain search would miss."""
    return [
        token.encode(),
        quote(token, safe="").encode(),
        *(base64.b64encode(b"x" * shift + token.encode())[4:-4] for shift in range(3)),
    ]


def finds(home: Path, token: str) -> list[str]:
    """Return every file below a folder, and every database table except connections, that contains the token."""
    looked_for = spellings(token)
    found = [
        str(file.relative_to(home))
        for file in home.rglob("*")
        if file.is_file() and not file.name.startswith("airflow.db")
        if any(spelling in file.read_bytes() for spelling in looked_for)
    ]
    with closing(sqlite3.connect(f"file:{home / 'airflow.db'}?mode=ro", uri=True)) as database:
        database.text_factory = bytes
        tables = [name.decode() for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
        assert "connection" in tables
        for table in tables:
            for row in database.execute(f'select * from "{table}"') if table != "connection" else ():
                cells = [cell for cell in row if isinstance(cell, bytes)]
                if any(spelling in cell for spelling in looked_for for cell in cells):
                    found.append(f"{table}: {row!r}")
    return found


def test_the_search_for_tokens_works(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "airflow.db")) as database:
        database.execute("create table connection (password text)")
        database.execute("create table xcom (value text)")
        database.execute("insert into connection values (?)", (TOKEN,))
        database.commit()
        assert finds(tmp_path, TOKEN) == []
        database.execute("insert into xcom values (?)", (f'["{TOKEN}"]',))
        database.commit()
    (tmp_path / "task.log").write_bytes(base64.b64encode(b"..." + TOKEN.encode()))

    assert [found.partition(":")[0] for found in finds(tmp_path, TOKEN)] == ["task.log", "xcom"]


def test_runs_from_the_command_line_store_the_token_nowhere(
    airflow_command: AirflowCommand, odd_connection: str
) -> None:
    home = airflow_command.home
    dag_file = REPOSITORY / "tests" / "integration" / "dags" / f"{DAG_ID}.py"
    (home / "dags" / dag_file.name).write_text(dag_file.read_text())
    with Sandbox(token="tok-s3cReT-of-the-sandbox") as sandbox:
        paid, waited_for = sandbox.create(status="paid"), sandbox.create()

        def pay_once_it_waits(line: str) -> None:
            if "running trigger in line" in line:
                sandbox.pay(waited_for.id)

        # Most of its tasks are meant to fail, and so does the run.
        airflow_command(
            "dags",
            "test",
            DAG_ID,
            on_line=pay_once_it_waits,
            UNPOD_TEST_PAID=str(paid.id),
            UNPOD_TEST_PENDING=str(waited_for.id),
            AIRFLOW_CONN_UNPOD_DEFAULT=sandbox.connection_json(),
            AIRFLOW_CONN_UNPOD_ODD=odd_connection,
        )
        # On Airflow 3 `dags test` itself prints at DEBUG, for any connection, what its masker masks.
        printed = [line for line in airflow_command.printed.splitlines() if "msg=MaskSecret(" not in line]
        (home / "printed.log").write_text("\n".join(printed))

        assert_all_were_run(airflow_command.states(DAG_ID))
        assert len(airflow_command.results(DAG_ID, "records")[0]) == len(sandbox.ledger)
        assert airflow_command.results(DAG_ID, "deferred")[0]["status"] == "paid"
        assert finds(home, sandbox.token) == []
        assert finds(home, TOKEN) == []


def test_a_running_airflow_stores_and_logs_the_token_nowhere(live_airflow: LiveAirflow, odd_connection: str) -> None:
    sandbox = live_airflow.sandbox
    waited_for = sandbox.ledger.get(102)
    sandbox.pay(101)
    live_airflow.api("POST", "/connections", {"connection_id": "unpod_odd", **api_fields(odd_connection)})
    run = live_airflow.trigger(DAG_ID)

    def state_of(task_id: str) -> str:
        return next(task["state"] for task in live_airflow.tasks(DAG_ID, run) if task["task_id"] == task_id)

    live_airflow.wait_for(lambda: state_of("deferred") in ("deferred", "success"), "the sensor to be deferred", 180)
    sandbox.pay(waited_for.id)

    def states() -> dict[str, str] | None:
        tasks = {task["task_id"]: task["state"] for task in live_airflow.tasks(DAG_ID, run)}
        return tasks if set(tasks.values()) <= {"success", "failed", "skipped"} else None

    ended = live_airflow.wait_for(states, "all tasks to end", 400)

    assert_all_were_run(ended)
    assert finds(live_airflow.home, sandbox.token) == []
    assert finds(live_airflow.home, TOKEN) == []


def assert_all_were_run(states: dict[str, str]) -> None:
    good = {"records", "files", "poke", "reschedule", "deferred", "organizations"}
    assert {task_id for task_id, state in states.items() if state == "success"} == good
    assert {state for task_id, state in states.items() if task_id not in good} == {"failed"}


def api_fields(connection: str) -> dict[str, object]:
    """A connection as Airflow's API takes it."""
    fields = json.loads(connection)
    return {name: fields[name] for name in ("conn_type", "host", "schema", "port", "password")}
