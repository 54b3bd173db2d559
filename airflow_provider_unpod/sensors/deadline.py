"""The deadline of a deferrable sensor, counted from its first try as in Airflow's sensors in reschedule mode.

A retry, for example after a triggerer failed, must not start the wait anew.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseSensorOperator, Context

_KEY = "airflow_provider_unpod.deadline"


def deadline_of(sensor: BaseSensorOperator, context: Context) -> datetime:
    """The moment (UTC) when the wait of this task ends. Clearing a task starts a new wait.

    Airflow 3.3 keeps the deadline in the task's state store; 2.11 knows when earlier tries began. The versions between
    have neither: there each try waits the whole ``timeout``.
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
        # The deployment's default retention may be shorter than the wait.
        store.set(
            _KEY,
            {"first_try": first_try, "deadline": deadline.isoformat()},
            retention=timedelta(seconds=sensor.timeout) + timedelta(days=30),
        )
    return deadline


def ended_by_execution_timeout(sensor: BaseSensorOperator, context: Context) -> bool:
    """Whether a deferral that Airflow ended was ended by ``execution_timeout``, well before the wait's own deadline.

    Airflow 2 counts ``execution_timeout`` from the start of the try, also while the task is deferred; 3.x does not.
    """
    limit, started = sensor.execution_timeout, getattr(context.get("ti"), "start_date", None)
    if limit is None or started is None:
        return False
    over = min(deadline_of(sensor, context), started + timedelta(seconds=sensor.timeout))
    return bool(started + limit <= datetime.now(timezone.utc) < over)


def _first_try(sensor: BaseSensorOperator, ti: Any) -> int:
    """The number of the first try since the task was last cleared, when Airflow raises ``max_tries``."""
    return int(getattr(ti, "max_tries", None) or 0) - int(sensor.retries or 0) + 1


def _began_on_airflow_2(ti: Any, first_try: int) -> datetime | None:
    """The start of the first try, if this is a later one and the worker may query Airflow's database."""
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
