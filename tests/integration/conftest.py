"""One real Airflow 3 for all tests of a session, with a sandbox that it bills against."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from airflow_provider_unpod.sandbox import Sandbox
from tools.local_airflow import LocalAirflow

REPOSITORY = Path(__file__).resolve().parents[2]
AIRFLOW_3 = int(version("apache-airflow").partition(".")[0]) >= 3


class LiveAirflow(LocalAirflow):
    """A running Airflow and its sandbox.

    Its DAGs are those of ``example_dags/`` and of ``tests/integration/dags/``. All its processes have the connection
    ``unpod_default`` to the sandbox, which all tests share: each creates the invoices that it changes.
    """

    def __init__(self, home: Path, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        dags = home / "dags"
        for source in (REPOSITORY / "example_dags", REPOSITORY / "tests" / "integration" / "dags"):
            if source.exists():
                shutil.copytree(source, dags, dirs_exist_ok=True)
        super().__init__(
            home,
            dags,
            AIRFLOW_CONN_UNPOD_DEFAULT=sandbox.connection_json(),
            AIRFLOW__LOGGING__LOGGING_LEVEL="DEBUG",  # what must not be logged must not be logged at any level
            UNPOD_EXPORTS=f"file://{home}/exports",
            UNPOD_BOOKS=f"file://{home}/books",
        )


@pytest.fixture(scope="session")
def live_airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveAirflow]:
    """A real Airflow 3: scheduler, DAG processor, triggerer, API server."""
    if not AIRFLOW_3:
        pytest.skip("Airflow 2 has no scheduler that runs on SQLite in reasonable time; DAGs are run by dag.test() there")
    with Sandbox(token="tok-s3cReT-of-the-live-airflow") as sandbox:
        with LiveAirflow(tmp_path_factory.mktemp("live"), sandbox) as airflow:
            yield airflow
        assert airflow.left_behind() == []
