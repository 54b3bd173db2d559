"""The asset of an organization's billing data: ``unpod://<organization handle>/billing``.

It names the source, not a file: an operator has it as an inlet, and a watcher's events belong to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import SplitResult, quote, unquote

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Asset

SCHEME = "unpod"


def billing_asset_uri(org_handle: str) -> str:
    """``unpod://<org handle>/billing``, with the handle percent-encoded.

    :raises ValueError: if the handle is empty.
    """
    return sanitize_uri(SplitResult(SCHEME, quote(org_handle.strip(), safe=""), "/billing", "", "")).geturl()


def billing_asset(org_handle: str) -> Asset:
    """The billing data of one organization as Airflow's ``Asset`` (2.11: ``Dataset``).

    :raises ValueError: if the handle is empty.
    """
    from airflow.providers.common.compat.sdk import Asset

    return Asset(uri=billing_asset_uri(org_handle))


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """The normalized form of an ``unpod://`` URI; Airflow calls this for each of them.

    The handle keeps its case, since the API compares it as it is. ``/billing`` may be left out.

    :raises ValueError: if it is not ``unpod://<organization handle>/billing``.
    """
    handle = unquote(uri.netloc)
    if not handle or ":" in uri.netloc or "@" in uri.netloc:
        raise ValueError("An unpod:// URI must be unpod://<organization handle>/billing, without port or user.")
    if uri.path.rstrip("/") not in ("", "/billing") or uri.query:
        raise ValueError(f"An unpod:// URI must be unpod://<organization handle>/billing, got {uri.geturl()!r}.")
    return SplitResult(SCHEME, quote(handle, safe=""), "/billing", "", "")
