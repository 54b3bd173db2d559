"""The asset that stands for an organisation's billing data: ``unpod://<organisation handle>/billing``.

It names the source, not a file: an operator has it as an inlet, a watcher's events belong to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import SplitResult, quote, unquote

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Asset

SCHEME = "unpod"


def billing_asset_uri(org_handle: str) -> str:
    """``unpod://<org handle>/billing``, the handle percent-encoded where it has to be.

    :raises ValueError: when the handle is empty.
    """
    return sanitize_uri(SplitResult(SCHEME, quote(org_handle.strip(), safe=""), "/billing", "", "")).geturl()


def billing_asset(org_handle: str) -> Asset:
    """The billing data of one organisation as Airflow's ``Asset`` (2.11: ``Dataset``).

    :raises ValueError: when the handle is empty.
    """
    from airflow.providers.common.compat.sdk import Asset

    return Asset(uri=billing_asset_uri(org_handle))


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """One spelling for one organisation's billing data; Airflow calls this for every ``unpod://`` URI.

    The handle keeps its case: the API compares it as it is. ``/billing`` may be left out.

    :raises ValueError: for anything that is not ``unpod://<organisation handle>/billing``.
    """
    handle = unquote(uri.netloc)
    if not handle or ":" in uri.netloc or "@" in uri.netloc:
        raise ValueError("An unpod:// URI names an organisation handle and nothing else: unpod://<handle>/billing")
    if uri.path.rstrip("/") not in ("", "/billing") or uri.query:
        raise ValueError(f"An unpod:// URI has the form unpod://<handle>/billing, not {uri.geturl()!r}")
    return SplitResult(SCHEME, quote(handle, safe=""), "/billing", "", "")
