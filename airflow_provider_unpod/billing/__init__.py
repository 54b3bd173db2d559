"""A Python client of the Unpod billing API. It does not need Airflow.

The public names below are imported on first use. Airflow parses DAG files every few seconds, so importing a trigger
must not import the HTTP client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_unpod.billing.client import UnpodClient
    from airflow_provider_unpod.billing.errors import (
        UnpodAuthError,
        UnpodBadAnswer,
        UnpodBadRequest,
        UnpodBadRows,
        UnpodConfigError,
        UnpodError,
        UnpodInvoiceNotFound,
        UnpodListUnstable,
        UnpodOrganizationNotFound,
        UnpodRateLimited,
        UnpodUnavailable,
        UnpodUnreachable,
    )
    from airflow_provider_unpod.billing.http.retry import RetryPolicy
    from airflow_provider_unpod.billing.invoice import Invoice
    from airflow_provider_unpod.billing.reading.reading import Reading, read_list

_MODULES = {
    "Invoice": "invoice",
    "Reading": "reading.reading",
    "RetryPolicy": "http.retry",
    "UnpodAuthError": "errors",
    "UnpodBadAnswer": "errors",
    "UnpodBadRows": "errors",
    "UnpodBadRequest": "errors",
    "UnpodClient": "client",
    "UnpodConfigError": "errors",
    "UnpodError": "errors",
    "UnpodInvoiceNotFound": "errors",
    "UnpodListUnstable": "errors",
    "UnpodOrganizationNotFound": "errors",
    "UnpodRateLimited": "errors",
    "UnpodUnavailable": "errors",
    "UnpodUnreachable": "errors",
    "read_list": "reading.reading",
}

__all__ = [
    "Invoice",
    "Reading",
    "RetryPolicy",
    "UnpodAuthError",
    "UnpodBadAnswer",
    "UnpodBadRequest",
    "UnpodBadRows",
    "UnpodClient",
    "UnpodConfigError",
    "UnpodError",
    "UnpodInvoiceNotFound",
    "UnpodListUnstable",
    "UnpodOrganizationNotFound",
    "UnpodRateLimited",
    "UnpodUnavailable",
    "UnpodUnreachable",
    "read_list",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
