"""Fixtures for all tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_unpod.sandbox import pytest_plugin

if TYPE_CHECKING:
    import pytest


def pytest_configure(config: pytest.Config) -> None:
    # Where the package is installed its entry point has brought the plugin already, under the same name.
    if not config.pluginmanager.is_registered(pytest_plugin):
        config.pluginmanager.register(pytest_plugin, "unpod_sandbox")
