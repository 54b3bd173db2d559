"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import settings

from airflow_provider_unpod.sandbox import pytest_plugin

if TYPE_CHECKING:
    import pytest

# In build/from-wheel the package is not in the tree (.ci/from-wheel), and these judge the tree.
if not (Path(__file__).parent.parent / "airflow_provider_unpod").exists():
    collect_ignore = ["test_architecture.py", "test_release.py"]

# CI judges a change, so it must judge the same change the same way twice; at the desk new examples are welcome.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("desk", deadline=None)
settings.register_profile("quick", deadline=None, max_examples=10)  # `make test` names it
settings.load_profile("ci" if os.environ.get("CI") else "desk")


def pytest_configure(config: pytest.Config) -> None:
    # Where the package is installed its entry point has brought the plugin already, under the same name.
    if not config.pluginmanager.is_registered(pytest_plugin):
        config.pluginmanager.register(pytest_plugin, "unpod_sandbox")
