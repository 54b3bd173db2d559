"""The faults: their beginning, their end, and the uses that can meet them."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from airflow_provider_unpod.sandbox.server import RateLimit
from benchmarks.faults import disks
from benchmarks.faults.deployment import TASKS, USES, World
from tools.distributed import WORKERS
from tools.servers import wait_until

HOUR = 3600.0


def nothing(world: World) -> None:
    """The fault ends by itself."""


@dataclass(frozen=True)
class Cause:
    """A fault.

    :ivar begin: does it.
    :ivar end: ends it.
    :ivar meets: the uses that can meet it.
    :ivar why: why the others cannot.
    :ivar midway: it begins while each of these uses has a request under way; otherwise before hook and operator read.
    :ivar seconds: it ends so long after hook and operator have begun; 0: when each of these uses has met it.
    """

    name: str
    begin: Callable[[World], None]
    end: Callable[[World], None] = nothing
    meets: tuple[str, ...] = tuple(USES)
    why: str = ""
    midway: bool = False
    seconds: float = 0.0


# --- of the API


def responds(*faults: str) -> Callable[[World], None]:
    def begin(world: World) -> None:
        for api in world.apis.values():
            api.faults(*faults)

    return begin


def stop_apis(world: World) -> None:
    for api in world.apis.values():
        api.__exit__(None, None, None)


def start_apis(world: World) -> None:
    for api in world.apis.values():
        api.__enter__()


def clock_off(seconds: float) -> Callable[[World], None]:
    """The API counts requests by a wrong clock, and sends its time in all headers."""

    def begin(world: World) -> None:
        for api in world.apis.values():
            api._server._rate_limit = RateLimit(2, 4.0, lambda: time.time() + seconds)

    return begin


def no_limit(world: World) -> None:
    for api in world.apis.values():
        api._server._rate_limit = None


def rotate_token(world: World) -> None:
    """The API accepts only a new token, but the connections have the old one."""
    for api in world.apis.values():
        api.token = secrets.token_hex(16)
        api._server.settings = dataclasses.replace(api._server.settings, token=api.token)


def enter_token(world: World) -> None:
    for use, api in world.apis.items():
        body = {"connection_id": f"unpod_{use}", "conn_type": "unpod", "password": api.token}
        world.deployment.airflow.api("PATCH", f"/connections/unpod_{use}?update_mask=password", body)


# --- of disks and the store


def kill_store(world: World) -> None:
    """Wait until the first file of the export exists, but not all."""
    bucket = world.deployment.store.bucket
    before = {file for file in bucket.rglob("*") if file.is_file()}
    # Without a pause: all files may exist soon after the first.
    wait_until(
        lambda: any(file.is_file() and file not in before for file in bucket.rglob("*")),
        "the operator to write to the store",
        120,
        interval=0,
    )
    world.deployment.store.kill()


def start_store(world: World) -> None:
    world.deployment.store.start()


# --- of Airflow


def restart_database(world: World) -> None:
    world.deployment.postgres.stop()
    world.deployment.postgres.start()


def kill(*components: str) -> Callable[[World], None]:
    def begin(world: World) -> None:
        for component in components:
            world.deployment.airflow.kill(component)

    return begin


def clear_tasks(world: World) -> None:
    for dag_id, run_id in world.runs.items():
        tasks = [task for task in TASKS if USES[task] == dag_id]
        body = {"dry_run": False, "only_failed": False, "dag_run_id": run_id, "task_ids": tasks}
        world.deployment.airflow.api("POST", f"/dags/{dag_id}/clearTaskInstances", body)


OPERATOR, WRITES = ("operator",), "only the operator writes files"

CAUSES = (
    # Longer than the longest interval of the waits, and a task's way to a worker.
    Cause("connections refused", stop_apis, start_apis, seconds=25.0),
    # Longer than the timeout of a request.
    Cause("no response to any request", responds("delay:seconds=60"), responds()),
    Cause("every connection reset", responds("reset"), responds()),
    Cause("responses that drip, a byte now and then", responds("drip:seconds=60"), responds()),
    Cause("HTTP 500, 502 and 503 to every request", responds("500:every=3", "502:every=2", "503"), responds()),
    Cause("HTTP 429 to every request", responds("429:retry_after=2"), responds()),
    Cause("HTTP 206 with an error to every request", responds("206"), responds()),
    Cause("the API's clock an hour ahead, with a rate limit", clock_off(HOUR), no_limit),
    Cause("the API's clock an hour behind, with a rate limit", clock_off(-HOUR), no_limit),
    Cause("token rotated while waiting", rotate_token, enter_token),
    Cause("disk full", lambda _: disks.fill(disks.DISK), lambda _: disks.make_room(disks.DISK), OPERATOR, WRITES),
    Cause(
        "`$TMPDIR` full", lambda _: disks.fill(disks.TMPDIR), lambda _: disks.make_room(disks.TMPDIR), OPERATOR, WRITES
    ),
    Cause("store down in mid-write", kill_store, start_store, OPERATOR, WRITES, midway=True),
    Cause("database restarted", restart_database, midway=True),
    Cause(
        "triggerer killed (SIGKILL)",
        kill("triggerer"),
        meets=("deferrable", "event"),
        why="the others do not run there",
        midway=True,
    ),
    Cause(
        "workers killed (SIGKILL)",
        kill(*WORKERS),
        meets=("hook", "operator", "poke", "reschedule"),
        why="event triggers and deferred waits do not run there",
        midway=True,
    ),
    Cause("task cleared while running", clear_tasks, meets=TASKS, why="the event trigger is not a task", midway=True),
)
