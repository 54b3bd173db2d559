"""The uses of invoices, and the APIs, store, database and processes that faults affect."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_provider_unpod.sandbox import Sandbox
from benchmarks.faults.disks import TMPDIR
from tools.distributed import Deployment, distributed

DAGS = Path(__file__).resolve().parent / "dags"
#: The DAG of each use; the task has its name. ``book`` runs for what the event trigger reports.
USES = {
    "hook": "read",
    "operator": "read",
    "poke": "wait",
    "reschedule": "wait",
    "deferrable": "wait",
    "event": "book",
}
READERS, SENSORS = ("hook", "operator"), ("poke", "reschedule", "deferrable")
WAITERS = (*SENSORS, "event")
TASKS = (*READERS, *SENSORS)
INVOICES = 250


@dataclass
class World:
    """The parts of the deployment that a fault can affect.

    :ivar apis: the sandbox of each use.
    :ivar runs: by DAG id the run under way.
    """

    deployment: Deployment
    apis: dict[str, Sandbox]
    runs: dict[str, str] = field(default_factory=dict)

    def requests(self, use: str) -> int:
        """Return the number of requests to the API of a use."""
        made: int = self.apis[use].stats["requests"]
        return made

    def task(self, use: str) -> dict[str, Any]:
        """The task instance of a use, as Airflow's API returns it; empty while Airflow does not answer."""
        dag_id = USES[use]
        try:
            tasks = self.deployment.airflow.tasks(dag_id, self.runs[dag_id])
        except (OSError, RuntimeError):  # the database restarts
            return {}
        return next(task for task in tasks if task["task_id"] == use)

    def state(self, use: str) -> str:
        """The state of the task of a use; empty while there is none."""
        return str(self.task(use).get("state") or "")

    def until(self, condition: Any, what: str, timeout: float = 300.0) -> None:
        """Wait for a condition.

        :raises RuntimeError: if it does not become true.
        """
        self.deployment.airflow.wait_for(condition, what, timeout, 0.2)


@contextmanager
def started(home: Path) -> Iterator[World]:
    """Start all parts, and stop them afterwards."""
    with ExitStack() as stack:
        apis = {
            use: stack.enter_context(Sandbox(invoices=INVOICES, seed=number, orgs=("unpod.tv",)))
            for number, use in enumerate(USES)
        }
        connections = {f"unpod_{use}": api.connection_json() for use, api in apis.items()}
        deployment = stack.enter_context(distributed(home, DAGS, connections, TMPDIR=str(TMPDIR)))
        world = World(deployment, apis)
        world.until(lambda: {*USES.values()} <= deployment.airflow.dags(), "the DAGs")
        # Changes that the first poll finds are not reported.
        world.until(lambda: world.requests("event") >= 5, "the event trigger to run")
        yield world
