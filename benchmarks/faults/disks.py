"""Two small disks that can be filled: file systems in memory, which only this program and its children see."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.environments import ROOT

#: The disk that the operator writes to, and ``$TMPDIR`` of the whole deployment.
DISK, TMPDIR = DISKS = (ROOT / "build" / "faults" / "disk", ROOT / "build" / "faults" / "tmpdir")
#: A full disk has so many bytes left: enough to create files, too few for an export or its temporary records.
LEFT = 16 * 1024
MOUNT = """
set -e
for disk in "$1" "$2"; do mount -t tmpfs -o size=8m,mode=1777 tmpfs "$disk"; done
shift 2
exec "$@"
"""


def commands() -> Iterator[list[str]]:
    """Commands that mount the disks for the command that follows, and run it as this user."""
    user, group = os.getuid(), os.getgid()
    mount = ["unshare", "--mount", "sh", "-c", MOUNT, "sh", *map(str, DISKS)]
    if user == 0:
        yield mount
    else:
        back = [f"--reuid={user}", f"--regid={group}", "--init-groups", "env", f"PATH={os.environ['PATH']}"]
        yield ["sudo", "-n", "-E", *mount, "setpriv", *back]
        # PostgreSQL does not run as root, not even as the root of a namespace.
        yield [mount[0], "--map-root-user", *mount[1:], "unshare", f"--map-user={user}", f"--map-group={group}"]


def mounting() -> list[str]:
    """Return the first of the commands that works on this machine.

    :raises RuntimeError: if none does. The message has the reason of each.
    """
    for disk in DISKS:
        disk.mkdir(parents=True, exist_ok=True)
    errors = []
    for command in commands():
        done = subprocess.run([*command, "true"], check=False, capture_output=True, text=True)
        if done.returncode == 0:
            return command
        errors.append(f"{command[0]}: {done.stderr.strip()}")
    raise RuntimeError(f"Run as root, or as a user who can mount file systems ({'; '.join(errors)}).")


def run_with_disks(module: str, arguments: list[str]) -> None:
    """Replace this process by one that runs the module, and sees the disks.

    :raises RuntimeError: if this machine does not let this user mount them.
    """
    command = [*mounting(), sys.executable, "-m", module, *arguments]
    os.execvp(command[0], command)


def fill(disk: Path) -> None:
    """Fill it but for ``LEFT`` bytes."""
    (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - LEFT))


def make_room(disk: Path) -> None:
    (disk / "ballast").unlink()
