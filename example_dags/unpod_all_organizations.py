"""All organisations that a token may see: one export each, side by side."""

from __future__ import annotations

import os

from airflow.providers.common.compat.sdk import dag, task

from airflow_provider_unpod.hooks.unpod import UnpodHook
from airflow_provider_unpod.operators.billing import UnpodBillingOperator

# In production: "s3://my_aws_connection@my-bucket/unpod"
EXPORTS = os.environ.get("UNPOD_EXPORTS", "file:///tmp/unpod-exports")


@dag(schedule=None, tags=["unpod", "example"])
def unpod_all_organizations() -> None:
    @task
    def organizations() -> list[dict[str, str]]:
        """What differs from one mapped task to the next: the organisation, and where its export goes."""
        handles = [organization["domain_handle"] for organization in UnpodHook().get_organizations()]
        return [{"org_handle": each, "output_path": f"{EXPORTS}/organizations/{each}"} for each in handles]

    UnpodBillingOperator.partial(
        task_id="export",
        # They share one rate limit: no more than two at a time.
        max_active_tis_per_dagrun=2,
        map_index_template="{{ task.org_handle }}",
    ).expand_kwargs(organizations())


unpod_all_organizations()
