"""Fixtures for all tests."""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from airflow_provider_unpod.sandbox import pytest_plugin
from tests.odd_server import TOKEN, odd_server

# In build/from-wheel the package is not in the tree (.ci/from-wheel), and these judge the tree.
if not (Path(__file__).parent.parent / "airflow_provider_unpod").exists():
    collect_ignore = ["test_architecture.py", "test_release.py"]

DEPRECATIONS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)

# CI judges a change, so it must judge the same change the same way twice; at the desk new examples are welcome.
settings.register_profile("all", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.register_profile("quick", settings.get_profile("all"), max_examples=10)  # `make test` names it
settings.load_profile("all")


def pytest_configure(config: pytest.Config) -> None:
    # Where the package is installed its entry point has brought the plugin already, under the same name.
    if not config.pluginmanager.is_registered(pytest_plugin):
        config.pluginmanager.register(pytest_plugin, "unpod_sandbox")


@contextmanager
def own_deprecations_raised() -> Iterator[None]:
    """Raise each deprecation that the package has called, directly or by one function of a library.

    A filter sees only the module that a warning is attributed to, which may be the library. What libraries call deeper
    down is theirs to mend.
    """
    shown = warnings.showwarning

    def show(message: Any, category: type[Warning], *place: Any) -> None:
        names = [str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_stack(sys._getframe(1))]
        callers = [name for name in names if name.partition(".")[0] not in ("warnings", "importlib")]
        is_ours = any(name.startswith("airflow_provider_unpod.") for name in callers[:3])
        if is_ours and issubclass(category, DEPRECATIONS):
            raise message
        shown(message, category, *place)

    warnings.showwarning = show  # type: ignore[assignment]  # takes any place
    try:
        yield
    finally:
        warnings.showwarning = shown


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    with own_deprecations_raised():  # imports are deprecated, too
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, Any, Any]:
    with own_deprecations_raised():
        return (yield)


@pytest.fixture(scope="module")
def odd_connection() -> Iterator[str]:
    """A connection to a server that repeats the token in its responses, as JSON."""
    with odd_server() as server:
        yield json.dumps(
            {"conn_type": "unpod", "host": "127.0.0.1", "schema": "http", "port": server.port, "password": TOKEN}
        )
