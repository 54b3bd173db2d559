"""The Test button of Airflow 3.3's UI, for a connection that was saved with its form."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.conftest import AIRFLOW_3

if TYPE_CHECKING:
    from tests.integration.conftest import LiveAirflow

pytestmark = pytest.mark.skipif(not AIRFLOW_3, reason="Airflow 2.11's form has a Test button of its own")

Press = Callable[..., dict[str, Any]]


def scheduled_runs_have_ended(airflow: LiveAirflow) -> bool:
    runs = airflow.runs()
    return {"unpod_month_close", "unpod_overdue"} <= {run["dag_id"] for run in runs} and all(
        run["state"] in ("success", "failed") for run in runs
    )


@pytest.fixture
def press_test(live_airflow: LiveAirflow) -> Iterator[Press]:
    """Saves a connection, and sends what the UI sends when its Test button is pressed in the list of connections."""
    saved_ids: list[str] = []
    # Asked for connections, the API server first imports the hooks of all providers. Where those of the stores are
    # installed that takes a minute, in which it answers nobody: supervisors kill the tasks that run meanwhile.
    live_airflow.wait_for(lambda: scheduled_runs_have_ended(live_airflow), "the scheduled runs to end")

    def press(**fields: Any) -> dict[str, Any]:
        connection = {"connection_id": f"form_{os.urandom(4).hex()}", "conn_type": "unpod", **fields}
        live_airflow.api("POST", "/connections", connection)
        saved_ids.append(connection["connection_id"])
        saved = live_airflow.api("GET", f"/connections/{connection['connection_id']}")
        texts = {name: saved[name] or "" for name in ("description", "host", "login", "password", "schema")}
        body = {
            "connection_id": saved["connection_id"],
            "conn_type": saved["conn_type"],
            **texts,
            "extra": saved["extra"] or "{}",
            "port": int(saved["port"] or 0),  # JavaScript's Number(null)
        }
        assert body["password"] != live_airflow.sandbox.token  # masked: Airflow uses the one that it has saved
        result: dict[str, Any] = live_airflow.api("POST", "/connections/test", body)
        return result

    yield press
    for conn_id in saved_ids:
        live_airflow.api("DELETE", f"/connections/{conn_id}")


def test_a_connection_with_host_handle_token_and_port_is_tested(live_airflow: LiveAirflow, press_test: Press) -> None:
    sandbox = live_airflow.sandbox
    tested = press_test(host=sandbox.url, login=sandbox.org_handle, password=sandbox.token, port=sandbox.port)
    assert tested["status"], tested
    assert tested["message"] == f"Connected to {sandbox.url} as organization {sandbox.org_handle!r}."


def test_a_wrong_field_is_named_by_its_label_and_without_the_transient_connection_id(
    live_airflow: LiveAirflow, press_test: Press
) -> None:
    sandbox = live_airflow.sandbox
    tested = press_test(host=f"{sandbox.url}/api", login=sandbox.org_handle, password=sandbox.token, port=sandbox.port)
    assert not tested["status"]
    assert tested["message"].startswith("Host (`host`) must be the address alone, without a path")
    assert "onnection" not in tested["message"]


def test_the_form_asks_for_a_port_because_airflow_refuses_the_test_without_one(
    live_airflow: LiveAirflow, press_test: Press
) -> None:
    """If this fails, Airflow has fixed its Test button, and the form no longer needs the port."""
    sandbox = live_airflow.sandbox
    with pytest.raises(RuntimeError, match=r"400.*host or port to test differs"):
        press_test(host=sandbox.url, login=sandbox.org_handle, password=sandbox.token)
