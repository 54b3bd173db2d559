"""Lists the exports for the page. It only reads Airflow's database.

An export is listed because a task of this package's operator returned its summary as XCom. Which class a task has is
taken from the serialized DAG of the version that ran, which only Airflow's DAG processor writes.

That is not a proof: every task, and every user who may edit XComs, can replace a return value. So what is opened must
prove itself once more (see :func:`airflow_provider_unpod.export.reader.read_report`): the manifest must have the
fingerprint, *and* name the very task instance whose XCom leads to it.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from sqlalchemy import and_, func, select

from airflow_provider_unpod.export.totals import EXACT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from sqlalchemy.orm import Session

OPERATOR = ("airflow_provider_unpod.operators.billing", "UnpodBillingOperator")
#: Most exports on the page, and most DAGs whose permission is checked.
MOST_LISTED = 50
#: Most task instances to search for them.
_MOST_RUNS = 1000
#: Most DAGs to look at: those that ran such a task last.
MOST_DAGS = 500
#: Finding the DAGs with such tasks reads the whole table of task instances. Their list is reused for this many times as
#: long as that took, so that the first export is listed at once, and large tables are read seldom.
_REUSED = 20.0
_MOST_VERSIONS = 500
#: Most pairs of currency and status in a summary of the operator. A forged one must not occupy the server.
_MOST_TOTALS = 100

_Text = Annotated[str, Field(max_length=2000)]
_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Cell(BaseModel):
    count: Annotated[int, Field(ge=0)]
    amount: Annotated[str, Field(pattern=r"^-?\d{1,120}(\.\d{1,120})?$")]


class Summary(BaseModel):
    """The summary that the operator returns, as far as the page uses it. Other values are ignored."""

    model_config = ConfigDict(strict=True)

    manifest: _Text
    export_id: _Text
    manifest_sha256: _Sha256
    count: Annotated[int, Field(ge=0)]
    totals: dict[str, dict[str, _Cell]] | None
    consistency: Literal["linked", "repeated", "single-pass"]
    report: _Text | None = None
    storage_conn_id: _Text | None = None

    @field_validator("totals", mode="before")
    @classmethod
    def _few(cls, totals: Any) -> Any:
        if isinstance(totals, dict):
            pairs = sum(len(cells) for cells in totals.values() if isinstance(cells, dict))
            if max(pairs, len(totals)) > _MOST_TOTALS:
                raise ValueError("too many totals")
        return totals

    @cached_property
    def amounts(self) -> dict[str, Decimal] | None:
        """The total of each currency. ``None`` if there are too many for a summary."""
        if self.totals is None:
            return None
        sums: dict[str, Decimal] = {}
        for currency, cells in sorted(self.totals.items()):
            for cell in cells.values():
                sums[currency] = EXACT.add(sums.get(currency, Decimal(0)), Decimal(cell.amount))
        return sums


@dataclass(frozen=True)
class ListedExport:
    """An export, and the task instance that wrote it."""

    ti_id: str
    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    ended_at: datetime
    summary: Summary

    @property
    def run(self) -> dict[str, Any]:
        """The ``run`` that the manifest must have."""
        return {name: getattr(self, name) for name in ("dag_id", "task_id", "run_id", "map_index")}


class Exports:
    """Lists exports, and caches the list of DAGs between requests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._dags: tuple[float, list[str]] | None = None
        self._tasks: OrderedDict[Any, frozenset[str]] = OrderedDict()

    def newest(self, session: Session, may_read_xcoms_of: Callable[[str], bool]) -> list[ListedExport]:
        """Return the newest exports of the DAGs whose XComs the user may read, at most ``MOST_LISTED``."""
        dag_ids = [dag_id for dag_id in self._dags_with_exports(session) if may_read_xcoms_of(dag_id)]
        if not dag_ids:
            return []
        wanted = (
            _SUMMARIES.where(TaskInstance.dag_id.in_(dag_ids))
            .order_by(TaskInstance.end_date.desc(), TaskInstance.map_index, TaskInstance.id)
            .limit(MOST_LISTED)
        )
        found: list[ListedExport] = []
        # The operator also returns records and runs without changes, which are not exports.
        for offset in range(0, _MOST_RUNS, MOST_LISTED):
            rows = session.execute(wanted.offset(offset)).all()
            found += self._listed(session, rows)
            if len(found) >= MOST_LISTED or len(rows) < MOST_LISTED:
                break
        return found[:MOST_LISTED]

    def one(self, session: Session, dag_id: str, ti_id: str) -> ListedExport | None:
        """Return the export of a task instance. ``None`` if it has none."""
        # The id is a UUID on Airflow 3.3, and a string on 3.1.
        native_id = TaskInstance.id.type.python_type(ti_id)
        wanted = _SUMMARIES.where(TaskInstance.dag_id == dag_id, TaskInstance.id == native_id)
        return next(iter(self._listed(session, session.execute(wanted))), None)

    def _dags_with_exports(self, session: Session) -> list[str]:
        now = self._clock()
        if self._dags is None or now > self._dags[0]:
            found = (
                select(TaskInstance.dag_id)
                .where(TaskInstance.operator == OPERATOR[1], TaskInstance.end_date.is_not(None))
                .group_by(TaskInstance.dag_id)
                .order_by(func.max(TaskInstance.end_date).desc(), TaskInstance.dag_id)
            )
            dag_ids = list(session.scalars(found.limit(MOST_DAGS)))
            end = self._clock()
            self._dags = end + _REUSED * (end - now), dag_ids
        return self._dags[1]

    def _listed(self, session: Session, rows: Iterable[Any]) -> Iterable[ListedExport]:
        for ti, value in rows:
            summary = _summary_of(value)
            if summary is not None and ti.task_id in self._own_tasks(session, ti.dag_version_id):
                yield ListedExport(str(ti.id), ti.dag_id, ti.task_id, ti.run_id, ti.map_index, ti.end_date, summary)

    def _own_tasks(self, session: Session, dag_version_id: Any) -> frozenset[str]:
        """Return the tasks of a DAG version that use this package's operator. A version that has run never changes."""
        tasks = self._tasks.get(dag_version_id)
        if tasks is None:
            found = session.scalar(
                select(SerializedDagModel).where(SerializedDagModel.dag_version_id == dag_version_id)
            )
            tasks = frozenset(own_tasks_of(found.data)) if found else frozenset()
            self._tasks[dag_version_id] = tasks
            while len(self._tasks) > _MOST_VERSIONS:
                self._tasks.popitem(last=False)
        return tasks


