"""Fixtures for all tests."""

from __future__ import annotations

# Users of the installed package get this plugin by its entry point.
pytest_plugins = ["airflow_provider_unpod.sandbox.pytest_plugin"]
