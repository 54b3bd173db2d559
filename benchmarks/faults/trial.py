"""One fault, from its beginning to the results."""

from __future__ import annotations

import re
import time
from typing import Any

from benchmarks.faults.causes import Cause, nothing
from benchmarks.faults.deployment import READERS, SENSORS, TASKS, USES, WAITERS, World
from benchmarks.faults.disks import DISK
from benchmarks.faults.judge import delivered, files_of, wrong, wrong_export

#: Each use has sent so many requests into a fault before it ends.
MET = 2
FINISHED = ("success", "failed")
#: How slow an API is until the fault begins in the middle of its requests. Below the timeout of a request.
SLOW = "delay:seconds=20"


class Trial:
    """A running trial with its fault and its results.

    :ivar cells: by use what became of it, as the table says it.
    :ivar wrong: by use what is wrong with its result.
    :ivar missed: the operator ended before the fault that only it can meet.
    """

    def __init__(self, world: World, cause: Cause) -> None:
        self._world, self._cause, self._airflow = world, cause, world.deployment.airflow
        name = re.sub(r"\W+", "-", cause.name).strip("-")
        base = f"file://{DISK}" if cause.name == "disk full" else self._airflow.environment["UNPOD_EXPORTS"]
        self._output = f"{base}/{name}"
        self._failed: dict[str, int] = {}  # and on which try
        self.cells: dict[str, str] = {}
        self.wrong: dict[str, str] = {}
        self.missed = False

    def run(self) -> None:
        """
        :raises RuntimeError: if Airflow does not come to an end.
        """
        world, cause = self._world, self._cause
        self._wait_in_every_mode()
        if cause.midway:
            self._request_everything()
        before = {use: world.requests(use) for use in USES}
        cause.begin(world)
        if not cause.midway:
            self._read()
        for use in WAITERS:
            world.apis[use].pay(self._invoices[use])
        if cause.seconds:
            world.until(lambda: all(world.state(use) == "running" for use in READERS), "hook and operator to begin")
            time.sleep(cause.seconds)
        elif cause.end is not nothing:
            world.until(lambda: all(self._has_met(use, before[use]) for use in cause.meets), "all to meet the fault")
        self.missed = cause.meets == ("operator",) and world.state("operator") == "success"
        self._nothing_half_written()
        cause.end(world)
        self._come_to_an_end()
        self.wrong |= wrong(world, self._output, self._invoices)
        self.cells = {use: self._cell(use) for use in USES}

    # --- its steps

    def _wait_in_every_mode(self) -> None:
        world = self._world
        self._invoices = {use: world.apis[use].create().id for use in WAITERS}
        before = world.requests("event")
        world.runs["wait"] = self._airflow.trigger("wait", conf=self._invoices)
        waiting = {"poke": "running", "reschedule": "up_for_reschedule", "deferrable": "deferred"}
        world.until(lambda: all(world.state(use) == state for use, state in waiting.items()), "the sensors to wait")
        world.until(lambda: world.requests("poke") and world.requests("event") >= before + MET, "both to poll")

    def _read(self) -> None:
        self._world.runs["read"] = self._airflow.trigger("read", conf={"output": self._output})

    def _request_everything(self) -> None:
        """Start hook and operator, and wait until each use that can meet the fault has a request under way."""
        world, uses = self._world, self._cause.meets
        before = {use: world.requests(use) for use in uses}
        for use in uses:
            world.apis[use].faults(SLOW)
        self._read()
        world.until(
            lambda: all(world.requests(use) > before[use] and world.apis[use].stats["in_flight"] for use in uses),
            "each use to have a request under way",
        )
        for use in uses:
            world.apis[use].faults()

    def _has_met(self, use: str, before: int) -> bool:
        """Return whether a use has met the fault: it tried at least twice, or it has failed."""
        world = self._world
        if self._cause.meets == ("operator",):
            return world.state(use) in ("up_for_retry", *FINISHED)
        return world.requests(use) >= before + MET or (use in TASKS and world.state(use) in FINISHED)

    def _come_to_an_end(self) -> None:
        for dag_id, run_id in self._world.runs.items():
            self._end(dag_id, run_id)
        self._world.until(lambda: delivered(self._world, self._invoices["event"]), "the payment to be delivered")

    def _end(self, dag_id: str, run_id: str) -> None:
        """Wait until the run succeeds. Clear failed tasks, as a person would."""
        self._world.until(lambda: self._ended(dag_id, run_id), f"{dag_id} to end", 900)
        tasks = self._airflow.tasks(dag_id, run_id)
        failed = {task["task_id"]: int(task["try_number"]) for task in tasks if task["state"] == "failed"}
        if failed:
            self._failed |= failed
            self._nothing_half_written()
            body = {"dry_run": False, "only_failed": True, "dag_run_id": run_id}
            self._airflow.api("POST", f"/dags/{dag_id}/clearTaskInstances", body)
            self._world.until(lambda: self._ended(dag_id, run_id), f"{dag_id} to end when cleared", 900)

    def _nothing_half_written(self) -> None:
        """Check that a failed try has left no manifest, unless it was killed after a complete export."""
        if self._world.state("operator") in ("up_for_retry", "failed"):
            manifest = "_manifest.json" in files_of(self._world, self._output)
            if manifest and (problem := wrong_export(self._world, self._output)):
                self.wrong["operator"] = f"half written: {problem}"

    def _ended(self, dag_id: str, run_id: str) -> bool:
        try:
            return self._airflow.run(dag_id, run_id)["state"] in FINISHED
        except (OSError, RuntimeError):  # the database restarts
            return False

    def _cell(self, use: str) -> str:
        if use in self.wrong:
            return f"**wrong: {self.wrong[use]}**"
        if use not in self._cause.meets:
            return "-"
        if use == "event":
            times = len(delivered(self._world, self._invoices[use]))
            return "delivered once" if times == 1 else f"delivered {times} times, under one key"
        task: dict[str, Any] = self._world.task(use)
        if use in self._failed:
            return f"failed on try {self._failed[use]}; right once cleared"
        return f"right, try {task['try_number']}"


def title(use: str) -> str:
    """The column of a use."""
    return f"sensor, {use}" if use in SENSORS else {"event": "event trigger"}.get(use, use)
