"""One running Airflow 3 for all tests of this folder, with the example DAGs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import pytest

from airflow_provider_unpod.sandbox import Sandbox
from tests.integration.conftest import AIRFLOW_3, LiveAirflow


@pytest.fixture(scope="session")
def live_airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveAirflow]:
    """A real Airflow 3: scheduler, DAG processor, triggerer, API server."""
    if not AIRFLOW_3:
        pytest.skip("needs Airflow 3: on Airflow 2 the DAGs are run one by one, by `airflow dags test`")
    # A fixed date, because tests name months of 2026.
    with Sandbox(token="tok-s3cReT-of-the-live-airflow", today=date(2026, 7, 1)) as sandbox:
        with LiveAirflow(tmp_path_factory.mktemp("live"), sandbox) as airflow:
            yield airflow
        assert airflow.left_behind() == []
