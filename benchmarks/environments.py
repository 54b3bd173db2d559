"""Virtual environments of the peers, created once from pinned versions."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
ENVIRONMENTS = ROOT / ".venv-benchmarks"


def python_of(contender: str) -> str:
    """The Python that runs a contender: this one, or that of its virtual environment if it has requirements.

    :raises subprocess.CalledProcessError: if these cannot be installed.
    """
    requirements = HERE / "requirements" / f"{contender}.txt"
    if not requirements.exists():
        return sys.executable
    environment = ENVIRONMENTS / contender
    python = environment / "bin" / "python"
    installed = environment / "installed.txt"  # a changed pin recreates the environment
    if not installed.exists() or installed.read_text() != requirements.read_text():
        print(f"Installing {contender} into {environment.relative_to(ROOT)} ...", file=sys.stderr, flush=True)
        uv = _uv()
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, environment], check=True)
        subprocess.run(
            [uv, "pip", "install", "--quiet", "--compile-bytecode", "-r", requirements],
            check=True,
            env={**os.environ, "VIRTUAL_ENV": str(environment)},
        )
        installed.write_text(requirements.read_text())
    return str(python)


def _uv() -> str:
    beside = Path(sys.executable).parent / "uv"
    return str(beside) if beside.exists() else shutil.which("uv") or "uv"
