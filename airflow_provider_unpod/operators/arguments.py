"""The arguments by which several operators name a certified export: one name and one check each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_unpod.billing.arguments import optional, text_of
from airflow_provider_unpod.export.address import path_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_unpod.billing.arguments import Check

#: A certified export that a task reads.
EXPORT: Mapping[str, Check] = {
    "export_path": path_of,
    "storage_conn_id": optional(text_of),
    "export_id": optional(text_of),
    "manifest_sha256": optional(text_of),
}
