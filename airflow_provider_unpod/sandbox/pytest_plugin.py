"""The pytest fixture ``unpod_sandbox``. Keep the imports light: every test session of a user loads this module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_unpod.sandbox.runner import Sandbox


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, so that ``--strict-markers`` accepts it."""
    config.addinivalue_line(
        "markers", "unpod_sandbox(**settings): settings of the fixture of this name, e.g. invoices=1000, dialect='data'"
    )


@pytest.fixture
def unpod_sandbox(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A new running sandbox for each test, with ``AIRFLOW_CONN_UNPOD_DEFAULT`` pointing to it.

    ``@pytest.mark.unpod_sandbox(invoices=1000)`` changes its settings.
    """
    try:
        from airflow_provider_unpod.sandbox.runner import Sandbox
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "aiohttp":
            raise
        pytest.fail("The fixture unpod_sandbox needs: pip install 'airflow-provider-unpod[sandbox]'", pytrace=False)
    marker = request.node.get_closest_marker("unpod_sandbox")
    with Sandbox(**(marker.kwargs if marker else {})) as sandbox:
        monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", sandbox.connection_json())
        yield sandbox
