"""Measures a contender in its own process, without its imports.

Standard library only, since contenders run in virtual environments of their own.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path


def peak_memory() -> int:
    """The peak memory of this process, in bytes.

    Not ``ru_maxrss`` on Linux, where a new process inherits the peak of the one that started it.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def cpu_seconds() -> float:
    """CPU seconds of this process so far, all threads, user and system."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def run(read: Callable[..., None]) -> None:
    """Call ``read(url, headers, output, *arguments)`` and write its cost to the file REPORT.

    The command line is ``URL OUTPUT REPORT [ARGUMENT ...]``; ``output`` is an open text file for JSON lines.
    An exception of ``read`` ends the process with status 1, as Python does.
    """
    url, output, report, *arguments = sys.argv[1:]
    headers = {"Authorization": "Token sandbox-token", "Org-Handle": "unpod.tv"}
    before = peak_memory()
    cpu, wall = cpu_seconds(), time.perf_counter()
    try:
        with Path(output).open("w", encoding="utf-8") as file:
            read(url, headers, file, *arguments)
    finally:
        cost = {
            "wall": time.perf_counter() - wall,
            "cpu": cpu_seconds() - cpu,
            "memory": peak_memory(),
            "memory_before": before,
        }
        Path(report).write_text(json.dumps(cost))
