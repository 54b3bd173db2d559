"""One run of one contender against one server: its cost and its result."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.environments import HERE, ROOT, python_of
from benchmarks.server import ids, requests

if TYPE_CHECKING:
    from benchmarks.server import Server

#: Seconds after which a contender is stopped.
PATIENCE = 300
HUNG = -1


@dataclass(frozen=True)
class Contender:
    """A script of ``contenders/`` with its arguments, and the name it has in the tables."""

    name: str
    script: str
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Run:
    """The result of a run.

    :ivar status: exit status of the process; ``HUNG`` if it was stopped.
    :ivar requests: that reached the server.
    :ivar wall: seconds.
    :ivar cpu: seconds.
    :ivar memory: bytes, at the peak.
    :ivar missing: invoices that existed during the whole run and are not in the output.
    :ivar doubled: rows of the output that repeat an id.
    :ivar error: the last line of its standard error.
    """

    status: int
    requests: int
    wall: float
    cpu: float
    memory: int
    missing: int
    doubled: int
    error: str


def run(contender: Contender, server: Server) -> Run:
    """Have ``contender`` read the whole list of ``server`` once, in a fresh process."""
    python = python_of(contender.script)
    before, requests_before = set(server.call(ids)), server.call(requests)
    with tempfile.TemporaryDirectory(prefix="unpod-benchmark-") as folder:
        output, report = Path(folder, "output.jsonl"), Path(folder, "cost.json")
        script = HERE / "contenders" / f"{contender.script}.py"
        command = [python, str(script), server.url, str(output), str(report), *contender.arguments]
        try:
            process = subprocess.run(
                command, env=_environment(folder), capture_output=True, text=True, timeout=PATIENCE
            )
            status, error = process.returncode, process.stderr.strip().rpartition("\n")[2]
        except subprocess.TimeoutExpired:
            status, error = HUNG, ""
        cost = json.loads(report.read_text()) if report.exists() else {"wall": 0.0, "cpu": 0.0, "memory": 0}
        read = _ids(output) if output.exists() else []
    throughout = before & set(server.call(ids))
    return Run(
        status,
        server.call(requests) - requests_before,
        cost["wall"],
        cost["cpu"],
        int(cost["memory"]),
        len(throughout - set(read)),
        len(read) - len(set(read)),
        error,
    )


def _environment(folder: str) -> dict[str, str]:
    """The variables that a Python process needs, without settings of Airflow, dlt or Python."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": folder,
        "AIRFLOW_HOME": folder,
        "PYTHONPATH": str(ROOT),
        "NO_PROXY": "127.0.0.1",
    }


def _ids(output: Path) -> list[int]:
    """The ids in JSON lines of rows, or of Singer messages."""
    found = []
    with output.open(encoding="utf-8") as lines:
        for line in lines:
            message = json.loads(line)
            row = message.get("record", message)
            if "id" in row:
                found.append(row["id"])
    return found
