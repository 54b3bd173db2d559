"""The code blocks of the documentation that need Airflow's database run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.code_blocks import blocks
from tests.integration.conftest import AirflowCommand

BLOCKS = [block for block in blocks() if block.mark == "database"]
PAGES = sorted({block.page for block in BLOCKS})


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_that_need_a_database_run_in_their_order(
    page: str, airflow_command: AirflowCommand, tmp_path: Path
) -> None:
    """A block in Python is a file of the DAG folder, under the name that the page gives it."""
    (tmp_path / "dags").mkdir()
    path = f"{Path(sys.executable).parent}:{airflow_command.environment['PATH']}"
    for block in BLOCKS:
        if block.page == page and block.language == "python":
            (tmp_path / "dags" / "test_my_dag.py").write_text(block.source)
        elif block.page == page:
            script = "set -e\n" + re.sub("/tmp/", f"{tmp_path}/", block.commands)
            environment = {**airflow_command.environment, "PATH": path}
            subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, check=True)
