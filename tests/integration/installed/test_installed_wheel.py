"""The built wheel works beside every claimed Airflow, installed as the README says, and replaces nothing there."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_unpod import __version__
from airflow_provider_unpod.sandbox import Sandbox
from tools.airflow_users import with_users
from tools.constraints import CONSTRAINTS, REPOSITORY, Release, releases
from tools.servers import end_group, free_port, wait_until

TOOLS = Path(sys.executable).parent
DAG = Path(__file__).parent / "dags" / "unpod_smoke.py"
#: Different ones for different releases, as far as they are there: each claimed Python is tried once.
PREFERRED = {"2.11": (3, 12), "3.1": (3, 10), "3.2": (3, 11), "3.3": (3, 13)}

#: Airflow 2's web server need not run to be asked for a page.
ASK_AIRFLOW_2 = """
from airflow.www.app import create_app
print(create_app(testing=True).test_client().get("/unpod/page").status_code)
"""


def run(command: list[str] | str, **options: Any) -> str:
    done = subprocess.run(
        command, shell=isinstance(command, str), capture_output=True, text=True, errors="replace", **options
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-5000:]}\n{done.stderr[-5000:]}"
    return done.stdout


def sent(url: str, body: Any = None, **headers: str) -> tuple[int, str]:
    """Return status and text of the response to a request."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def is_healthy(url: str) -> bool:
    try:
        return sent(f"{url}/api/v2/monitor/health")[0] == 200
    except OSError:
        return False


def python_for(release: Release) -> str:
    """Return a supported Python, preferably the given one."""
    for major, minor in (PREFERRED[release.minor], sys.version_info[:2], *release.pythons):
        name = f"python{major}.{minor}"
        # A name proves nothing: pyenv has one for every Python that it could run.
        if (major, minor) in release.pythons and shutil.which(name) and subprocess.call([name, "-c", ""]) == 0:
            return name
    pytest.fail(f"Airflow {release.version} needs one of the Pythons {release.pythons}.")


@pytest.fixture(scope="session")
def wheel_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run([str(TOOLS / "hatchling"), "build", "--target", "wheel", "--directory", str(folder)], cwd=REPOSITORY)
    return folder


class Installation:
    """Install Airflow under its constraints, without development tools, and this package."""

    def __init__(self, release: Release, folder: Path, wheels: Path) -> None:
        self.release = release
        self.folder = folder
        self.bin = folder / "venv" / "bin"
        constraints = CONSTRAINTS / f"airflow-{release.version}.txt"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
        self.environment = {
            **inherited,
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "AIRFLOW_HOME": str(folder / "home"),
        }
        uv = str(TOOLS / "uv")
        run([uv, "venv", "--quiet", "--seed", "--python", python_for(release), str(folder / "venv")])
        airflow = [f"apache-airflow=={release.version}", "--constraint", str(constraints)]
        run([uv, "pip", "install", "--quiet", "--python", str(self.bin / "python"), *airflow])
        self.before = self.packages()
        indexes = os.environ.get("PIP_FIND_LINKS", "")
        (line,) = re.findall(r"^pip install .*airflow-provider-unpod.*$", (REPOSITORY / "README.md").read_text(), re.M)
        run(
            line,
            cwd=folder,
            env={
                **self.environment,
                "AIRFLOW_VERSION": release.version,
                "CONSTRAINTS": str(constraints),
                "PIP_FIND_LINKS": f"{wheels} {indexes}".strip(),
            },
        )
        self.after = self.packages()

    def packages(self) -> set[str]:
        return set(run([str(self.bin / "python"), "-m", "pip", "freeze", "--all"]).split("\n"))

    def airflow(self, *arguments: str, **environment: str) -> str:
        command = [str(self.bin / "airflow"), *arguments]
        return run(command, cwd=self.folder, env={**self.environment, **environment}, timeout=600)

    @contextmanager
    def api_server(self) -> Iterator[str]:
        """Run the API server with a user of each role, and yield its address."""
        url = f"http://127.0.0.1:{free_port()}"
        environment = {
            **self.environment,
            **with_users(self.folder / "home"),
            "AIRFLOW__API__BASE_URL": url,
            "AIRFLOW__API_AUTH__JWT_SECRET": "of the smoke test, and long enough for every algorithm of them",
        }
        command = [str(self.bin / "airflow"), "api-server", "--host", "127.0.0.1", "--port", url.rpartition(":")[2]]
        with (self.folder / "api-server.log").open("wb") as log:
            server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_until(lambda: is_healthy(url) or server.poll() is not None, log.name, 180)
            assert server.poll() is None, log.name
            yield url
        finally:
            end_group(server)

    def results(self) -> dict[str, tuple[str, Any]]:
        """Return the state and return value of each task."""
        with closing(sqlite3.connect(self.folder / "home" / "airflow.db")) as database:
            states = dict(database.execute("select task_id, state from task_instance"))
            returned = dict(database.execute("select task_id, value from xcom where key = 'return_value'"))
        return {task: (state, returned.get(task)) for task, state in states.items()}


