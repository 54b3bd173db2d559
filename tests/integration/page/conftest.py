"""Airflow's API server with users of every role, and a database in which two DAGs have run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest

from airflow_provider_unpod.links import has_page
from airflow_provider_unpod.sandbox import Sandbox
from tools.airflow_users import with_users
from tools.local_airflow import LocalAirflow

BASE = "/base/path"
EVIL = '"><script>alert(1)</script>'


class Response(NamedTuple):
    status: int
    headers: Any
    text: str


class PageServer(LocalAirflow):
    """Only the API server, behind a base URL with a path; tasks ran before it was started."""

    components: ClassVar = {"api-server": ["api-server"]}

    def __init__(self, home: Path, sandbox: Sandbox, **environment: str) -> None:
        self.exports = home / "exports"
        here = Path(__file__).parent
        super().__init__(
            home,
            here / "dags",
            connections=None,
            UNPOD_EXPORTS=f"file://{self.exports}",
            UNPOD_PAID=str(next(one.id for one in sandbox.ledger.invoices() if one.status == "paid")),
            AIRFLOW_CONN_UNPOD_DEFAULT=sandbox.connection_json(),
            AIRFLOW__CORE__TEST_CONNECTION="Enabled",
            AIRFLOW__CORE__AUTH_MANAGER="partial_auth.PartialAuthManager",
            **with_users(home, partial="op"),
            **environment,
        )
        self.environment["PYTHONPATH"] += f"{os.pathsep}{here / 'auth'}"
        self.environment["AIRFLOW__API__BASE_URL"] = self.url + BASE
        self._tokens: dict[str, str] = {}

    def run_dags(self) -> None:
        """Create the database and run the DAGs. The server need not run."""
        done = subprocess.run(
            [sys.executable, "-c", _PREPARE], env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def healthy(self) -> bool:
        try:
            return self.send("GET", f"{BASE}/api/v2/monitor/health").status == 200
        except OSError:
            return False

    def token(self, user: str | None = None) -> str:
        """A token of a user, as the login form gets one; everything is below the path of the base URL."""
        role = user or "admin"
        if role not in self._tokens:
            found = self.send("POST", f"{BASE}/auth/token", {"username": role, "password": role})
            self._tokens[role] = json.loads(found.text)["access_token"]
        return self._tokens[role]

    def send(
        self, method: str, path: str, body: Any = None, *, form: dict[str, str] | None = None, **headers: str
    ) -> Response:
        """One request, errors included."""
        data = None
        if form is not None:
            data = urllib.parse.urlencode(form).encode()
        elif body is not None:
            data, headers = json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with _DIRECT.open(request, timeout=60) as response:
                return Response(response.status, response.headers, response.read().decode())
        except urllib.error.HTTPError as error:
            return Response(error.code, error.headers, error.read().decode())

    def page(self, role: str | None, path: str = "/page", **more: Any) -> Response:
        """A request to the page, as the browser of a user sends it: with Airflow's cookie. ``None``: of a stranger."""
        cookie = {"Cookie": f"_token={self.token(role)}"} if role else {}
        method = more.pop("method", "POST" if "form" in more else "GET")
        return self.send(method, f"{BASE}/unpod{path}", **{**cookie, **more})

    def rest(self, role: str, method: str, path: str, body: Any = None) -> Any:
        """A request to Airflow's public API."""
        found = self.send(method, f"{BASE}/api/v2{path}", body, Authorization=f"Bearer {self.token(role)}")
        assert found.status < 300, found
        return json.loads(found.text or "null")


#: Several commands in one process: most of the time of each is the import of Airflow.
_PREPARE = """
from airflow.cli.cli_parser import get_parser
for command in ("db migrate", "dags reserialize", "dags test page_first", "dags test page_second"):
    arguments = get_parser().parse_args(command.split())
    arguments.func(arguments)
"""

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    if not has_page():
        pytest.skip("the page needs Airflow 3.1")
    with Sandbox(token="tok-s3cReT-of-the-page", invoices=50) as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, sandbox: Sandbox) -> Iterator[PageServer]:
    server = PageServer(tmp_path_factory.mktemp("page"), sandbox)
    server.run_dags()
    with server:
        connection = {**json.loads(sandbox.connection_json()), "connection_id": "unpod_saved", "description": EVIL}
        server.rest("admin", "POST", "/connections", connection)
        broken = {
            "connection_id": "evil",
            "conn_type": "unpod",
            "host": "http://127.0.0.1:1",
            "login": EVIL,
            "password": "pw-s3cReT",
        }
        server.rest("admin", "POST", "/connections", broken)
        other = {"connection_id": "other", "conn_type": "sqlite", "host": ":memory:"}
        server.rest("admin", "POST", "/connections", other)
        yield server


@pytest.fixture(scope="session")
def server_without_tests(
    tmp_path_factory: pytest.TempPathFactory, sandbox: Sandbox, server: PageServer
) -> Iterator[PageServer]:
    """A second API server on the same database, which does not test connections."""
    database = server.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    other = PageServer(tmp_path_factory.mktemp("without-tests"), sandbox, AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=database)
    other.environment["AIRFLOW__CORE__TEST_CONNECTION"] = "Disabled"
    # Forms of the first server are valid here, too: a refusal has another reason.
    other.environment["AIRFLOW__API__SECRET_KEY"] = server.environment["AIRFLOW__API__SECRET_KEY"]
    with other:
        yield other


def links_of(html: str) -> list[str]:
    """The addresses of the reports on the page, relative to the page's prefix."""
    return re.findall(rf'href="{BASE}/unpod(/dags/[^"]+)"', html)
