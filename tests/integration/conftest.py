"""Two ways to run a real Airflow with a sandbox of the Unpod API: all components, or single commands.

The tests run in two processes. Those that share an Airflow or stores are in a folder and run in the same process.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from airflow_provider_unpod.sandbox import Sandbox
from tools.local_airflow import LocalAirflow

REPOSITORY = Path(__file__).resolve().parents[2]
AIRFLOW_3 = int(version("apache-airflow").partition(".")[0]) >= 3


class BySharing(LoadScopeScheduling):
    """Keeps tests together: those of a folder, of a file beside this one, or of an installed release.

    xdist's own groups would do, but xdist 3.8 does not recognize them with pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        path, _, test = nodeid.partition("::")
        folder = path.rpartition("/")[0]
        if folder.endswith("/installed"):
            return test.rpartition("[")[2]
        return path if folder.endswith("/integration") else folder


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> BySharing:
    return BySharing(config, log)


class LiveAirflow(LocalAirflow):
    """A running Airflow and its sandbox.

    Its DAGs are those of ``example_dags/`` and ``tests/integration/dags/``. All processes have the connection
    ``unpod_default`` to the sandbox in their environment. Tests share the sandbox, so each one creates the invoices
    that it changes.
    """

    def __init__(self, home: Path, sandbox: Sandbox, **environment: str) -> None:
        self.sandbox = sandbox
        dags = home / "dags"
        for source in (REPOSITORY / "example_dags", REPOSITORY / "tests" / "integration" / "dags"):
            if source.exists():
                shutil.copytree(source, dags, dirs_exist_ok=True)
        super().__init__(
            home,
            dags,
            connections=None,
            AIRFLOW_CONN_UNPOD_DEFAULT=sandbox.connection_json(),
            AIRFLOW__CORE__TEST_CONNECTION="Enabled",
            AIRFLOW__LOGGING__LOGGING_LEVEL="DEBUG",  # secrets must not be logged at any level
            UNPOD_EXPORTS=f"file://{home}/exports",
            UNPOD_BOOKS=f"file://{home}/books",
            UNPOD_POLL_INTERVAL="5",
            **environment,
        )


class AirflowCommand:
    """The ``airflow`` command of this environment, with a database of its own and no other Airflow process."""

    def __init__(self, home: Path, dags: Path) -> None:
        self.home = home
        self.exports = home / "exports"
        self.books = home / "books"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        inherited.pop("PYTHONDONTWRITEBYTECODE", None)
        self.environment = {
            **inherited,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG",
            "UNPOD_EXPORTS": f"file://{self.exports}",
            "UNPOD_BOOKS": f"file://{self.books}",
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONUNBUFFERED": "1",
        }
        #: The output of all commands so far.
        self.printed = ""

    def __call__(
        self, *arguments: str, on_line: Callable[[str], object] = lambda line: None, **environment: str
    ) -> int:
        """The exit status of ``airflow ...``; ``on_line`` is called with each line as soon as it is printed."""
        command = [sys.executable, "-m", "airflow", *arguments]
        with subprocess.Popen(
            command,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                self.printed += line
                on_line(line)
        return process.returncode

    def database(self) -> sqlite3.Connection:
        """Airflow's database, read-only."""
        return sqlite3.connect(f"file:{self.home / 'airflow.db'}?mode=ro", uri=True)

    def states(self, dag_id: str) -> dict[str, str]:
        """Return the states of the tasks of a DAG that ran once, by task id."""
        with closing(self.database()) as database:
            return dict(database.execute("select task_id, state from task_instance where dag_id = ?", (dag_id,)))

    def results(self, dag_id: str, task_id: str) -> list[Any]:
        """Return the return values of a task's instances, ordered by map index."""
        with closing(self.database()) as database:
            rows = database.execute(
                "select value from xcom where dag_id = ? and task_id = ? and key = 'return_value' order by map_index",
                (dag_id, task_id),
            ).fetchall()
        values = [json.loads(value) for (value,) in rows]
        # Airflow 3 keeps JSON in a JSON column.
        return [json.loads(value) if isinstance(value, str) and value[:1] in '[{"' else value for value in values]


@pytest.fixture(scope="module")
def airflow_command(tmp_path_factory: pytest.TempPathFactory) -> AirflowCommand:
    """The ``airflow`` command with the example DAGs, on both Airflows."""
    home = tmp_path_factory.mktemp("airflow")
    dags = home / "dags"
    shutil.copytree(REPOSITORY / "example_dags", dags)
    command = AirflowCommand(home, dags)
    assert command("db", "migrate") == 0, command.printed
    assert command("dags", "reserialize") == 0, command.printed
    return command