@pytest.fixture(scope="module", params=releases(), ids=lambda release: release.version)
def installation(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, wheel_folder: Path
) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp(f"airflow-{request.param.version}")
    yield Installation(request.param, folder, wheel_folder)
    shutil.rmtree(folder / "venv")


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


def pay_each_once_it_is_waited_for(sandbox: Sandbox, invoices: list[int]) -> None:
    """Pay invoice after invoice, each when two polls have found it unpaid after the payment before."""
    for invoice in invoices:
        wait_for_requests(sandbox, 2)
        sandbox.pay(invoice)


def wait_for_requests(sandbox: Sandbox, number: int) -> None:
    enough = sandbox.stats["requests"] + number
    wait_until(lambda: sandbox.stats["requests"] >= enough, f"{number} requests", 300)


def test_the_installation_command_in_the_readme_adds_this_package_and_replaces_no_other(
    installation: Installation,
) -> None:
    added = installation.after - installation.before
    assert installation.before - installation.after == set()
    assert {line for line in added if line.startswith("airflow-provider-unpod")} != set()
    constrained = (CONSTRAINTS / f"airflow-{installation.release.version}.txt").read_text()
    for line in added:
        name, _, version = line.partition("==")
        assert name.startswith("airflow-provider-unpod") or f"\n{name}=={version}" in constrained, added


def test_airflow_shows_the_provider(installation: Installation) -> None:
    printed = installation.airflow("providers", "get", "airflow-provider-unpod", "--output", "json")
    (shown,) = json.loads(printed[printed.index("[{") :])
    assert shown == {"Provider": "airflow-provider-unpod", "Version": __version__}


def test_every_component_works(installation: Installation, sandbox: Sandbox) -> None:
    home = installation.folder / "home"
    (home / "dags").mkdir(parents=True)
    shutil.copy(DAG, home / "dags")
    environment = {
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW_CONN_UNPOD_DEFAULT": sandbox.connection_json(),
        "UNPOD_SMOKE": str(installation.folder),
    }
    installation.airflow("db", "migrate", **environment)
    assert "Connection success" in installation.airflow("connections", "test", "unpod_default", **environment)
    installation.airflow("dags", "reserialize", **environment)
    waits = {mode: sandbox.create("1.00", "USD").id for mode in ("poke", "reschedule", "deferred")}

    def pay() -> None:
        wait_until((installation.folder / "export" / "_manifest.json").exists, "the export", 300)
        pay_each_once_it_is_waited_for(sandbox, list(waits.values()))

    threading.Thread(target=pay, daemon=True).start()
    printed = installation.airflow("dags", "test", "unpod_smoke", "--conf", json.dumps(waits), **environment)

    results = installation.results()
    assert {task: state for task, (state, _) in results.items() if state != "success"} == {}, printed[-5000:]
    count = len(sandbox.ledger.ids())
    assert int(results["hook"][1]) == int(results["read_back"][1]) == count
    for mode, invoice in waits.items():
        assert str(invoice) in str(results[mode][1])


def test_the_page_shows_the_export_to_an_administrator_and_nothing_to_strangers(installation: Installation) -> None:
    """Needs the run of the test before."""
    if installation.release.minor == "2.11":
        printed = run([str(installation.bin / "python"), "-c", ASK_AIRFLOW_2], env=installation.environment)
        assert printed.split()[-1] == "404"
        return
    with installation.api_server() as url:
        token = json.loads(sent(f"{url}/auth/token", {"username": "admin", "password": "admin"})[1])["access_token"]
        status, page = sent(f"{url}/unpod/page", Authorization=f"Bearer {token}")
        assert sent(f"{url}/unpod/page")[0] == 401

    assert status == 200
    assert "Unpod Billing" in page
    assert f"{installation.folder}/export" in page
