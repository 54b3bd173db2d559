"""The built wheel works beside every claimed Airflow, installed as the README says, and replaces nothing there."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_unpod import __version__
from airflow_provider_unpod.sandbox import Sandbox
from tools.airflow_users import with_users
from tools.constraints import CONSTRAINTS, REPOSITORY, Release, releases
from tools.local_airflow import COMPONENTS, LocalAirflow, sqlite_url
from tools.servers import end_group, free_port, wait_until

TOOLS = Path(sys.executable).parent
DAG = Path(__file__).parent / "dags" / "unpod_smoke.py"
#: Different ones for different releases, as far as they are there: each claimed Python is tried once.
PREFERRED = {"2.11": (3, 12), "3.1": (3, 10), "3.2": (3, 11), "3.3": (3, 13)}

AIRFLOW_2_COMPONENTS = ("triggerer", "scheduler")
#: Of a deprecation that Python or Airflow's log blames on this package.
DEPRECATION = re.compile(r"^(?=.*airflow_provider_unpod/).*(?:Deprecat|Future)\w*Warning.*$", re.M)

#: Airflow 2's web server need not run to be asked for a page.
ASK_AIRFLOW_2 = """
from airflow.www.app import create_app
print(create_app(testing=True).test_client().get("/unpod/page").status_code)
"""


def completed(command: list[str] | str, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, shell=isinstance(command, str), capture_output=True, text=True, errors="replace", **options
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-5000:]}\n{done.stderr[-5000:]}"
    return done


def run(command: list[str] | str, **options: Any) -> str:
    return completed(command, **options).stdout


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
    """Install Airflow under its constraints, without development tools, and this package.

    :ivar printed: the output of all commands so far.
    """

    def __init__(self, release: Release, folder: Path, wheels: Path, sandbox: Sandbox) -> None:
        self.release = release
        self.folder = folder
        self.home = folder / "home"
        self.bin = folder / "venv" / "bin"
        self.printed = ""
        self.components: dict[str, subprocess.Popen[bytes]] = {}
        constraints = CONSTRAINTS / f"airflow-{release.version}.txt"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
        self.environment = {
            **inherited,
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "PYTHONWARNINGS": "default",  # deprecations are printed, see DEPRECATION
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": sqlite_url(self.home),
            "AIRFLOW_CONN_UNPOD_DEFAULT": sandbox.connection_json(),
            "AIRFLOW_CONN_SMOKE_DB": json.dumps({"conn_type": "sqlite", "host": str(folder / "smoke.db")}),
            "UNPOD_SMOKE": str(folder),
        }
        uv = str(TOOLS / "uv")
        run([uv, "venv", "--quiet", "--seed", "--python", python_for(release), str(folder / "venv")])
        # Before the package, as a deployment has the provider of its database.
        airflow = [f"apache-airflow=={release.version}", "apache-airflow-providers-sqlite"]
        installed_into = ["--quiet", "--python", str(self.bin / "python"), "--constraint", str(constraints)]
        run([uv, "pip", "install", *installed_into, *airflow])
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

    def airflow(self, *arguments: str) -> str:
        return self.command("airflow", *arguments)

    def command(self, program: str, *arguments: str) -> str:
        """Run a program of the installation, and return its standard output."""
        command = [str(self.bin / program), *arguments]
        done = completed(command, cwd=self.folder, env=self.environment, timeout=600)
        self.printed += done.stdout + done.stderr
        return done.stdout

    @property
    def logs(self) -> str:
        """All output of Airflow's components and tasks."""
        return "".join(log.read_text(errors="replace") for log in self.home.rglob("*.log"))

    def start(self, stack: ExitStack) -> str:
        """Run all components, with a user of each role, until ``stack`` is closed. Return the API server's address."""
        # `dags test` leaves the trigger of its wait, which the triggerer would run. As SQLite uses ids again, its event
        # could end another wait.
        with closing(sqlite3.connect(self.home / "airflow.db")) as database:
            database.execute("delete from trigger where classpath like '%.UnpodInvoiceTrigger'")
            database.commit()
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        environment = {
            **self.environment,
            **with_users(self.home),
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__BASE_URL": url,
            "AIRFLOW__API_AUTH__JWT_SECRET": "of the smoke test, and long enough for every algorithm of them",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        }
        for name in AIRFLOW_2_COMPONENTS if self.release.minor == "2.11" else COMPONENTS:
            command = [str(self.bin / "airflow"), *COMPONENTS[name]]
            with (self.home / f"{name}.log").open("wb") as log:
                process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
            self.components[name] = process
            # Not killed, since Airflow 2's scheduler has a child in a process group of its own, which it ends itself.
            stack.callback(end_group, process, signal.SIGTERM)
            if name == "api-server":
                self.wait_until(lambda: is_healthy(url), "the API server")
        return url

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for ``condition``, and fail if a component ends meanwhile."""

        def ended() -> list[str]:
            return [name for name, process in self.components.items() if process.poll() is not None]

        wait_until(lambda: condition() or ended(), f"{what}; logs are in {self.home}", 300, interval=1)
        assert ended() == [], f"logs are in {self.home}"

    def query(self, statement: str, *values: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"file:{self.home / 'airflow.db'}?mode=ro", uri=True, timeout=60)) as database:
            return database.execute(statement, values).fetchall()

    def states(self, dag_id: str) -> dict[str, str]:
        """Return the state of each task."""
        return dict(self.query("select task_id, state from task_instance where dag_id = ?", dag_id))

    def results(self, dag_id: str) -> dict[str, Any]:
        """Return the return value of each task."""
        statement = "select task_id, value from xcom where dag_id = ? and key = 'return_value'"
        return dict(self.query(statement, dag_id))


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture(scope="module", params=releases(), ids=lambda release: release.version)
def installation(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, wheel_folder: Path, sandbox: Sandbox
) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp(f"airflow-{request.param.version}")
    yield Installation(request.param, folder, wheel_folder, sandbox)
    shutil.rmtree(folder / "venv")


@pytest.fixture(scope="module")
def url(installation: Installation) -> Iterator[str]:
    """The address of the API server of a running Airflow. Needs the database of the DAG's run."""
    with ExitStack() as stack:
        yield installation.start(stack)
    marked = LocalAirflow(installation.home, installation.home)
    wait_until(lambda: marked.left_behind() == [], "the end of all processes")


