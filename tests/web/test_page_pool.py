"""While the page waits for a slow API, it holds no connection to Airflow's database: there are few."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from airflow.models import import_all_models
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from airflow_provider_unpod.links import has_page

if not has_page():
    pytest.skip("the page needs Airflow 3.1", allow_module_level=True)

from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api import security
from airflow.models import Connection
from airflow.providers.common.compat.sdk import conf
from fastapi.testclient import TestClient

from airflow_provider_unpod.web import app as page_app
from airflow_provider_unpod.web.connections import form_token


class Everybody:
    """A user, and an auth manager that allows everything."""

    def get_id(self) -> str:
        return "somebody"

    def __getattr__(self, name: str) -> Any:
        return lambda **_: True


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Any]:
    import_all_models()
    engine = create_engine(f"sqlite:///{tmp_path}/airflow.db", poolclass=QueuePool)
    Connection.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Connection(conn_id="slow", conn_type="unpod", host="https://unpod.example", login="acme"))
        session.commit()
    yield engine
    engine.dispose()


def test_a_slow_test_of_a_connection_holds_no_connection_to_the_database(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []

    def slow(conn_id: str) -> tuple[bool, str]:
        held.append(engine.pool.checkedout())
        return True, "Connected."

    def session() -> Iterator[Session]:
        with Session(engine) as opened:
            yield opened

    monkeypatch.setenv("AIRFLOW__CORE__TEST_CONNECTION", "Enabled")
    monkeypatch.setattr(page_app, "_test_connection", slow)
    for module in (page_app, security):
        monkeypatch.setattr(module, "get_auth_manager", Everybody)
    monkeypatch.setattr(Connection, "get_team_name", lambda conn_id: None)
    app = page_app.create_app()
    app.dependency_overrides[get_args(SessionDep)[1].dependency] = session
    app.dependency_overrides[security.get_user] = Everybody
    token = form_token(conf.get("api", "secret_key"), "somebody", "slow")

    response = TestClient(app).post("/connections/slow/test", data={"token": token})

    assert response.status_code == 200, response.text
    assert "Connected." in response.text
    assert held == [0]
    assert engine.pool.checkedout() == 0
