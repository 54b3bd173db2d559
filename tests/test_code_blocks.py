"""Every code block of the README and of docs/ runs as it stands, imports included."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import airflow
import pytest
from _pytest.mark import ParameterSet

from airflow_provider_unpod.cli import main as cli
from airflow_provider_unpod.export import write_export
from airflow_provider_unpod.export.options import ExportOptions
from airflow_provider_unpod.hooks.unpod import UnpodHook
from airflow_provider_unpod.sandbox import Sandbox
from airflow_provider_unpod.sandbox import cli as sandbox_cli
from tests.code_blocks import REPOSITORY, Block, blocks

BLOCKS = blocks()
SHELLS = ("bash", "console")
#: Folders that pages name, below one that a test may write to, and what is in them.
EXPORTS = {
    "data/unpod/acme": ExportOptions(file_format="parquet"),
    "data/unpod/2026-02": ExportOptions(),
    "data/unpod/monday": ExportOptions(),
    "data/unpod/tuesday": ExportOptions(file_format="csv"),
    "invoices": ExportOptions(file_format="parquet", partition_by=("currency", "month")),
}
#: What `make` would do is only planned, and the sandbox is at another port than its own.
PRELUDE = """
set -euo pipefail
make() { command make -n -C "$REPOSITORY" "$@" > /dev/null; }
python() {
  case "$*" in "-m airflow_provider_unpod.sandbox "*) set -- "$@" --port "$SANDBOX_PORT" ;; esac
  "$PYTHON" "$@"
}
"""
PROCESSES = r"python -m|\ndef test_"
MOST_NOT_RUN = 6


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("exports")
    with Sandbox(invoices=120) as sandbox, pytest.MonkeyPatch.context() as patched:
        patched.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", sandbox.connection_json())
        for folder, options in EXPORTS.items():
            (root / folder).parent.mkdir(parents=True, exist_ok=True)
            about = {"organization": sandbox.org_handle, "source": sandbox.url}
            with UnpodHook().iter_invoices() as reading:
                write_export(reading, root / folder, options=options, about=about)
    return root


@pytest.fixture
def folder(exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of a block."""
    shutil.copytree(exports, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_python(source: str, folder: Path, sandbox: Sandbox) -> None:
    if "\ndef test_" in f"\n{source}":
        (folder / "test_block.py").write_text(source)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_block.py"]
        subprocess.run(command, check=True, cwd=folder)
    else:
        exec(compile(source, "block", "exec"), {"__name__": "block"})


def run_shell(source: str, folder: Path, sandbox: Sandbox) -> None:
    settings = {"REPOSITORY": str(REPOSITORY), "SANDBOX_PORT": str(sandbox.port), "PYTHON": sys.executable}
    subprocess.run(["bash", "-c", PRELUDE + source], check=True, cwd=folder, env={**os.environ, **settings})


def run_sql(source: str, folder: Path, sandbox: Sandbox) -> None:
    duckdb = pytest.importorskip("duckdb")
    assert duckdb.connect().execute(source).fetchall()


def run_json(source: str, folder: Path, sandbox: Sandbox) -> None:
    json.loads(source)


RUNNERS: dict[str, Callable[[str, Path, Sandbox], None]] = {
    "python": run_python,
    "bash": run_shell,
    "console": run_shell,
    "sql": run_sql,
    "json": run_json,
}


def runnable() -> list[ParameterSet]:
    """Return the blocks to run. Those that start our command line or pytest need seconds."""
    blocks = [one for one in BLOCKS if one.mark in ("", "airflow-3") and one.language != "text"]
    return [
        pytest.param(one, id=str(one), marks=[pytest.mark.slow] if re.search(PROCESSES, one.source) else [])
        for one in blocks
    ]


@pytest.mark.parametrize("block", runnable())
@pytest.mark.unpod_sandbox(today=date(2026, 7, 1))
def test_a_code_block_of_the_documentation_runs_as_it_stands(
    block: Block, folder: Path, unpod_sandbox: Sandbox
) -> None:
    if block.mark == "airflow-3" and airflow.__version__.startswith("2."):
        pytest.skip("for Airflow 3")
    source = re.sub("/(data|tmp)/", rf"{folder}/\1/", block.commands)

    RUNNERS[block.language](source, folder, unpod_sandbox)


@pytest.mark.parametrize("block", [one for one in BLOCKS if one.language in SHELLS], ids=str)
def test_the_commands_of_a_block_can_be_parsed(block: Block) -> None:
    """Those of our own command lines by their parsers, also where a block is not run."""
    subprocess.run(["bash", "-n"], input=block.commands, text=True, check=True)
    for line in block.commands.splitlines():
        words = shlex.split(line, comments=True)
        words = words[: next((place for place, word in enumerate(words) if word in (">", "|", "&&")), None)]
        if words[:2] == ["python", "-m"]:
            parser_of(words[2], words[3:]).parse_args(words[3:])


def parser_of(module: str, arguments: list[str]) -> argparse.ArgumentParser:
    if module == "airflow_provider_unpod":
        return cli.parser()
    assert module == "airflow_provider_unpod.sandbox"
    controls = arguments and arguments[0] in sandbox_cli.COMMANDS
    return sandbox_cli._client_parser() if controls else sandbox_cli._server_parser()


def test_every_block_names_its_language_and_few_are_not_run() -> None:
    assert [str(one) for one in BLOCKS if one.language not in {*RUNNERS, "text"}] == []
    marked = [one for one in BLOCKS if one.mark]
    assert [str(one) for one in marked if not one.mark.startswith(("airflow-3", "database", "no-run: "))] == []
    assert len([one for one in marked if one.mark.startswith("no-run")]) <= MOST_NOT_RUN
