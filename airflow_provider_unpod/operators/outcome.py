"""The log line of a finished read or export, and the outlet events of exports, loads and reconciliations."""

from __future__ import annotations

import logging
from decimal import Context as DecimalContext
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING, Any

from airflow_provider_unpod.billing.errors import short_repr
from airflow_provider_unpod.task_boundary import storable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_unpod.export.writer import Written

log = logging.getLogger(__name__)

_PROOFS = {
    "linked": "proved complete by linked windows",
    "repeated": "proved complete by two passes that agree",
    "single-pass": "read in a single pass, which proves less than `linked`",
}
_MOST_CURRENCIES = 10
#: Digits for sums. No total of an export is that long.
_PRECISION = 250


def log_line(verb: str, count: int, totals: Mapping[str, Any], evidence: Mapping[str, Any], seconds: float) -> str:
    """Format counts, amounts, the proof of completeness and the costs for the task log.

    :param totals: ``{currency: {status: {"count": n, "amount": "…"}}}``.
    :param evidence: evidence of the read, as in a manifest. Its number of invoices reveals a misspelled status, which
        selects none of them.
    """
    amounts = f" ({_amounts(totals)})" if totals else ""
    requests = f"{evidence['requests']} request{'' if evidence['requests'] == 1 else 's'}"
    proof = _PROOFS[evidence["consistency"]]
    return f"{verb} {count} of {evidence['invoices']} invoices{amounts}, {proof}, with {requests} in {seconds:.1f} s"


def send_asset_events(outlets: Iterable[Any], context: Context, written: Written) -> None:
    """Add the summary of an export to the asset events of a task's outlets.

    An export that is partitioned by month emits one event per month on Airflow 3.3, with the month as partition key.
    DAGs that are scheduled on such events need a partitioned timetable. An asset alias resolves to the organization's
    billing asset. Airflow 2 accepts only flat values for an alias, so its events lack ``totals``; the manifest has
    them. Outlets that are not assets, and references to unknown assets, are ignored.
    """
    from airflow.providers.common.compat.sdk import AssetAlias

    from airflow_provider_unpod.assets import billing_asset

    extra = storable(written.summary())
    del extra["files"]
    months = sorted({file.partition["month"] for file in written.manifest.files if "month" in file.partition})
    for outlet in outlets:
        event = _event_of(outlet, context)
        if event is None:
            continue
        if isinstance(outlet, AssetAlias):
            flat = {name: value for name, value in extra.items() if name != "totals"}
            event.add(billing_asset(written.manifest.content["organization"]), extra=flat)
            continue
        event.extra.update(extra)
        if months and hasattr(event, "add_partitions"):
            event.add_partitions(months)


def send_summary(outlets: Iterable[Any], context: Context, summary: Mapping[str, Any]) -> None:
    """Add the summary of a load or a reconciliation to the asset events of a task's outlets.

    Asset aliases, outlets that are not assets, and references to unknown assets are ignored.
    """
    from airflow.providers.common.compat.sdk import AssetAlias

    for outlet in outlets:
        if not isinstance(outlet, AssetAlias) and (event := _event_of(outlet, context)) is not None:
            event.extra.update(storable(summary))


def _event_of(outlet: Any, context: Context) -> Any:
    try:
        return context["outlet_events"][outlet]
    except TypeError:  # not an asset but, for example, a dataset of OpenLineage
        return None
    except Exception as error:
        # Airflow's message begins with the kind of error. Other errors may be transient and are left to a retry.
        if not str(error).startswith("ASSET_NOT_FOUND"):
            raise
        log.warning("Airflow does not know the outlet %s as an asset, so no event is emitted.", short_repr(outlet))
        return None


def _amounts(totals: Mapping[str, Any]) -> str:
    with localcontext(DecimalContext(prec=_PRECISION)):
        sums = [
            f"{currency if currency.isalnum() else short_repr(currency, 20)} "
            f"{sum(Decimal(cell['amount']) for cell in statuses.values()):f}"
            for currency, statuses in totals.items()
        ]
    more = len(sums) - _MOST_CURRENCIES
    return ", ".join(sums[:_MOST_CURRENCIES]) + (f" and {more} more currencies" if more > 0 else "")


def run_of(context: Context) -> dict[str, Any] | None:
    """Identify the task instance for the files that it writes. A retry differs only in its try number."""
    ti = context.get("ti")
    if ti is None:
        return None
    return {name: getattr(ti, name) for name in ("dag_id", "task_id", "run_id", "map_index", "try_number")}
