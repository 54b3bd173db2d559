"""The sandbox in a process of its own, and a way to read its ledger, which is the truth about the list.

``python -m benchmarks.server SETTINGS`` (JSON, as :class:`~airflow_provider_unpod.sandbox.settings.Settings`) writes
its URL, and then responds to each line of its input with a line of JSON, until the input ends.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any


class Server:
    """Runs that process: ``with Server(invoices=1_000) as server``."""

    def __init__(self, **settings: Any) -> None:
        self._settings = {"end": "empty", "seed": 1, **settings}

    def __enter__(self) -> Server:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.server", json.dumps(self._settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.url: str = self._read()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.communicate()

    def ask(self, command: str) -> Any:
        """``ids`` (all, in list order), ``requests`` (made of the API so far) or ``create`` (a new invoice's id)."""
        assert self._process.stdin
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("The benchmark's server ended; its errors are above.")
        return json.loads(line)


def main() -> None:
    from airflow_provider_unpod.sandbox import Sandbox

    with Sandbox(**json.loads(sys.argv[1])) as sandbox:
        commands: dict[str, Callable[[], Any]] = {
            "ids": sandbox.ledger.ids,
            "requests": lambda: sandbox.stats["requests"],
            "create": lambda: sandbox.create().id,
        }
        print(json.dumps(sandbox.url), flush=True)
        for command in sys.stdin:
            print(json.dumps(commands[command.strip()]()), flush=True)


if __name__ == "__main__":
    main()
