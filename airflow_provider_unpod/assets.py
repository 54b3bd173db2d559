"""The asset of an organization's billing data: ``unpod://<organization handle>/billing``.

The asset names the source, not a file. It is an inlet of operators, and watchers emit their events for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import SplitResult, quote, unquote

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Asset

SCHEME = "unpod"


def billing_asset_uri(org_handle: str) -> str:
    """Return ``unpod://<organization handle>/billing``, with the handle percent-encoded.

    :raises ValueError: if the handle is empty.
    """
    return sanitize_uri(SplitResult(SCHEME, quote(org_handle.strip(), safe=""), "/billing", "", "")).geturl()


def billing_asset(org_handle: str) -> Asset:
    """Return the billing data of one organization as an ``Asset`` (in Airflow 2.11, a ``Dataset``).

    :raises ValueError: if the handle is empty.
    """
    from airflow.providers.common.compat.sdk import Asset

    return Asset(uri=billing_asset_uri(org_handle))


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """Normalize an ``unpod://`` URI. Airflow calls this for every asset of this scheme.

    The handle keeps its case, because the API is case-sensitive. ``/billing`` may be omitted.

    :raises ValueError: if the URI is not ``unpod://<organization handle>/billing``.
    """
    handle = unquote(uri.netloc)
    if not handle or ":" in uri.netloc or "@" in uri.netloc:
        raise ValueError("An unpod:// URI must be unpod://<organization handle>/billing, without port or user.")
    if uri.path.rstrip("/") not in ("", "/billing") or uri.query:
        raise ValueError(f"An unpod:// URI must be unpod://<organization handle>/billing, got {uri.geturl()!r}.")
    return SplitResult(SCHEME, quote(handle, safe=""), "/billing", "", "")