def replaced_among(exports: Iterable[ListedExport]) -> frozenset[str]:
    """Return the ``ti_id`` of exports, newest first, that a newer run of the same task has replaced in their folder."""
    newer: set[tuple[str, str, str]] = set()
    replaced = set()
    for one in exports:
        place = (one.dag_id, one.task_id, one.summary.manifest)
        if place in newer:
            replaced.add(one.ti_id)
        newer.add(place)
    return frozenset(replaced)


def own_tasks_of(serialized_dag: Mapping[str, Any] | None) -> Iterable[str]:
    """Return the ids of the tasks in a serialized DAG whose class is this package's operator."""
    for encoded in (serialized_dag or {}).get("dag", {}).get("tasks", ()):
        task = encoded.get("__var", encoded)
        if (task.get("_task_module"), task.get("task_type")) == OPERATOR:
            yield task["task_id"]


#: Selects successful task instances whose class has the operator's name, with their return values.
_SUMMARIES = (
    select(TaskInstance, XComModel.value)
    .join(
        XComModel,
        and_(
            XComModel.dag_id == TaskInstance.dag_id,
            XComModel.task_id == TaskInstance.task_id,
            XComModel.run_id == TaskInstance.run_id,
            XComModel.map_index == TaskInstance.map_index,
        ),
    )
    .where(
        TaskInstance.operator == OPERATOR[1],
        TaskInstance.state == "success",
        TaskInstance.end_date.is_not(None),
        TaskInstance.dag_version_id.is_not(None),
        XComModel.key == "return_value",
    )
)


def _summary_of(value: Any) -> Summary | None:
    try:
        return Summary.model_validate(json.loads(value) if isinstance(value, str) else value)
    except (ValidationError, ValueError, RecursionError):
        return None
