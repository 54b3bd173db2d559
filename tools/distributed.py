"""``make distributed``: Airflow as it runs in production, on this machine, until Ctrl-C.

CeleryExecutor with two workers, PostgreSQL, Redis, an object store that speaks S3, API server, scheduler, triggerer,
DAG processor, and the sandbox of the API with a rate limit. Everything listens on 127.0.0.1, in a folder of its own.
Typed commands kill and start its parts.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from airflow_provider_unpod.sandbox import Sandbox
from tools.local_airflow import (
    BOOKS_CONNECTION,
    COMPONENTS,
    EXAMPLE_SETTINGS,
    REPOSITORY,
    LocalAirflow,
    descendants,
    ledger_of,
    start_nightly_books,
    this_python,
)
from tools.local_postgres import LocalPostgres
from tools.parts import USAGE, Part, obey, table, typed
from tools.servers import Server, end_at_signals, end_group, free_port, uninterrupted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


WORKERS = ("worker-1", "worker-2")
#: Where ``.ci/install-stores`` puts the server that stands in for S3.
STORES = REPOSITORY / ".venv-stores" / "bin"
BUCKET = "unpod"
STORE_CONNECTION = "unpod_store"
#: The database of the connection ``unpod_books_db``.
BOOKS = "books"

GREETING = """
Airflow      {airflow}   (no login; only this machine reaches it)
Sandbox      {sandbox}   in place of Unpod, as connection unpod_default, {limit} requests a minute
Exports      s3://{store}@{bucket}/exports
PostgreSQL   {postgres}   Airflow's database
             {books}   connection {books_connection}: ledger, loaded invoices
Logs         {home}

{parts}

A part of Airflow that ends is started again. Type a command:

{usage}

To pay the invoice that unpod_wait_for_payment waits for, in another terminal:

  {python} -m airflow_provider_unpod.sandbox pay 101 --port {port}

