"""Lineage of an export. Here, because the OpenLineage provider comes with the libraries of the stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_provider_unpod.operators.billing import UnpodBillingOperator

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_unpod.sandbox import Sandbox


@pytest.mark.unpod_sandbox(invoices=30)
def test_openlineage_gets_source_destination_schema_and_rows(unpod_sandbox: Sandbox, tmp_path: Path) -> None:
    operator = UnpodBillingOperator(task_id="export", output_path=str(tmp_path))
    assert operator.get_openlineage_facets_on_complete(None) is None
    operator.execute({})
    lineage = operator.get_openlineage_facets_on_complete(None)

    assert lineage is not None
    (source,), (target,) = lineage.inputs, lineage.outputs
    assert (source.namespace, source.name) == (f"unpod://{unpod_sandbox.org_handle}", "billing")
    assert (target.namespace, target.name) == ("file", str(tmp_path))
    assert target.outputFacets["outputStatistics"].rowCount == 30
    fields = {field.name: field.type for field in target.facets["schema"].fields}
    assert (fields["amount"], fields["invoice_date"]) == ("decimal", "timestamp")


def test_a_storage_connection_is_not_part_of_a_dataset() -> None:
    from airflow_provider_unpod.operators.lineage import _dataset

    assert _dataset("s3://my_conn@bucket/a/b") == ("s3://bucket", "a/b")
