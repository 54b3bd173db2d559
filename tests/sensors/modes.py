"""Runs a wait in any mode, with one step between two polls, and without real waits."""

from __future__ import annotations

import asyncio
import copy
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.util import find_spec
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from airflow.providers.common.compat.sdk import BaseSensorOperator, TaskDeferred

from airflow_provider_unpod.sensors.invoice import UnpodInvoiceSensor
from airflow_provider_unpod.triggers import polling
from airflow_provider_unpod.triggers.invoice import UnpodInvoiceTrigger

try:
    from airflow.sdk.exceptions import AirflowRescheduleException
except ImportError:  # Airflow 2
    from airflow.exceptions import AirflowRescheduleException

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

#: Before Airflow 3.3 every trigger polls by itself.
SHARED_STREAMS = find_spec("airflow.triggers.shared_stream") is not None
BASE = sys.modules[BaseSensorOperator.__module__]
MODES = ["poke", "reschedule", "deferrable", *(["shared"] if SHARED_STREAMS else [])]
Step = Callable[[], object]


class TooManyPolls(AssertionError):
    """All steps have been taken, but the wait has not ended."""


class TaskInstance(SimpleNamespace):
    """The attributes of a task instance that the sensor base classes need."""

    def __init__(self, **given: Any) -> None:
        defaults = {"dag_id": "d", "task_id": "wait", "run_id": "r", "map_index": -1, "try_number": 1, "max_tries": 0}
        super().__init__(**{**defaults, **given})
        self.first_reschedule: datetime | None = None

    def get_first_reschedule_date(self, context: Any) -> datetime | None:
        return self.first_reschedule


def context(**given: Any) -> Context:
    """Return a task's context with only the given values."""
    return cast("Context", given)


class Waiter:
    """Runs a sensor in one mode; counts the ``pauses`` between polls, and keeps the deferral in ``deferred``."""

    def __init__(self, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.mode = mode
        self.monkeypatch = monkeypatch
        self.deferred: TaskDeferred | None = None
        self.ti = TaskInstance()
        self.context = context(ti=self.ti)
        self.pauses = 0

    def __call__(self, *steps: Step, **arguments: Any) -> Any:
        """The result of the wait; one of the ``steps`` happens after each poll that does not end it."""
        self.steps = list(steps)
        sensor = UnpodInvoiceSensor(
            task_id="wait",
            deferrable=self.mode in ("deferrable", "shared"),
            mode="reschedule" if self.mode == "reschedule" else "poke",
            poke_interval=arguments.pop("poke_interval", 0.01),
            **arguments,
        )
        self.sensor = sensor
        return getattr(self, f"_{self.mode}")(sensor)

    def step(self, seconds: float = 0.0) -> None:
        self.pauses += 1
        if not self.steps:
            raise TooManyPolls(f"Still waiting after {self.pauses} polls.")
        self.steps.pop(0)()

    def _poke(self, sensor: UnpodInvoiceSensor) -> Any:
        self.monkeypatch.setattr(BASE, "time", SimpleNamespace(sleep=self.step, monotonic=time.monotonic))
        return sensor.execute(self.context)

    def _reschedule(self, sensor: UnpodInvoiceSensor) -> Any:
        ti = self.ti
        self.monkeypatch.setattr(BASE, "_orig_start_date", lambda **_: ti.first_reschedule, raising=False)
        while True:
            try:
                return copy.copy(sensor).execute(self.context)  # a new process each time: nothing is remembered
            except AirflowRescheduleException:
                ti.first_reschedule = ti.first_reschedule or datetime.now(timezone.utc)
                self.step()

    def _deferrable(self, sensor: UnpodInvoiceSensor) -> Any:
        return self._defer(sensor, lambda trigger: trigger.run())

    def _shared(self, sensor: UnpodInvoiceSensor) -> Any:
        return self._defer(sensor, shared_events)

    def _defer(self, sensor: UnpodInvoiceSensor, events_of: Callable[[Any], AsyncIterator[Any]]) -> Any:
        try:
            return sensor.execute(self.context)
        except TaskDeferred as deferred:
            self.deferred = deferred
        self.step()

        async def pause(seconds: float) -> None:
            self.step()

        self.monkeypatch.setattr(polling, "_pause", pause)
        path, kwargs = self.deferred.trigger.serialize()
        assert path == "airflow_provider_unpod.triggers.invoice.UnpodInvoiceTrigger"

        async def first_event() -> Any:
            async for event in events_of(UnpodInvoiceTrigger(**kwargs)):
                return event.payload
            raise AssertionError("the trigger ended without an event")

        event = asyncio.run(first_event())
        return copy.copy(sensor).resume_execution(self.deferred.method_name, {"event": event}, self.context)


async def shared_events(trigger: Any, manager: Any = None, trigger_id: int = 1) -> AsyncIterator[Any]:
    """Runs a trigger that shares a stream as Airflow 3.3's triggerer does."""
    from airflow.triggers.shared_stream import SharedStreamManager

    manager = manager or SharedStreamManager()
    key = trigger.shared_stream_key()
    stream = manager.subscribe(trigger_id=trigger_id, trigger=trigger, key=key)
    try:
        async for event in trigger.filter_shared_stream(stream):
            yield event
    finally:
        await manager.unsubscribe(trigger_id, key)


@contextmanager
def impatient_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clients make only one try, because retries are tested with the client."""
    from airflow_provider_unpod.billing.client import UnpodClient
    from airflow_provider_unpod.billing.http.retry import RetryPolicy

    connect = UnpodClient.__init__

    def impatient(self: UnpodClient, *arguments: Any, **options: Any) -> None:
        connect(self, *arguments, **options)
        self.retry = RetryPolicy(attempts=1, max_total_wait=0.0)

    monkeypatch.setattr(UnpodClient, "__init__", impatient)
    yield
