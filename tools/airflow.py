"""``make airflow``: Airflow with the example DAGs and the sandbox, until Ctrl-C."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from airflow_provider_unpod.get_provider_info import FIELD_BEHAVIOUR, HOOK_NAME
from airflow_provider_unpod.sandbox import Sandbox
from tools.local_airflow import REPOSITORY, example_airflow, start_nightly_books, this_python
from tools.servers import end_at_signals

OUTPUT = REPOSITORY / ".demo"
#: The default port of ``make sandbox``, so that its commands need no ``--port``.
SANDBOX_PORT = 3001

GREETING = """
Airflow   {airflow}   (no login; only this machine reaches it)
Sandbox   {sandbox}   stands in for Unpod
Files     {output}

Airflow has the connection unpod_default to the sandbox: Admin > Connections. To make another, fill in:

{form}

unpod_monthly_export has exported last month. Trigger it again under Dags, or unpod_all_organizations, which exports all
invoices. Browse > Unpod Billing shows the exports and their reports.

Trigger unpod_wait_for_payment. It waits for invoice 101, which is pending. In another terminal, pay it:

  {python} -m airflow_provider_unpod.sandbox pay 101

unpod_wait_for_payment then ends and starts unpod_book_payment, and the asset watcher starts unpod_on_paid.
Ctrl-C stops everything."""


def main() -> int:
    end_at_signals()
    try:
        with Sandbox(port=SANDBOX_PORT) as sandbox, tempfile.TemporaryDirectory(prefix="unpod-airflow-") as home:
            print("Starting Airflow and the sandbox; this takes about half a minute ...", flush=True)
            with example_airflow(Path(home), sandbox, OUTPUT, AIRFLOW__CORE__TEST_CONNECTION="Enabled") as airflow:
                start_nightly_books(airflow)
                print(greeting(airflow.url, sandbox), flush=True)
                while True:
                    time.sleep(5)
                    airflow.healthy()  # raises when a component has ended
    except KeyboardInterrupt:
        print("\nStopped.")
        return 0
    except OSError as error:
        print(f"Cannot use port {SANDBOX_PORT} ({error}). Is `make sandbox` running? Stop it first.", file=sys.stderr)
    except RuntimeError as error:
        print(error, file=sys.stderr)
    return 1


def greeting(airflow_url: str, sandbox: Sandbox) -> str:
    """The addresses, the values for the connection form, and what to try first."""
    return GREETING.format(
        airflow=airflow_url, sandbox=sandbox.url, output=OUTPUT, python=this_python(), form=connection_form(sandbox)
    )


def connection_form(sandbox: Sandbox) -> str:
    """The fields of Airflow's connection form, under the labels that it shows, and their values for a sandbox."""
    labels = FIELD_BEHAVIOUR["relabeling"]
    others = ", ".join(handle for handle in sandbox.ledgers if handle != sandbox.org_handle)
    fields = {
        "Connection Type": HOOK_NAME,
        "Host": "http://127.0.0.1",
        labels["login"]: f"{sandbox.org_handle}   (or {others})",
        labels["password"]: sandbox.token,
        labels["port"]: str(sandbox.port),
    }
    width = max(map(len, fields))
    return "\n".join(f"  {label.ljust(width)}   {value}" for label, value in fields.items())


if __name__ == "__main__":
    sys.exit(main())
