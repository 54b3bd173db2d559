"""``make airflow``: Airflow with the example DAGs and the sandbox, until Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
import time
from pathlib import Path

from airflow_provider_unpod.sandbox import Sandbox
from tools.local_airflow import REPOSITORY, example_airflow

OUTPUT = REPOSITORY / ".demo"
#: As of ``make sandbox``, so that its commands need no ``--port``.
SANDBOX_PORT = 3001

GREETING = """
Airflow   {airflow}   (no login; only this machine reaches it)
Sandbox   {sandbox}   in place of Unpod, as connection unpod_default
Files     {output}

Start unpod_wait_for_payment in Airflow; it waits for invoice 101. In another terminal:

  {python} -m airflow_provider_unpod.sandbox pay 101

Then unpod_wait_for_payment goes on and starts unpod_book_payment, and the asset watcher starts unpod_on_paid.
Ctrl-C stops everything."""


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with Sandbox(port=SANDBOX_PORT) as sandbox, tempfile.TemporaryDirectory(prefix="unpod-airflow-") as home:
            print("Starting Airflow and the sandbox; this takes about half a minute ...", flush=True)
            with example_airflow(Path(home), sandbox, OUTPUT, AIRFLOW__CORE__TEST_CONNECTION="Enabled") as airflow:
                airflow.wait_for(airflow.dags, "the example DAGs to be parsed")
                python = Path(sys.executable)
                with contextlib.suppress(ValueError):
                    python = python.relative_to(REPOSITORY)
                print(
                    GREETING.format(airflow=airflow.url, sandbox=sandbox.url, output=OUTPUT, python=python), flush=True
                )
                while True:
                    time.sleep(5)
                    airflow.healthy()  # raises when a component has ended
    except KeyboardInterrupt:
        print("\nStopped.")
        return 0
    except OSError as error:
        print(f"Port {SANDBOX_PORT} cannot be used ({error}); does `make sandbox` run?", file=sys.stderr)
    except RuntimeError as error:
        print(error, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
