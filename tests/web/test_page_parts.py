"""Limits and caches of the page. The page itself is tested in tests/integration/page."""

from __future__ import annotations

import threading
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.models import import_all_models
from airflow.models.taskinstance import TaskInstance
from sqlalchemy import create_engine, insert
from sqlalchemy.orm import Session

from airflow_provider_unpod.links import has_page

if not has_page():
    pytest.skip("the page needs Airflow 3.1", allow_module_level=True)

from airflow_provider_unpod.web import listed
from airflow_provider_unpod.web.connections import Busy, ConnectionTests, form_token, is_form_token
from airflow_provider_unpod.web.listed import OPERATOR, Exports, own_tasks_of, replaced_among


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def connection(conn_id: str = "c", uri: str = "unpod://host") -> Any:
    return SimpleNamespace(conn_id=conn_id, get_uri=lambda: uri)


def test_another_click_within_ten_seconds_makes_no_request() -> None:
    clock, made = Clock(), []

    def run(conn_id: str) -> tuple[bool, str]:
        made.append(conn_id)
        return True, f"test {len(made)}"

    tests = ConnectionTests(run, clock)
    messages = []
    for clock.now in (0.0, 9.9, 10.1):
        messages.append(tests.outcome(connection()).message)

    assert messages == ["test 1", "test 1", "test 2"]


def test_a_connection_that_was_edited_is_tested_anew() -> None:
    found = iter([(False, "wrong token"), (True, "")])
    tests = ConnectionTests(lambda conn_id: next(found), Clock())

    assert not tests.outcome(connection(uri="unpod://:old@host")).works
    assert tests.outcome(connection(uri="unpod://:new@host")).works


