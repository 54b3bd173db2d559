"""Runs a PostgreSQL server in a temporary folder, on 127.0.0.1. The folder is deleted at the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from tools.servers import STARTUP_TIMEOUT, end_group, free_port, uninterrupted, wait_until

#: Where Debian keeps the server's programs, which are not on PATH.
_DEBIAN = Path("/usr/lib/postgresql")
#: Reached by this machine alone; what it holds need not survive a power cut.
_OPTIONS = ("-h", "127.0.0.1", "-k", "/tmp", "-c", "fsync=off")


class LocalPostgres:
    """A server; a context manager.

    PostgreSQL refuses to run as root, so root runs it as the user ``postgres`` of Debian's package.

    :raises RuntimeError: if no server is installed, with the command that installs one; or if it does not start.
    """

    def __init__(self) -> None:
        self._programs = _programs()
        self._as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        self.port = free_port()
        self.user = "postgres"
        self._folder = Path(tempfile.mkdtemp(prefix="unpod-postgres-"))
        self._server: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres", driver: str = "postgresql") -> str:
        """Return the URL of a database. It needs no password and is only reachable from this machine."""
        return f"{driver}://{self.user}@127.0.0.1:{self.port}/{database}"

    def connection(self, database: str) -> str:
        """Return the Airflow connection to a database as JSON."""
        return json.dumps(
            {"conn_type": "postgres", "host": "127.0.0.1", "port": self.port, "login": self.user, "schema": database}
        )

    @property
    def pid(self) -> int | None:
        """The process id of the server; ``None`` while it does not run."""
        if self._server is None or self._server.poll() is not None:
            return None
        return int((self._data / "postmaster.pid").read_text().split()[0])  # the process is of `runuser`, for root

    def __enter__(self) -> LocalPostgres:
        try:
            self._make_cluster()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        with uninterrupted():
            self.stop()
            shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start or restart the server, and wait until it responds."""
        command = [str(self._programs / "postgres"), "-D", str(self._data), "-p", str(self.port), *_OPTIONS]
        with (self._folder / "server.log").open("ab") as log, uninterrupted():
            self._server = subprocess.Popen([*self._as_user, *command], stdout=log, stderr=log, start_new_session=True)
        wait_until(self._responds, "PostgreSQL to start", STARTUP_TIMEOUT)

    def stop(self) -> None:
        """Stop the server and close all connections. It may be called more than once."""
        with uninterrupted():
            if self._server is not None:
                # The whole group: `runuser` does not pass signals on.
                end_group(self._server, signal.SIGINT)
                self._server = None

    def kill(self) -> None:
        """Abort the server without a shutdown. What was committed is there after the next start."""
        # Not SIGKILL: the next start fails while one of the server's processes still exists, which this awaits.
        self._run("pg_ctl", "stop", "-m", "immediate", "-D", str(self._data), check=False)
        self.stop()

    def create_database(self, name: str) -> None:
        """Create an empty database."""
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", self.user, name)

    def _responds(self) -> bool:
        assert self._server is not None
        if self._server.poll() is not None:
            raise RuntimeError(f"PostgreSQL did not start: {(self._folder / 'server.log').read_text()[-2000:]}")
        return self._run("pg_isready", "-h", "127.0.0.1", "-p", str(self.port), check=False) == 0

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _make_cluster(self) -> None:
        if self._as_user:
            shutil.chown(self._folder, "postgres")
        self._run("initdb", "-D", str(self._data), "-U", self.user, "-A", "trust", "-E", "UTF8", "--no-sync")

    def _run(self, program: str, *arguments: str, check: bool = True) -> int:
        done = subprocess.run(
            [*self._as_user, str(self._programs / program), *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd="/",
        )
        if check and done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr[-2000:]}")
        return done.returncode


def _programs() -> Path:
    """The folder with the server's programs."""
    # The package of the client alone makes such a folder, too.
    versions = [program.parent for program in _DEBIAN.glob("*/bin/initdb")]
    if versions:
        return max(versions, key=lambda folder: float(folder.parent.name))
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    raise RuntimeError("PostgreSQL is not installed. On Debian: apt-get install --no-install-recommends postgresql")
