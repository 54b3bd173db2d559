"""The ``airflow`` command finds the provider, and tests a connection wherever it is stored."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airflow_provider_unpod import __version__
from airflow_provider_unpod.sandbox.runner import Sandbox

SECRETS_BACKEND = '''
import pathlib
from airflow.secrets import BaseSecretsBackend

class FileBackend(BaseSecretsBackend):
    """Connections from files named after them."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)

    def get_conn_value(self, conn_id, team_name=None):
        file = self.folder / conn_id
        return file.read_text() if file.exists() else None
'''

Airflow = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Airflow:
    """Runs ``airflow ...`` in an installation of its own, with a migrated database."""
    home = tmp_path_factory.mktemp("airflow")
    (home / "file_backend.py").write_text(SECRETS_BACKEND)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    inherited.pop("PYTHONDONTWRITEBYTECODE", None)
    base = {
        **inherited,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__SECRETS__BACKEND": "file_backend.FileBackend",
        "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps({"folder": str(home)}),
        "PYTHONPATH": str(home),
    }

    def run(*arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(Path(sys.executable).with_name("airflow")), *arguments],
            env={**base, **environment},
            capture_output=True,
            text=True,
        )
        if check and done.returncode:
            pytest.fail(f"airflow {arguments[0]} {arguments[1]}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    run("db", "migrate")
    return run


def test_airflow_lists_the_provider(airflow: Airflow) -> None:
    (shown,) = json.loads(airflow("providers", "get", "airflow-provider-unpod", "--output", "json").stdout)
    assert shown == {"Provider": "airflow-provider-unpod", "Version": __version__}


def test_airflow_lists_the_connection_type(airflow: Airflow) -> None:
    hooks = json.loads(airflow("providers", "hooks", "--output", "json").stdout)
    (ours,) = (hook for hook in hooks if hook["connection_type"] == "unpod")
    assert ours["conn_id_attribute_name"] == "unpod_conn_id"
    assert ours["hook_name"] == "Unpod"


@pytest.mark.parametrize("place", ["JSON variable", "URI variable", "database", "secrets backend"])
def test_a_connection_works_wherever_it_is_stored(
    airflow: Airflow, sandbox: Sandbox, tmp_path: Path, place: str
) -> None:
    conn_id = f"unpod_{place.replace(' ', '_').lower()}"
    variable = f"AIRFLOW_CONN_{conn_id.upper()}"
    environment = {}
    if place == "JSON variable":
        environment[variable] = sandbox.connection_json()
    elif place == "URI variable":
        environment[variable] = sandbox.connection_uri()
    elif place == "database":
        airflow("connections", "add", conn_id, "--conn-json", sandbox.connection_json())
    else:
        (tmp_path / conn_id).write_text(sandbox.connection_json())
        environment["AIRFLOW__SECRETS__BACKEND_KWARGS"] = json.dumps({"folder": str(tmp_path)})
    done = airflow("connections", "test", conn_id, **environment)
    assert "Connection success" in done.stdout
    assert sandbox.token not in done.stdout + done.stderr


def test_the_test_of_a_connection_with_a_wrong_token_fails(airflow: Airflow, sandbox: Sandbox) -> None:
    token = "tok-5EcReT-wrong"
    connection = {**json.loads(sandbox.connection_json()), "password": token}
    done = airflow("connections", "test", "unpod_wrong", check=False, AIRFLOW_CONN_UNPOD_WRONG=json.dumps(connection))
    assert "Connection failed" in done.stdout
    assert "401" in done.stdout + done.stderr
    assert token not in done.stdout + done.stderr
