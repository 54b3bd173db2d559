"""Exports: files of invoices, with a manifest that certifies their content.

Names are imported on first use, because operators check their options against this package when DAGs are parsed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_unpod.export.address import path_segment
    from airflow_provider_unpod.export.errors import ExportError, ExportRefused
    from airflow_provider_unpod.export.reader import Export, export_files, read_export
    from airflow_provider_unpod.export.reconciliation import reconcile
    from airflow_provider_unpod.export.writer import write_export

__all__ = [
    "Export",
    "ExportError",
    "ExportRefused",
    "export_files",
    "path_segment",
    "read_export",
    "reconcile",
    "write_export",
]

_MODULES = {
    "Export": "reader",
    "ExportError": "errors",
    "ExportRefused": "errors",
    "export_files": "reader",
    "path_segment": "address",
    "read_export": "reader",
    "reconcile": "reconciliation",
    "write_export": "writer",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
