"""Confined workers: read-only root file system, unprivileged user, 2 MiB of temporary space."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_unpod.sandbox import Sandbox
from tests.integration.stores.servers import STORES, Store

SCRIPT = Path(__file__).with_name("confined.py")
#: Everything is read-only but a new, small file system; then the command, as another user without capabilities.
CONFINE = """
set -e
mount -t tmpfs -o size=2m,mode=1777 tmpfs "$TMPDIR"
cut -d' ' -f5 /proc/self/mountinfo | while read -r place; do
  case "$place" in /proc*|/sys*|/dev*|"$TMPDIR") ;; *) mount -o remount,bind,ro "$place" ;; esac
done
exec $AS_USER setpriv --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""


def nobody_can_run(python: str) -> bool:
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "test", "-x", os.path.realpath(python)]
    return subprocess.run(command, check=False).returncode == 0


def ways() -> Iterator[tuple[list[str], str]]:
    """Commands that make a mount namespace, each with the command that runs another as an unprivileged user."""
    user, group = os.getuid(), os.getgid()
    if user == 0:
        way = as_user if nobody_can_run(sys.executable) else named_user
        yield ["unshare", "--mount"], way(65534, 65534)
    else:
        yield ["sudo", "-n", "-E", "unshare", "--mount"], as_user(user, group)
        yield ["unshare", "--map-root-user", "--mount"], named_user(user, group)


def as_user(user: int, group: int) -> str:
    return f"setpriv --reuid={user} --regid={group} --clear-groups"


def named_user(user: int, group: int) -> str:
    """The files of the caller, such as an interpreter in root's own folder, are those of the user."""
    return f"unshare --user --map-user={user} --map-group={group}"


class Confinement:
    """Runs commands in a confined place.

    :ivar temporary: the only place that can be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        folder.chmod(0o755)
        self.errors: list[str] = []
        for namespace, as_user in ways():
            self._namespace, self._as_user = namespace, as_user
            done = self.run("touch", str(self.temporary / "probe"))
            if done.returncode == 0:
                return
            self.errors.append(f"{' '.join(namespace)}: {done.stderr.strip()[-300:]}")
        end = pytest.fail if os.environ.get("CI") else pytest.skip
        end(f"This machine lets nobody make a read-only file system ({'; '.join(self.errors)}).")

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment |= {"TMPDIR": str(self.temporary), "AS_USER": self._as_user}
        return subprocess.run(
            [*self._namespace, "sh", "-c", CONFINE, "sh", *command],
            env={**inherited, **environment},
            cwd="/",
            check=False,
            capture_output=True,
            text=True,
        )


@pytest.fixture
def confinement() -> Iterator[Confinement]:
    folder = Path(tempfile.mkdtemp(prefix="unpod-confined-"))
    try:
        yield Confinement(folder)
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[Store]:
    with STORES["s3"](tmp_path) as store:
        yield store


def test_a_confined_worker_exports_waits_and_names_the_folder_that_cannot_be_written(
    confinement: Confinement, s3: Store
) -> None:
    with Sandbox(invoices=250) as sandbox, Sandbox(invoices=40_000) as many:
        done = confinement.run(
            sys.executable,
            str(SCRIPT),
            s3.address("export").replace("//", f"//{s3.conn_id}@"),
            str(confinement.folder),
            AIRFLOW_HOME=str(confinement.temporary / "airflow"),
            AIRFLOW_CONN_UNPOD_DEFAULT=sandbox.connection_json(),
            AIRFLOW_CONN_UNPOD_MANY=many.connection_json(),
            **s3.environment,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])

    assert found["user"] != 0
    assert found["capabilities"].strip("0") == ""
    assert found["to XCom"] == found["to a store"] == ""
    assert found["read back"] == 250
    assert found["waits"] == ["paid", "paid"]
    assert str(confinement.folder) in found["to a read-only folder"]
    assert found["too many"].startswith("ExportError: `TMPDIR` must be a folder with space for all records as JSON")
    assert str(confinement.temporary) in found["too many"]
