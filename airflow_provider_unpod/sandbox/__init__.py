"""A local stand-in for the Unpod billing API, for testing DAGs. It is not Unpod and not for production.

From a shell: ``python -m airflow_provider_unpod.sandbox``. From Python::

    from airflow_provider_unpod.sandbox import Sandbox

    with Sandbox(invoices=1_000) as sandbox:
        print(sandbox.url, sandbox.connection_json())

It needs the extra ``sandbox`` (aiohttp). :class:`~.ledger.Ledger`, the list without HTTP, does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_unpod.sandbox.runner import Sandbox

__all__ = ["Sandbox"]


def __getattr__(name: str) -> Any:
    # Imported on first use, because every test session of a user imports this package for its pytest plugin.
    if name == "Sandbox":
        from airflow_provider_unpod.sandbox.runner import Sandbox

        return Sandbox
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