def pay_each_once_it_is_waited_for(sandbox: Sandbox, invoices: list[int]) -> None:
    """Pay invoice after invoice, each after two requests, i.e. polls of waits and watchers, since the one before."""
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
    (installation.home / "dags").mkdir(parents=True)
    shutil.copy(DAG, installation.home / "dags")
    installation.airflow("db", "migrate")
    assert "Connection success" in installation.airflow("connections", "test", "unpod_default")
    installation.airflow("dags", "reserialize")
    waits = {mode: sandbox.create("1.00", "USD").id for mode in ("poke", "reschedule", "deferred")}

    def pay() -> None:
        wait_until((installation.folder / "export" / "_manifest.json").exists, "the export", 300)
        pay_each_once_it_is_waited_for(sandbox, list(waits.values()))

    threading.Thread(target=pay, daemon=True).start()
    printed = installation.airflow("dags", "test", "unpod_smoke", "--conf", json.dumps(waits))

    states = installation.states("unpod_smoke")
    assert {task: state for task, state in states.items() if state != "success"} == {}, printed[-5000:]
    results = installation.results("unpod_smoke")
    count = len(sandbox.ledger.ids())
    assert int(results["hook"]) == int(results["read_back"]) == count
    with closing(sqlite3.connect(installation.folder / "smoke.db")) as books:
        assert books.execute("select count(*) from invoices").fetchone() == (count,)
    assert '"agrees": true' in str(results["reconcile"])
    for mode, invoice in waits.items():
        assert str(invoice) in str(results[mode])


def test_the_commands_verify_the_export(installation: Installation) -> None:
    export = installation.folder / "export"
    fingerprint = hashlib.sha256((export / "_manifest.json").read_bytes()).hexdigest()
    assert fingerprint in installation.command("python", "-m", "airflow_provider_unpod", "verify", str(export))
    if installation.release.minor == "3.3":
        assert fingerprint in installation.airflow("unpod", "verify", str(export))


def test_a_triggerer_ends_a_wait_and_starts_a_dag(installation: Installation, sandbox: Sandbox, url: str) -> None:
    parsed = "select 1 from serialized_dag where dag_id = 'unpod_smoke_triggerer'"
    installation.wait_until(lambda: installation.query(parsed), "the DAG")
    invoice = sandbox.create("1.00", "USD").id
    installation.airflow("dags", "trigger", "unpod_smoke_triggerer", "--conf", json.dumps({"triggerer": invoice}))

    def state() -> str | None:
        return installation.states("unpod_smoke_triggerer").get("triggerer")

    installation.wait_until(lambda: state() == "deferred", "the deferral")
    pay_each_once_it_is_waited_for(sandbox, [invoice])
    installation.wait_until(lambda: state() in ("success", "failed"), "the end of the wait")
    assert state() == "success"
    assert str(invoice) in str(installation.results("unpod_smoke_triggerer")["triggerer"])
    if installation.release.minor == "2.11":
        return

    tasks = "select 1 from task_instance where dag_id = 'unpod_smoke_watcher'"

    def reported() -> bool:
        if not installation.query(tasks):
            sandbox.create(status="paid")  # again and again, as the first poll of a watcher reports nothing
        return bool(installation.query(f"{tasks} and state in ('success', 'failed')"))

    installation.wait_until(reported, "a run that the watcher has started")
    assert ":paid:" in str(installation.results("unpod_smoke_watcher")["changed"])  # the keys of payments


def test_the_page_shows_the_export_to_an_administrator_and_nothing_to_strangers(
    installation: Installation, url: str
) -> None:
    if installation.release.minor == "2.11":
        printed = installation.command("python", "-c", ASK_AIRFLOW_2)
        assert printed.split()[-1] == "404"
        return
    token = json.loads(sent(f"{url}/auth/token", {"username": "admin", "password": "admin"})[1])["access_token"]
    status, page = sent(f"{url}/unpod/page", Authorization=f"Bearer {token}")
    assert sent(f"{url}/unpod/page")[0] == 401
    assert status == 200
    assert "Unpod Billing" in page
    assert f"{installation.folder}/export" in page


def test_in_all_that_no_deprecated_function_was_called(installation: Installation) -> None:
    assert "Warning" in installation.printed  # Python shows those of others
    assert DEPRECATION.findall(installation.printed + installation.logs) == []
