"""Fixtures for the command line."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def _logging_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore logging and the environment, which a command configures for its process."""
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")
    root, airflow = logging.getLogger(), logging.getLogger("airflow")
    before = root.handlers[:], root.level, airflow.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    airflow.setLevel(before[2])
