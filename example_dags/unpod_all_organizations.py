"""Export every organization that a token can access, each in a separate task."""

from __future__ import annotations

import os

from airflow.providers.common.compat.sdk import dag, task

from airflow_provider_unpod.export import path_segment
from airflow_provider_unpod.hooks.unpod import UnpodHook
from airflow_provider_unpod.operators.billing import UnpodBillingOperator

# In production: "s3://my_aws_connection@my-bucket/unpod"
EXPORTS = os.environ.get("UNPOD_EXPORTS", "file:///tmp/unpod-exports")

# All tasks with the same token share its rate limit, also in different DAGs. Put them into one pool.
# In production: `airflow pools set unpod 8 "Tasks that use the Unpod token"`, and UNPOD_POOL=unpod. `make airflow` has
# both. Without the pool, the tasks would stay scheduled for ever.
POOL = os.environ.get("UNPOD_POOL", "default_pool")


@dag(schedule=None, tags=["unpod", "example"])
def unpod_all_organizations() -> None:
    """### All organizations

    Asks Unpod which organizations the token of `unpod_default` has access to, and exports all invoices of each one
    into a folder of its own below `UNPOD_EXPORTS`, with a report for people: *Browse*, *Unpod Billing*. Start it by
    hand.
    """

    @task
    def organizations() -> list[dict[str, str]]:
        """Return the arguments of each mapped task: an organization and the folder of its export."""
        handles = [organization["domain_handle"] for organization in UnpodHook().get_organizations()]
        return [
            {"org_handle": each, "output_path": f"{EXPORTS}/organizations/{path_segment(each)}"} for each in handles
        ]

    UnpodBillingOperator.partial(
        task_id="export",
        pool=POOL,
        report=True,
        # Leave slots of the pool to other DAGs.
        max_active_tis_per_dagrun=2,
        map_index_template="{{ task.org_handle }}",
    ).expand_kwargs(organizations())


unpod_all_organizations()
