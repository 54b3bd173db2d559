"""Arguments of several operators that identify a certified export, with their checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_unpod.billing.arguments import optional, text_of
from airflow_provider_unpod.export.address import path_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_unpod.billing.arguments import Check

#: Checks of the arguments that identify the export to read.
EXPORT: Mapping[str, Check] = {
    "export_path": path_of,
    "storage_conn_id": optional(text_of),
    "export_id": optional(text_of),
    "manifest_sha256": optional(text_of),
}
