"""Reports the input and output of an export or a load, to OpenLineage and to Airflow's hook lineage collector."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_provider_unpod.assets import billing_asset_uri
from airflow_provider_unpod.export.address import store_address, without_connection
from airflow_provider_unpod.export.columns import type_of_field

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_unpod.export.writer import Written

log = logging.getLogger(__name__)


def report_export(hook: Any, org_handle: str, written: Written | None) -> None:
    """Report the read of the list, and the export if there is one, to Airflow's hook lineage collector."""
    with _guarded():
        _report(hook, billing_asset_uri(org_handle), None if written is None else _uri_of(written.address))


def report_load(hook: Any, address: str, table_uri: str) -> None:
    """Report the load of an export into a table to Airflow's hook lineage collector."""
    with _guarded():
        _report(hook, _uri_of(address), table_uri)


@contextmanager
def _guarded() -> Iterator[None]:
    """Only log a failure: the work is already committed, and a retry of the task would fail in the same way."""
    try:
        yield
    except Exception:
        log.warning("The lineage of this task is not reported.", exc_info=True)


def _uri_of(address: str) -> str:
    return without_connection(store_address(address).address)


def _report(hook: Any, source: str, target: str | None) -> None:
    """Pass input and output to the collector, which ignores them if no plugin collects lineage."""
    from airflow.providers.common.compat.lineage.hook import get_hook_lineage_collector

    collector = get_hook_lineage_collector()  # type: ignore[no-untyped-call] # Airflow's
    collector.add_input_asset(context=hook, uri=source)
    if target is not None:
        collector.add_output_asset(context=hook, uri=target)


def openlineage_facets(org_handle: str, written: Written | None) -> OperatorLineage[Any, Any]:
    """Build the facets of a finished export. Call it only if the OpenLineage provider is installed."""
    from airflow.providers.common.compat.openlineage.facet import (
        InputDataset,
        OutputDataset,
        OutputStatisticsOutputDatasetFacet,
        SchemaDatasetFacet,
        SchemaDatasetFacetFields,
    )
    from airflow.providers.openlineage.extractors import OperatorLineage

    source = urlsplit(billing_asset_uri(org_handle))
    inputs = [InputDataset(namespace=f"{source.scheme}://{source.netloc}", name=source.path.lstrip("/"))]
    if written is None:
        return OperatorLineage(inputs=inputs)
    manifest = written.manifest
    namespace, name = _dataset(written.address)
    statistics = OutputStatisticsOutputDatasetFacet(
        rowCount=manifest.count, size=sum(file.bytes for file in manifest.files), fileCount=len(manifest.files)
    )
    fields = [SchemaDatasetFacetFields(name=field, type=type_of_field(field)) for field in manifest.content["fields"]]
    output = OutputDataset(
        namespace=namespace,
        name=name,
        facets={"schema": SchemaDatasetFacet(fields=fields)},
        outputFacets={"outputStatistics": statistics},
    )
    return OperatorLineage(inputs=inputs, outputs=[output])


def _dataset(address: str) -> tuple[str, str]:
    """Return namespace and name by OpenLineage's naming conventions for stores."""
    parts = urlsplit(without_connection(address))
    if parts.scheme == "file":
        return "file", parts.path
    return f"{parts.scheme}://{parts.netloc}", parts.path.lstrip("/")


def openlineage_facets_of_load(address: str, table_uri: str, rows: int) -> OperatorLineage[Any, Any]:
    """Build the facets of a finished load. Call it only if the OpenLineage provider is installed."""
    from airflow.providers.common.compat.openlineage.facet import (
        InputDataset,
        OutputDataset,
        OutputStatisticsOutputDatasetFacet,
    )
    from airflow.providers.openlineage.extractors import OperatorLineage

    source, (target, table) = _dataset(address), _dataset(table_uri)
    statistics = OutputStatisticsOutputDatasetFacet(rowCount=rows)
    return OperatorLineage(
        inputs=[InputDataset(namespace=source[0], name=source[1])],
        outputs=[
            # OpenLineage names a table by database, schema and table, separated by dots.
            OutputDataset(namespace=target, name=table.replace("/", "."), outputFacets={"outputStatistics": statistics})
        ],
    )
