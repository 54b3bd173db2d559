"""Writes results into the documentation, with the machine on which they were measured."""

from __future__ import annotations

import os
import platform
import re
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from benchmarks.environments import ROOT

RELIABILITY = ROOT / "docs" / "reliability.md"


def machine() -> str:
    """Date, machine and versions, without a full stop."""
    try:
        processor = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[0]
    except (OSError, IndexError):
        processor = platform.processor() or platform.machine()
    return (
        f"{datetime.now(timezone.utc):%Y-%m-%d}, {os.cpu_count()} CPUs ({processor}), {platform.system()}, "
        f"Python {platform.python_version()}, Airflow {version('apache-airflow')}"
    )


def replace_section(document: Path, program: str, text: str) -> None:
    """Put ``text`` between the marks of a program.

    :raises ValueError: if the document does not have both marks.
    """
    begin, end = f"<!-- Written by `python -m {program}`: -->", f"<!-- The end of what `{program}` writes. -->"
    before, first, rest = document.read_text(encoding="utf-8").partition(begin)
    _, second, after = rest.partition(end)
    if not (first and second):
        raise ValueError(f"{document} must contain the lines {begin} and {end}.")
    document.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")