Ctrl-C stops everything."""


class DistributedAirflow(LocalAirflow):
    """Airflow's components and two Celery workers on PostgreSQL and Redis. Those that end are started again.

    :param home: an empty folder: configuration and logs.
    :param dags: the folder of DAG files.
    :param postgres: a running server; the database ``airflow`` is made there.
    :param broker: the address of Redis.
    """

    components: ClassVar[Mapping[str, list[str]]] = {
        **COMPONENTS,
        **{
            worker: ["celery", "worker", "--skip-serve-logs", "--concurrency", "4", "--celery-hostname", worker]
            for worker in WORKERS
        },
    }

    def __init__(self, home: Path, dags: Path, postgres: LocalPostgres, broker: str, **options: Any) -> None:
        postgres.create_database("airflow")
        database = postgres.url("airflow", "postgresql+psycopg2")
        super().__init__(
            home,
            dags,
            **{
                "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
                "AIRFLOW__CORE__PARALLELISM": "16",
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
                "AIRFLOW__CELERY__BROKER_URL": broker,
                "AIRFLOW__CELERY__RESULT_BACKEND": f"db+{database}",
                # The tasks of a killed worker are noticed within a minute, those that it had not begun within two; the
                # defaults are five and ten.
                "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
                "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "5",
                "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "120",
                "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "15",
                "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "5",
                **options,
            },
        )
        self._stopping = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._lock = threading.Lock()
        self._down: set[str] = set()

    def __enter__(self) -> DistributedAirflow:
        super().__enter__()
        self._supervisor.start()
        return self

    def stop(self) -> None:
        """Stop the supervisor, then all components and every process that they started."""
        with uninterrupted():
            self._stopping.set()
            if self._supervisor.is_alive():
                self._supervisor.join()
            super().stop()

    def kill(self, component: str, *, stays_down: bool = False) -> None:
        """Kill a component and all its processes with SIGKILL, like a power failure.

        :param stays_down: it is not started again by itself, but by `start`.
        """
        with self._lock:
            if stays_down:
                self._down.add(component)
            group = self._components[component].pid
            # Tasks of a worker are in groups of their own; its descendants are found before they lose their parent.
            for pid in [*descendants(group), group]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._components[component].wait()

    def start(self, component: str) -> None:
        """Start a component that was killed and stayed down."""
        with self._lock:
            self._down.discard(component)
            self._start_again(component)

    def is_running(self, component: str) -> bool:
        """Whether the process of a component exists."""
        return self._components[component].poll() is None

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        if name in WORKERS:
            pid_file = self.home / f"{name}.pid"
            pid_file.unlink(missing_ok=True)  # left by one that was killed, it stops the next
            command = [*command, "--pid", str(pid_file)]
        return super()._start(name, command)

    def _supervise(self) -> None:
        while not self._stopping.wait(1):
            with self._lock:
                for name in self._components.keys() - self._down:
                    self._start_again(name)

    def _start_again(self, name: str) -> None:
        if not self.is_running(name):
            # Remaining processes would run in parallel with the next ones.
            end_group(self._components[name])
            with uninterrupted():
                self._components[name] = self._start(name, self.components[name])

    def _component_ended(self, name: str, process: subprocess.Popen[bytes]) -> None:
        if not self._supervisor.is_alive():
            super()._component_ended(name, process)


class Component(NamedTuple):
    """A component of Airflow as a part that can be killed."""

    airflow: DistributedAirflow
    name: str

    @property
    def pid(self) -> int | None:
        """Its process id; ``None`` while it does not run."""
        return self.airflow.pid_of(self.name) if self.airflow.is_running(self.name) else None

    def kill(self) -> None:
        """Kill it and all its processes; it stays down."""
        self.airflow.kill(self.name, stays_down=True)

    def start(self) -> None:
        """Start it again."""
        self.airflow.start(self.name)


class Redis(Server):
    """A Redis without persistence."""

    def __init__(self) -> None:
        port = free_port()
        super().__init__(
            ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"], port
        )
        self.address = f"redis://127.0.0.1:{port}/0"


class ObjectStore(Server):
    """An S3 object store with an empty bucket.

    :param folder: where the objects are.
    """

    def __init__(self, folder: Path) -> None:
        port = free_port()
        key, secret = secrets.token_hex(10), secrets.token_hex(20)
        self.bucket = folder / BUCKET
        self.bucket.mkdir(parents=True)
        serve = [_rclone(), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{key},{secret}"]
        super().__init__([*serve, "--config", "/dev/null", str(folder)], port)
        extra = {"endpoint_url": f"http://127.0.0.1:{port}", "region_name": "us-east-1"}
        #: The Airflow connection to it as JSON.
        self.connection = json.dumps({"conn_type": "aws", "login": key, "password": secret, "extra": json.dumps(extra)})


def _rclone() -> str:
    return shutil.which("rclone", path=f"{STORES}:{os.environ['PATH']}") or ""


def missing() -> list[str]:
    """Return the missing programs, with the commands that install them."""
    found = []
    try:
        LocalPostgres().__exit__()
    except RuntimeError as error:
        found.append(str(error))
    if not shutil.which("redis-server"):
        found.append("Redis is not installed. On Debian: apt-get install --no-install-recommends redis-server")
    if not _rclone():
        found.append("rclone is not installed. Run: .ci/install-stores")
    for module, package in (("airflow.providers.celery", "Airflow's Celery provider"), ("psycopg2", "psycopg2")):
        if importlib.util.find_spec(module) is None:
            found.append(f"{package} is not installed. Run: make .venv/.ready-stores")
    return found


class Deployment(NamedTuple):
    """What tests and benchmarks use and break."""

    airflow: DistributedAirflow
    postgres: LocalPostgres
    store: ObjectStore
    redis: Redis

    def parts(self) -> dict[str, Part]:
        """All parts that can be killed and started again, by name."""
        components = {name: Component(self.airflow, name) for name in self.airflow.components}
        return {**components, "postgres": self.postgres, "redis": self.redis, "store": self.store}


@contextlib.contextmanager
def distributed(home: Path, dags: Path, connections: Mapping[str, str], **environment: str) -> Iterator[Deployment]:
    """A whole deployment, with the pool ``unpod`` and an empty database as connection ``unpod_books_db``.

    :param connections: to the sandbox: connection id -> the connection as JSON.
    """
    with LocalPostgres() as postgres, Redis() as redis, ObjectStore(home / "store") as store:
        postgres.create_database(BOOKS)
        exports = f"s3://{STORE_CONNECTION}@{BUCKET}"
        airflow = DistributedAirflow(
            home / "airflow",
            dags,
            postgres,
            redis.address,
            connections={
                **connections,
                STORE_CONNECTION: store.connection,
                BOOKS_CONNECTION: postgres.connection(BOOKS),
            },
            **{
                "UNPOD_EXPORTS": f"{exports}/exports",
                "UNPOD_BOOKS": f"{exports}/books",
                **EXAMPLE_SETTINGS,
                **environment,
            },
        )
        with airflow:
            yield Deployment(airflow, postgres, store, redis)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make distributed", description=__doc__)
    parser.add_argument("--rate-limit", type=int, default=100, help="requests a minute, for all workers together")
    limit = parser.parse_args().rate_limit
    if found := missing():
        print("\n".join(found), file=sys.stderr)
        return 1
    end_at_signals()
    dags = REPOSITORY / "example_dags"
    try:
        with Sandbox(rate_limit=limit) as sandbox, tempfile.TemporaryDirectory(prefix="unpod-distributed-") as home:
            print("Starting; this takes about a minute ...", flush=True)
            with distributed(Path(home), dags, {"unpod_default": sandbox.connection_json()}) as deployment:
                write_ledger(deployment.postgres, sandbox)
                start_nightly_books(deployment.airflow)
                print(greeting(deployment, sandbox, limit), flush=True)
                parts = deployment.parts()
                for command in typed():
                    print(obey(command, parts), flush=True)
                while True:
                    signal.pause()
    except KeyboardInterrupt:
        print("\nStopped.")
        return 0
    except (OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
    return 1


def write_ledger(postgres: LocalPostgres, sandbox: Sandbox) -> None:
    """Create the ledger that ``unpod_nightly_books`` compares with."""
    import psycopg2  # `missing` has said so if it is not installed

    with closing(psycopg2.connect(postgres.url(BOOKS))) as connection, connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE ledger (id BIGINT PRIMARY KEY, amount NUMERIC, currency TEXT)")
        cursor.executemany("INSERT INTO ledger VALUES (%s, %s, %s)", ledger_of(sandbox))


def greeting(deployment: Deployment, sandbox: Sandbox, limit: int) -> str:
    """The addresses, the process id of each part, and the commands."""
    airflow, postgres, _, _ = deployment
    return GREETING.format(
        airflow=airflow.url,
        sandbox=sandbox.url,
        limit=limit,
        store=STORE_CONNECTION,
        bucket=BUCKET,
        postgres=postgres.url("airflow"),
        books=postgres.url(BOOKS),
        books_connection=BOOKS_CONNECTION,
        home=airflow.home,
        parts=table(deployment.parts()),
        usage="\n".join(f"  {line}" for line in USAGE.splitlines()),
        python=this_python(),
        port=sandbox.port,
    )


if __name__ == "__main__":
    sys.exit(main())
