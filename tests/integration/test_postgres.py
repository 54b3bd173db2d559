"""A real PostgreSQL can store everything that tasks and triggers give to Airflow.

Needs PostgreSQL's programs and the dependency group ``services``; without them these tests fail.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_unpod.sandbox import Sandbox
from airflow_provider_unpod.task_boundary import storable
from tests.integration.conftest import AIRFLOW_3, LiveAirflow
from tools.local_postgres import LocalPostgres

#: JSON as an API may send it: Python's parser accepts U+0000, unpaired surrogates and integers of any length.
TEXTS = st.text(st.one_of(st.sampled_from("ab\x00\ud800\udfff'\\$"), st.characters()), max_size=6)
VALUES = st.recursive(
    st.one_of(TEXTS, st.none(), st.booleans(), st.integers(), st.integers(2**62, 2**70)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=30,
)


@pytest.fixture(scope="module")
def server() -> Iterator[LocalPostgres]:
    with LocalPostgres() as running:
        yield running


@pytest.fixture(scope="module")
def stored(server: LocalPostgres) -> Iterator[Callable[[Any], Any]]:
    """Stores a value in a jsonb column, and returns it as it is read back."""
    import psycopg2

    with closing(psycopg2.connect(server.url())) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("create table stored (value jsonb)")

        def store(value: Any) -> Any:
            cursor.execute("insert into stored values (%s) returning value::text", (json.dumps(value),))
            return json.loads(cursor.fetchone()[0])

        yield store


@pytest.mark.parametrize("text", ["AC\x00ME", "\ud83d", "\udcb6\ud83d"])
def test_postgresql_refuses_the_text_itself(stored: Callable[[Any], Any], text: str) -> None:
    import psycopg2

    with pytest.raises(psycopg2.DataError, match=r"(?i)unicode"):
        stored({"name": text})


@settings(max_examples=500, deadline=None)
@given(VALUES)
def test_postgresql_stores_whatever_has_become_storable(stored: Callable[[Any], Any], value: Any) -> None:
    logging.getLogger(storable.__module__).setLevel(logging.ERROR)  # a warning for each replacement
    kept = storable(value)

    assert stored(kept) == kept


@pytest.mark.skipif(not AIRFLOW_3, reason="needs Airflow 3 for its live components")
def test_the_triggerer_survives_an_invoice_with_u_0000(server: LocalPostgres, tmp_path: Path) -> None:
    server.create_database("airflow")
    connections = {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": server.url("airflow", "postgresql+psycopg2"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": server.url("airflow", "postgresql+asyncpg"),
    }
    with Sandbox() as sandbox, LiveAirflow(tmp_path / "airflow", sandbox, **connections) as airflow:
        bad = sandbox.create(extra={"customer": "AC\x00ME", "big": 2**70}).id
        good = sandbox.create().id
        airflow.wait_for(lambda: "wait_for_many" in airflow.dags(), "the DAGs")
        run_id = airflow.trigger("wait_for_many", conf={"invoices": [bad, good]})
        airflow.wait_for(
            lambda: [task["state"] for task in airflow.tasks("wait_for_many", run_id)].count("deferred") == 2,
            "both waits to be deferred",
            180,
        )

        sandbox.pay(bad)
        sandbox.pay(good)
        airflow.finished("wait_for_many", run_id, 180)

        records = [airflow.result("wait_for_many", run_id, "wait", index) for index in range(2)]
        assert [(one["id"], one["status"]) for one in records] == [(bad, "paid"), (good, "paid")]
        assert (records[0]["customer"], records[0]["big"]) == ("AC\ufffdME", str(2**70))
        assert airflow.healthy()
