"""``make distributed``: Airflow as it runs in production, on this machine, until Ctrl-C.

CeleryExecutor with two workers, PostgreSQL, Redis, an object store that speaks S3, API server, scheduler, triggerer,
DAG processor, and the sandbox of the API with a rate limit. Everything listens on 127.0.0.1, in a folder of its own.
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
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from airflow_provider_unpod.sandbox import Sandbox
from tools.local_airflow import COMPONENTS, REPOSITORY, LocalAirflow, descendants
from tools.local_postgres import LocalPostgres
from tools.servers import Server, end_group, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


WORKERS = ("worker-1", "worker-2")
#: Where ``.ci/install-stores`` puts the server that stands in for S3.
STORES = REPOSITORY / ".venv-stores" / "bin"
BUCKET = "unpod"
STORE_CONNECTION = "unpod_store"

GREETING = """
Airflow   {airflow}   (no login; only this machine reaches it)
Sandbox   {sandbox}   in place of Unpod, as connection unpod_default, {limit} requests a minute
Exports   s3://{store}@{bucket}/exports
Logs      {home}

Workers {workers}, scheduler, triggerer and DAG processor are started again when they end. Ctrl-C stops everything."""


class DistributedAirflow(LocalAirflow):
    """Airflow's components and two Celery workers on PostgreSQL and Redis; those that end are started again.

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

    def __enter__(self) -> DistributedAirflow:
        super().__enter__()
        self._supervisor.start()
        return self

    def stop(self) -> None:
        """Stop the supervisor, then all components and every process that they started."""
        self._stopping.set()
        if self._supervisor.is_alive():
            self._supervisor.join()
        super().stop()

    def kill(self, component: str) -> None:
        """Kill a component and all its processes with SIGKILL, like a power failure."""
        with self._lock:
            group = self._components[component].pid
            # Tasks of a worker are in groups of their own; its descendants are found before they lose their parent.
            for pid in [*descendants(group), group]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._components[component].wait()

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        if name in WORKERS:
            pid_file = self.home / f"{name}.pid"
            pid_file.unlink(missing_ok=True)  # left by one that was killed, it stops the next
            command = [*command, "--pid", str(pid_file)]
        return super()._start(name, command)

    def _supervise(self) -> None:
        while not self._stopping.wait(1):
            with self._lock:
                for name, process in list(self._components.items()):
                    if process.poll() is not None:
                        # Remaining processes would run in parallel with the next ones.
                        end_group(process)
                        self._components[name] = self._start(name, self.components[name])

    def _component_ended(self, name: str, process: subprocess.Popen[bytes]) -> None:
        if not self._supervisor.is_alive():
            super()._component_ended(name, process)


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
    """A part that can be stopped and started again."""

    airflow: DistributedAirflow
    postgres: LocalPostgres
    store: ObjectStore


@contextlib.contextmanager
def distributed(home: Path, dags: Path, connections: Mapping[str, str], **environment: str) -> Iterator[Deployment]:
    """A whole deployment.

    :param connections: to the sandbox: connection id -> the connection as JSON.
    """
    with LocalPostgres() as postgres, Redis() as redis, ObjectStore(home / "store") as store:
        exports = f"s3://{STORE_CONNECTION}@{BUCKET}"
        airflow = DistributedAirflow(
            home / "airflow",
            dags,
            postgres,
            redis.address,
            connections={**connections, STORE_CONNECTION: store.connection},
            **{"UNPOD_EXPORTS": f"{exports}/exports", "UNPOD_BOOKS": f"{exports}/books", **environment},
        )
        with airflow:
            yield Deployment(airflow, postgres, store)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make distributed", description=__doc__)
    parser.add_argument("--rate-limit", type=int, default=100, help="requests a minute, for all workers together")
    limit = parser.parse_args().rate_limit
    if found := missing():
        print("\n".join(found), file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with Sandbox(rate_limit=limit) as sandbox, tempfile.TemporaryDirectory(prefix="unpod-distributed-") as home:
            print("Starting; this takes about a minute ...", flush=True)
            with distributed(Path(home), REPOSITORY / "example_dags", {"unpod_default": sandbox.connection_json()}) as (
                airflow,
                _,
                _,
            ):
                print(
                    GREETING.format(
                        airflow=airflow.url,
                        sandbox=sandbox.url,
                        limit=limit,
                        store=STORE_CONNECTION,
                        bucket=BUCKET,
                        home=airflow.home,
                        workers=" and ".join(WORKERS),
                    ),
                    flush=True,
                )
                signal.pause()
    except KeyboardInterrupt:
        print("\nStopped.")
        return 0
    except (OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
