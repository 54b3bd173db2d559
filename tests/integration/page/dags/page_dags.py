"""DAGs whose exports the page shows, and DAGs that try to make it show other files."""

from __future__ import annotations

import os
from typing import Any

from airflow.providers.common.compat.sdk import DAG, BaseOperator, task

from airflow_provider_unpod.operators import billing
from airflow_provider_unpod.sensors.invoice import UnpodInvoiceSensor

EXPORTS = os.environ["UNPOD_EXPORTS"]


class UnpodBillingOperator(BaseOperator):
    """Another operator of the same name."""

    template_fields = ("summary",)

    def __init__(self, *, summary: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.summary = summary

    def execute(self, context: Any) -> Any:
        import ast

        return ast.literal_eval(self.summary)


@task
def imitation(summary: Any) -> Any:
    """Return what an export returned."""
    return summary


for dag_id in ("page_first", "page_second"):
    with DAG(dag_id, schedule=None) as dag:
        export = billing.UnpodBillingOperator(
            task_id="export", output_path=f"{EXPORTS}/{dag_id}", report=True, partition_by=["currency"]
        )
        plain = billing.UnpodBillingOperator(task_id="plain", output_path=f"{EXPORTS}/{dag_id}-plain", statuses="paid")
        billing.UnpodBillingOperator.partial(
            task_id="mapped", output_path=EXPORTS + "/" + dag_id + "-{{ ti.map_index }}", report=True
        ).expand(statuses=["paid", "pending"])
        UnpodInvoiceSensor(task_id="wait", invoice_id=os.environ["UNPOD_PAID"])
        imitation(export.output)
        UnpodBillingOperator(task_id="namesake", summary="{{ ti.xcom_pull(task_ids='export') }}").set_upstream(export)
