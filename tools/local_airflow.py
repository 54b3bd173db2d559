"""Runs a real Airflow 3 on this machine: scheduler, DAG processor, triggerer and API server, in a separate folder.

It runs during its ``with`` block and leaves no processes. The components are started one by one because
``airflow standalone`` also serves logs on all interfaces of the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from tools.servers import end_group, free_port, uninterrupted, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

    from airflow_provider_unpod.sandbox import Sandbox

REPOSITORY = Path(__file__).resolve().parent.parent
#: In the order in which they are started. Triggers and tasks need the API server, and the connections made through it.
COMPONENTS = {
    "api-server": ["api-server"],
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
}
FINISHED = ("success", "failed")
STARTUP_TIMEOUT = 180.0
POOL_SLOTS = 8


class LocalAirflow:
    """``with LocalAirflow(home, dags, AIRFLOW_CONN_...=...) as airflow: airflow.trigger("my_dag")``

    :param home: an empty folder: database, configuration and logs.
    :param dags: the folder of DAG files.
    :param connections: connection id -> the connection as JSON. They are kept in Airflow's database, so the UI lists
        them, unlike those of the environment.
    :param environment: further environment variables of all components. The pool that ``UNPOD_POOL`` names is created.
    :raises RuntimeError: when a component ends, or Airflow is not healthy in time; the text names the component and
        ends with its log.
    """

    components: ClassVar[Mapping[str, list[str]]] = COMPONENTS

    def __init__(
        self, home: Path, dags: Path, *, connections: Mapping[str, str] | None = None, **environment: str
    ) -> None:
        self.home = home
        self.connections = dict(connections or {})
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {**_inherited(), **_configuration(home, dags, self.url), **environment}
        self._components: dict[str, subprocess.Popen[bytes]] = {}
        self._token: str | None = None

    # --- life

    def __enter__(self) -> Self:
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            self._airflow("db", "migrate")
            for name, command in self.components.items():
                if name == "triggerer":
                    self.wait_for(self._health, "Airflow's API server", STARTUP_TIMEOUT)
                    self._add_connections_and_pool()
                with uninterrupted():
                    self._components[name] = self._start(name, command)
            self.wait_for(self.healthy, "Airflow to be healthy", STARTUP_TIMEOUT)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _airflow(self, *command: str) -> None:
        done = subprocess.run(_command(command), env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"airflow {' '.join(command)} failed:\n{done.stdout}{done.stderr}")

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with self.log_file(name).open("ab") as log:
            # A process group of its own: Ctrl-C is for the tool, which then stops the components in order.
            return subprocess.Popen(
                _command(command), env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def _add_connections_and_pool(self) -> None:
        for conn_id, connection in self.connections.items():
            self.api("POST", "/connections", {"connection_id": conn_id, **json.loads(connection)})
        if pool := self.environment.get("UNPOD_POOL"):
            self.api("POST", "/pools", {"name": pool, "slots": POOL_SLOTS})

    def log_file(self, component: str) -> Path:
        """The file that holds the output of a component."""
        return self.home / f"{component}.log"

    def pid_of(self, component: str) -> int:
        """The process id of a component, e.g. to measure its memory."""
        return self._components[component].pid

    def stop(self) -> None:
        """Stop all components and every process that they started; kill those that do not stop within 10 s."""
        with uninterrupted():
            for process in self._components.values():
                if process.poll() is None:
                    process.terminate()
            deadline = time.monotonic() + 10
            for process in self._components.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.1, deadline - time.monotonic()))
                end_group(process)
            self._components.clear()
            for pid in self.left_behind():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def left_behind(self) -> list[int]:
        """Process ids of this Airflow that still run, tasks included. Needs Linux's ``/proc``."""
        mark = f"AIRFLOW_HOME={self.home}\0".encode()
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in environ.read_bytes():
                    found.append(int(environ.parent.name))
        return [pid for pid in found if pid != os.getpid()]

    # --- its API

    def healthy(self) -> bool:
        """Whether all components work.

        :raises RuntimeError: when one of them has ended.
        """
        health = self._health()
        wanted = ("metadatabase", "scheduler", "triggerer", "dag_processor")
        return all(health.get(name, {}).get("status") == "healthy" for name in wanted)

    def _health(self) -> dict[str, Any]:
        """The health of all components as the API server reports it; empty until it responds."""
        for name, process in list(self._components.items()):
            if process.poll() is not None:
                self._component_ended(name, process)
        try:
            health: dict[str, Any] = self._request("GET", "/api/v2/monitor/health", token=None)
        except OSError:
            return {}
        return health

    def _component_ended(self, name: str, process: subprocess.Popen[bytes]) -> None:
        last = self.log_file(name).read_text(errors="replace")[-3000:]
        raise RuntimeError(f"Airflow's {name} ended with status {process.returncode}:\n{last}")

    def wait_for(self, condition: Any, what: str, timeout: float = 90.0, interval: float = 0.5) -> Any:
        """The first true value of ``condition()``, which is called every ``interval`` seconds.

        :raises RuntimeError: when there is none within ``timeout`` seconds.
        """
        return wait_until(condition, f"{what}; logs are in {self.home}", timeout, interval)

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON that Airflow's public API returns, e.g. for ``api("GET", "/dags")``."""
        if self._token is None:
            self._token = self.token()
        return self._request(method, f"/api/v2{path}", body, token=self._token)

    def token(self, user: str | None = None) -> str:
        """A token of the API: of one of ``tools.airflow_users``, or of the user that everybody is without a login."""
        if self.environment["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS"] == "True":
            return str(self._request("GET", "/auth/token", token=None)["access_token"])
        login = {"username": user or "admin", "password": user or "admin"}
        return str(self._request("POST", "/auth/token", login, token=None)["access_token"])

    def _request(self, method: str, path: str, body: Any = None, *, token: str | None) -> Any:
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        for last_try in (False, False, False, True):
            try:
                with _DIRECT.open(request, timeout=90) as response:
                    return json.loads(response.read() or b"null")
            except urllib.error.HTTPError as error:
                text = error.read().decode(errors="replace")[:1000]
                # SQLite refuses a transaction that read before another one wrote, and Airflow does not retry it.
                if last_try or "Database error" not in text:
                    raise RuntimeError(
                        f"Airflow's API responded to {method} {path} with {error.code}: {text}"
                    ) from error
            time.sleep(1)
        raise AssertionError("The last try returns or raises.")

    def dags(self) -> set[str]:
        """The ids of the DAGs that Airflow has parsed."""
        return {dag["dag_id"] for dag in self.api("GET", "/dags?limit=100")["dags"]}

    def unpause(self, dag_id: str) -> None:
        """Unpause a DAG, so that its schedule starts it."""
        self.api("PATCH", f"/dags/{dag_id}", {"is_paused": False})

    def trigger(self, dag_id: str, logical_date: str | None = None, conf: dict[str, Any] | None = None) -> str:
        """Start a DAG and return the id of its run."""
        body = {"logical_date": logical_date, "conf": conf or {}}
        return str(self.api("POST", f"/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def runs(self, dag_id: str = "~") -> list[dict[str, Any]]:
        """Runs of a DAG, or of all of them, oldest first."""
        runs: list[dict[str, Any]] = self.api("GET", f"/dags/{dag_id}/dagRuns?limit=100&order_by=id")["dag_runs"]
        return runs

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """One run, as Airflow's API returns it."""
        found: dict[str, Any] = self.api("GET", f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}")
        return found

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """The task instances of a run."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances"
        tasks: list[dict[str, Any]] = self.api("GET", path)["task_instances"]
        return tasks

    def asset_events(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """The asset events that started a run."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/upstreamAssetEvents"
        events: list[dict[str, Any]] = self.api("GET", path)["asset_events"]
        return events

    def result(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> Any:
        """The return value of a task."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances/{task_id}/xcomEntries/return_value"
        return self.api("GET", f"{path}?deserialize=true&map_index={map_index}")["value"]

    def finished(self, dag_id: str, run_id: str, timeout: float = 120.0) -> dict[str, Any]:
        """Wait until a run has succeeded, and return it.

        :raises RuntimeError: when it fails, or does not end within ``timeout`` seconds.
        """

        def ended() -> dict[str, Any] | None:
            run = self.run(dag_id, run_id)
            return run if run["state"] in FINISHED else None

        run: dict[str, Any] = self.wait_for(ended, f"{dag_id} to end", timeout)
        if run["state"] != "success":
            states = {task["task_id"]: task["state"] for task in self.tasks(dag_id, run_id)}
            raise RuntimeError(f"{dag_id} failed: {states}; logs are in {self.home / 'logs'}.")
        return run


#: What the example DAGs need besides connections and folders: quick polls, and a pool for all tasks with the token.
EXAMPLE_SETTINGS = {"UNPOD_POLL_INTERVAL": "5", "UNPOD_POOL": "unpod"}
#: The connection to the database of the example ``unpod_books``.
BOOKS_CONNECTION = "unpod_books_db"
#: Paused in the example, until its database exists. Here it does, and unpod_month_revenue needs the table.
NEEDS_DATABASE = "unpod_nightly_books"


def example_airflow(home: Path, sandbox: Sandbox, output: Path, **environment: str) -> LocalAirflow:
    """An Airflow with the example DAGs, their pool and connections to a sandbox and a database.

    :param output: files go below this folder.
    """
    return LocalAirflow(
        home,
        REPOSITORY / "example_dags",
        connections={
            "unpod_default": sandbox.connection_json(),
            BOOKS_CONNECTION: books_database(output / "books.db", sandbox),
        },
        UNPOD_EXPORTS=f"file://{output}/exports",
        UNPOD_BOOKS=f"file://{output}/books",
        **{**EXAMPLE_SETTINGS, **environment},
    )


def start_nightly_books(airflow: LocalAirflow) -> None:
    """Wait until the example DAGs are parsed, and unpause the one that needs a database."""
    airflow.wait_for(lambda: NEEDS_DATABASE in airflow.dags(), "the example DAGs to be parsed")
    airflow.unpause(NEEDS_DATABASE)


def ledger_of(sandbox: Sandbox) -> list[tuple[int, str, str]]:
    """Id, amount and currency of all invoices, as a ledger has them that differs by one cent in the newest one."""
    booked = [(one.id, Decimal(one.amount), one.currency) for one in sandbox.ledger.invoices()]
    newest = max(invoice_id for invoice_id, _, _ in booked)
    return [
        (invoice_id, str(amount + (Decimal("0.01") if invoice_id == newest else 0)), currency)
        for invoice_id, amount, currency in booked
    ]


def books_database(file: Path, sandbox: Sandbox) -> str:
    """Create the database of the example ``unpod_books`` with its ledger, and return its connection as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE IF NOT EXISTS ledger (id INTEGER PRIMARY KEY, amount TEXT, currency TEXT)")
        database.executemany("INSERT OR REPLACE INTO ledger VALUES (?, ?, ?)", ledger_of(sandbox))
        database.commit()
    return json.dumps({"conn_type": "sqlite", "host": str(file)})


#: Bypasses the proxies of the environment: Airflow is on this machine.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def descendants(pid: int) -> list[int]:
    """Return all descendants of a process. Needs Linux's ``/proc``."""
    found = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, file.read_text().split()):
                found += [child, *descendants(child)]
    return found


def this_python() -> Path:
    """The path of the Python that runs this, as short as it can be typed in the clone."""
    python = Path(sys.executable)
    return python.relative_to(REPOSITORY) if python.is_relative_to(REPOSITORY) else python


def sqlite_url(home: Path) -> str:
    """The address of Airflow's database in ``home``.

    The timeout is how long (seconds) a process waits for a lock. The API server may wait for a lock that it holds
    itself: it logs each action on the event loop, which then cannot end another request's transaction. Tasks try to
    reach the API server for half a minute, so the wait must end before that.
    """
    return f"sqlite:///{home}/airflow.db?timeout=10"


def _command(arguments: Any) -> list[str]:
    return [sys.executable, "-m", "airflow", *arguments]


def _inherited() -> dict[str, str]:
    """This process's environment without variables that configure Airflow or make Python recompile it at each start."""
    unwanted = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")
    return {
        name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW") and name not in unwanted
    }


def _configuration(home: Path, dags: Path, url: str) -> dict[str, str]:
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",  # only this machine reaches 127.0.0.1
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__FERNET_KEY": "",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": sqlite_url(home),
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": url.rpartition(":")[2],
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__WORKERS": "1",
        # The same for all components.
        "AIRFLOW__API__SECRET_KEY": secrets.token_urlsafe(),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(),
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "PYTHONPATH": str(REPOSITORY),
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
