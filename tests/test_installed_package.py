"""Tests import the installed package, which is the wheel in CI, and never a checkout next to them."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from importlib.metadata import distribution
from pathlib import Path

import pytest

import airflow_provider_unpod

REPOSITORY = Path(__file__).resolve().parent.parent


def installed() -> Path:
    """The folder of the installed package: that of this tree where it is installed for development."""
    this = distribution("airflow-provider-unpod")
    origin = json.loads(this.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        return REPOSITORY / "airflow_provider_unpod"
    return Path(str(this.locate_file("airflow_provider_unpod"))).resolve()


def test_tests_and_the_processes_that_they_start_import_the_installed_package() -> None:
    code = "import airflow_provider_unpod; print(airflow_provider_unpod.__file__)"
    started = subprocess.check_output([sys.executable, "-c", code], cwd=REPOSITORY, text=True)

    assert {Path(file).resolve().parent for file in (airflow_provider_unpod.__file__, started)} == {installed()}


@pytest.mark.parametrize("category", [DeprecationWarning, PendingDeprecationWarning, FutureWarning])
def test_a_deprecated_call_of_this_package_fails_the_tests(category: type[Warning]) -> None:
    def call(module: str) -> None:
        warnings.warn_explicit("deprecated", category, "file.py", 1, module)

    with pytest.raises(category):
        call("airflow_provider_unpod.billing.client")