def test_a_third_concurrent_test_is_refused_without_occupying_a_thread() -> None:
    begun, end = threading.Semaphore(0), threading.Event()

    def run(conn_id: str) -> tuple[bool, str]:
        begun.release()
        end.wait(30)
        return True, ""

    tests = ConnectionTests(run)
    threads = [threading.Thread(target=tests.outcome, args=(connection(name),)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert begun.acquire(timeout=30)

    with pytest.raises(Busy, match="Try again in a few seconds"):
        tests.outcome(connection("c"))
    end.set()
    for thread in threads:
        thread.join()
    assert tests.outcome(connection("c")).works


def test_a_test_that_fails_unexpectedly_leaves_room_for_the_next() -> None:
    def run(conn_id: str) -> tuple[bool, str]:
        raise RuntimeError

    tests = ConnectionTests(run)
    for _ in range(5):
        with pytest.raises(RuntimeError):
            tests.outcome(connection())


@pytest.mark.parametrize(
    "other",
    [("other key", "user", "conn"), ("key", "other user", "conn"), ("key", "user", "other conn")],
)
def test_a_form_is_valid_only_for_its_user_connection_and_server(other: tuple[str, str, str]) -> None:
    token = form_token("key", "user", "conn")

    assert is_form_token("key", token, "user", "conn")
    assert not is_form_token(other[0], token, *other[1:])


@pytest.mark.parametrize(("seconds", "read_at"), [(0.0, [0, 1, 2, 3]), (0.1, [0, 3]), (3.0, [0, 64])])
def test_the_table_of_task_instances_is_read_for_a_twentieth_of_the_time_at_most(
    seconds: float, read_at: list[int]
) -> None:
    clock = Clock()
    read: list[float] = []

    class FakeSession:
        def scalars(self, query: Any) -> list[str]:
            read.append(clock.now)
            clock.now += seconds
            return []

    exports = Exports(clock)
    for second in range(read_at[-1] + 1):
        clock.now = max(clock.now, float(second))
        exports.newest(FakeSession(), lambda dag_id: True)  # type: ignore[arg-type]

    assert read == read_at


def test_exports_are_listed_even_after_many_runs_that_only_returned_records() -> None:
    summary = {"manifest": "file:///x/_manifest.json", "export_id": "e", "manifest_sha256": "0" * 64, "count": 0}
    values = [[{"id": 1}]] * 120 + [{**summary, "totals": {}, "consistency": "linked"}]
    task = {"task_id": "export", "_task_module": OPERATOR[0], "task_type": OPERATOR[1]}

    class FakeSession:
        def scalars(self, query: Any) -> list[str]:
            return ["dag"]

        def scalar(self, query: Any) -> Any:
            return SimpleNamespace(data={"dag": {"tasks": [task]}})

        def execute(self, query: Any) -> Any:
            first, size = query._offset, query._limit
            ti = SimpleNamespace(id=1, dag_id="dag", task_id="export", run_id="r", map_index=-1, end_date=None)
            ti.dag_version_id = 1
            rows = [(ti, value) for value in values[first : first + size]]
            return SimpleNamespace(all=lambda: rows)

    (found,) = Exports().newest(FakeSession(), lambda dag_id: True)  # type: ignore[arg-type]

    assert found.summary.export_id == "e"


def test_of_very_many_dags_those_that_exported_last_are_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listed, "MOST_DAGS", 2)
    import_all_models()  # the targets of foreign keys
    engine = create_engine("sqlite://")
    TaskInstance.__table__.create(engine)
    with Session(engine) as session:
        for dag_id, day in (("a", 1), ("b", 4), ("c", 2), ("a", 3), ("running", None)):
            ended = day and datetime(2026, 1, day, tzinfo=timezone.utc)
            columns = {"dag_id": dag_id, "end_date": ended, "operator": OPERATOR[1], "run_id": f"r{day}"}
            session.execute(insert(TaskInstance).values(task_id="t", pool="p", pool_slots=1, **columns))
        asked: list[str] = []

        def may_read(dag_id: str) -> bool:
            asked.append(dag_id)
            return False

        Exports().newest(session, may_read)

    assert asked == ["b", "a"]


def test_an_export_counts_as_replaced_by_a_newer_run_of_the_same_task_only() -> None:
    def listed(ti_id: str, task_id: str, manifest: str) -> Any:
        return SimpleNamespace(ti_id=ti_id, dag_id="dag", task_id=task_id, summary=SimpleNamespace(manifest=manifest))

    newest_first = [
        listed("5", "export", "file:///a/_manifest.json"),
        listed("4", "export", "file:///b/_manifest.json"),
        listed("3", "imitation", "file:///a/_manifest.json"),
        listed("2", "export", "file:///a/_manifest.json"),
        listed("1", "export", "file:///a/_manifest.json"),
    ]

    assert replaced_among(newest_first) == {"2", "1"}


@pytest.mark.parametrize("encoded", [lambda task: {"__type": "operator", "__var": task}, lambda task: task])
def test_a_task_of_this_package_is_recognized_by_module_and_class(encoded: Any) -> None:
    module, name = "airflow_provider_unpod.operators.billing", "UnpodBillingOperator"
    tasks = [
        {"task_id": "ours", "_task_module": module, "task_type": name},
        {"task_id": "mapped", "_task_module": module, "task_type": name, "_is_mapped": True},
        {"task_id": "namesake", "_task_module": "dags.evil", "task_type": name},
        {"task_id": "other", "_task_module": module, "task_type": "PythonOperator"},
    ]

    assert list(own_tasks_of({"dag": {"tasks": [encoded(task) for task in tasks]}})) == ["ours", "mapped"]
    assert list(own_tasks_of(None)) == []


@pytest.mark.parametrize(("currencies", "statuses", "is_listed"), [(100, 1, True), (101, 1, False), (2, 51, False)])
def test_a_forged_summary_with_more_totals_than_the_operator_returns_is_not_listed(
    currencies: int, statuses: int, is_listed: bool
) -> None:
    cells = {f"status{number}": {"count": 1, "amount": "1.00"} for number in range(statuses)}
    summary = {
        "manifest": "file:///exports/_manifest.json",
        "export_id": "one",
        "manifest_sha256": "0" * 64,
        "count": 1,
        "totals": {f"C{number}": cells for number in range(currencies)},
        "consistency": "linked",
    }

    assert (listed._summary_of(summary) is not None) == is_listed
