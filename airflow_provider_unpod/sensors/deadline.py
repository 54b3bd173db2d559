"""The deadline of a deferrable sensor. It counts from the first try, as for Airflow's sensors in reschedule mode.

A retry, for example after a triggerer crashed, must not extend the wait.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseSensorOperator, Context

_KEY = "airflow_provider_unpod.deadline"


def deadline_of(sensor: BaseSensorOperator, context: Context) -> datetime:
    """Return the time (UTC) when the wait of this task ends. Clearing the task starts a new wait.

    Airflow 3.3 stores the deadline in the task's state store, and 2.11 knows when earlier tries began. Versions in
    between have neither, so each try waits for the whole ``timeout``.
    """
    ti = context.get("ti")
    first_try = _first_try(sensor, ti)
    store = context.get("task_state_store")
    if store is not None:
        kept = store.get(_KEY)
        if isinstance(kept, dict) and kept.get("first_try") == first_try:
            return datetime.fromisoformat(str(kept["deadline"]))
    deadline = (_began_on_airflow_2(ti, first_try) or datetime.now(timezone.utc)) + timedelta(seconds=sensor.timeout)
    if store is not None:
        # The default retention of the deployment may be shorter than the wait.
        store.set(
            _KEY,
            {"first_try": first_try, "deadline": deadline.isoformat()},
            retention=timedelta(seconds=sensor.timeout) + timedelta(days=30),
        )
    return deadline


def ended_by_execution_timeout(sensor: BaseSensorOperator, context: Context) -> bool:
    """Return whether ``execution_timeout`` ended the deferral before the deadline of the wait.

    In Airflow 2, ``execution_timeout`` also counts while the task is deferred. In Airflow 3 it does not.
    """
    limit, started = sensor.execution_timeout, getattr(context.get("ti"), "start_date", None)
    if limit is None or started is None:
        return False
    over = min(deadline_of(sensor, context), started + timedelta(seconds=sensor.timeout))
    return bool(started + limit <= datetime.now(timezone.utc) < over)


def _first_try(sensor: BaseSensorOperator, ti: Any) -> int:
    """Return the number of the first try since the task was last cleared. Clearing raises ``max_tries``."""
    return int(getattr(ti, "max_tries", None) or 0) - int(sensor.retries or 0) + 1


def _began_on_airflow_2(ti: Any, first_try: int) -> datetime | None:
    """Return the start of the first try on Airflow 2. ``None`` if this is the first try, or on Airflow 3."""
    try:
        from airflow.models.taskinstancehistory import TaskInstanceHistory
        from airflow.utils.session import create_session
        from airflow.version import version
    except ImportError:
        return None
    if not version.startswith("2.") or getattr(ti, "try_number", first_try) <= first_try:
        return None
    of_this_task = [
        getattr(TaskInstanceHistory, name) == getattr(ti, name) for name in ("dag_id", "task_id", "run_id", "map_index")
    ]
    with create_session() as session:
        began = (
            session.query(TaskInstanceHistory.start_date)
            .filter(*of_this_task, TaskInstanceHistory.try_number >= first_try)
            .order_by(TaskInstanceHistory.try_number)
            .limit(1)
            .scalar()
        )
    return began if isinstance(began, datetime) else None
