"""The ``store`` fixture: every test that asks for it runs on a local folder, S3, Azure and GCS."""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import cache
from typing import TYPE_CHECKING

import pytest

from tests.integration.stores.servers import STORES, Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session")
def started_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Store]]:
    """A function that starts a store, or returns the started one: Airflow keeps a store's address for good."""
    before = dict(os.environ)
    with ExitStack() as started:

        @cache
        def start(name: str) -> Store:
            store = started.enter_context(STORES[name](tmp_path_factory.mktemp(name)))
            os.environ.update(store.environment)
            return store

        yield start
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(params=sorted(STORES))
def any_store(request: pytest.FixtureRequest, started_store: Callable[[str], Store]) -> Store:
    return started_store(request.param)


@pytest.fixture
def store(any_store: Store) -> Store:
    return any_store


@pytest.fixture
def folder(any_store: Store, request: pytest.FixtureRequest) -> str:
    """The address of a folder that no other test uses."""
    return any_store.address(f"{request.node.originalname}-{id(request)}")
