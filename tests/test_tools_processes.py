"""The tools of a clone stop every process that they have started, and start and kill the parts that a user names."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools import local_postgres
from tools.distributed import Component, DistributedAirflow
from tools.local_airflow import REPOSITORY, LocalAirflow
from tools.local_postgres import LocalPostgres
from tools.parts import obey
from tools.servers import Server, free_port, wait_until

#: A tool with a server and an Airflow whose components have a child each, and end once a file is there.
TOOL = """
import os, signal, subprocess, sys
from pathlib import Path
from tools.local_airflow import LocalAirflow
from tools.servers import Server, end_at_signals, free_port

class SlowToEnd(LocalAirflow):
    def _airflow(self, *command): pass
    def _add_connections_and_pool(self): pass
    def _health(self): return {"up": True}
    def healthy(self): return True
    def _start(self, name, command):
        ends = "touch $AIRFLOW_HOME/$0-ends; until [ -e $AIRFLOW_HOME/may-end ]; do sleep 0.05; done; exit"
        script = f"sleep 1000 & trap '{ends}' TERM; touch $AIRFLOW_HOME/$0; wait"
        return subprocess.Popen(["bash", "-c", script, name], env=self.environment, start_new_session=True)

home = Path(sys.argv[1])
os.environ["AIRFLOW_HOME"] = str(home)  # marks the server's process as well
end_at_signals()
port = free_port()
with Server([sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)], port):
    with SlowToEnd(home, home) as airflow:
        airflow.wait_for(lambda: all((home / name).exists() for name in airflow.components), "the components")
        print("up", flush=True)
        if "waits" in sys.argv:
            signal.pause()
        print("stopping", flush=True)
"""


def run_until_up(home: Path, mode: str) -> subprocess.Popen[str]:
    tool = subprocess.Popen(
        [sys.executable, "-c", TOOL, str(home), mode],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert tool.stdout is not None
    assert tool.stdout.readline() == "up\n"
    return tool


def send_while_it_stops(tool: subprocess.Popen[str], home: Path, *signals: str) -> None:
    wait_until(lambda: any(home.glob("*-ends")), "the first component to end")
    for name in signals:
        tool.send_signal(signal.Signals[name])
    (home / "may-end").touch()


@pytest.mark.parametrize("signals", ["SIGHUP", "SIGTERM SIGHUP", "SIGINT SIGINT"])
def test_a_closed_terminal_or_an_impatient_ctrl_c_leaves_no_process_behind(tmp_path: Path, signals: str) -> None:
    tool = run_until_up(tmp_path, "waits")
    assert len(LocalAirflow(tmp_path, tmp_path).left_behind()) >= 9  # four components with a child each, a server

    first, *others = signals.split()
    tool.send_signal(signal.Signals[first])
    send_while_it_stops(tool, tmp_path, *others)

    tool.wait(30)
    assert LocalAirflow(tmp_path, tmp_path).left_behind() == []


def test_ctrl_c_while_a_tool_stops_by_itself_leaves_no_process_behind(tmp_path: Path) -> None:
    tool = run_until_up(tmp_path, "stops")
    assert tool.stdout is not None
    assert tool.stdout.readline() == "stopping\n"

    send_while_it_stops(tool, tmp_path, "SIGINT")

    assert tool.wait(30) == -signal.SIGINT
    assert LocalAirflow(tmp_path, tmp_path).left_behind() == []


class Sleeping(DistributedAirflow):
    """The supervisor of `make distributed`, with components that only sleep."""

    def __init__(self, home: Path) -> None:
        super().__init__(home, home, _NoPostgres(), "redis://nowhere")

    def __enter__(self) -> Sleeping:
        self._components = {name: self._start(name, []) for name in ("worker-1", "worker-2")}
        self._supervisor.start()
        return self

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["sleep", "1000"], env=self.environment, start_new_session=True)


class _NoPostgres(LocalPostgres):
    def __init__(self) -> None:
        self.port = 1
        self.user = "nobody"

    def create_database(self, name: str) -> None:
        pass


@pytest.fixture
def sleeping(tmp_path: Path) -> Iterator[Sleeping]:
    with Sleeping(tmp_path) as airflow:
        yield airflow
    assert airflow.left_behind() == []


def kill_by_process_id(airflow: Sleeping, name: str) -> None:
    """Kill a component behind the supervisor's back, and wait until it runs again."""
    first = airflow.pid_of(name)
    subprocess.run(["kill", "-9", str(first)], check=True)
    wait_until(lambda: airflow.is_running(name) and airflow.pid_of(name) != first, "another process", 10)


def test_a_worker_that_a_user_kills_by_name_stays_down_until_it_is_started(sleeping: Sleeping) -> None:
    parts = {name: Component(sleeping, name) for name in ("worker-1", "worker-2")}

    assert obey("kill worker-1", parts).split() == ["worker-1", "down"]
    for _ in range(2):  # between the two, the supervisor has looked at all components
        kill_by_process_id(sleeping, "worker-2")
    assert obey("parts", parts).split() == ["worker-1", "down", "worker-2", str(parts["worker-2"].pid)]
    obey("start worker-1", parts)
    assert parts["worker-1"].pid in sleeping.left_behind()


def test_a_worker_that_is_killed_by_its_process_id_is_started_again(sleeping: Sleeping) -> None:
    kill_by_process_id(sleeping, "worker-1")
    assert sleeping.pid_of("worker-1") in sleeping.left_behind()


def test_restart_kills_a_server_and_starts_it_on_the_same_port() -> None:
    port = free_port()
    with Server([sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)], port) as server:
        first = server.pid

        printed = obey("restart store", {"store": server})

        assert server.pid not in (None, first)
        assert printed.split() == ["store", str(server.pid)]
        assert obey("start store", {"store": server}) == printed  # it runs already


def test_a_command_with_a_wrong_name_prints_the_commands_and_the_names() -> None:
    parts = {"redis": Server([], 0), "store": Server([], 0)}

    for typed in ("kill worker", "stop redis", "kill", "help"):
        printed = obey(typed, parts)
        assert "restart NAME" in printed
        assert "redis, store" in printed
    assert obey("\n", parts) == ""


def test_postgresql_s_client_alone_is_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_postgres, "_DEBIAN", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    client = tmp_path / "17" / "bin"
    client.mkdir(parents=True)
    (client / "psql").touch()
    with pytest.raises(RuntimeError, match="apt-get install --no-install-recommends postgresql"):
        LocalPostgres()

    for version in ("9.6", "15"):
        server = tmp_path / version / "bin"
        server.mkdir(parents=True)
        (server / "initdb").touch()
    assert local_postgres._programs() == tmp_path / "15" / "bin"
