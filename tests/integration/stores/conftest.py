"""The ``store`` fixture: every test that asks for it runs on a local folder, S3, Azure and GCS."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.integration.stores.servers import STORES, Store

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", params=sorted(STORES))
def any_store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with STORES[request.param](tmp_path_factory.mktemp(request.param)) as store:
        before = dict(os.environ)
        os.environ.update(store.environment)
        yield store
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def store(any_store: Store) -> Store:
    return any_store


@pytest.fixture
def folder(any_store: Store, request: pytest.FixtureRequest) -> str:
    """The address of a folder that no other test uses."""
    return any_store.address(f"{request.node.originalname}-{id(request)}")
