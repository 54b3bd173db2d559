"""Reads the transitions that started a run, for DAGs that are scheduled on invoices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def transitions_of(triggering_asset_events: Mapping[Any, Iterable[Any]]) -> list[dict[str, Any]]:
    """Return all transitions that started this run, oldest first, each once.

    Airflow may start one run for several events, and may deliver an event twice. A repeated transition has the same
    ``key``. A task that books something should store the key, because two *runs* may get the same transition::

        @task
        def book(triggering_asset_events=None):
            for transition in transitions_of(triggering_asset_events):
                print(transition["key"], transition["invoice"]["amount"])

    :param triggering_asset_events: events by asset, from the task's context.
    :return: dictionaries with ``key``, ``invoice_id``, ``from`` (``None`` for a new invoice), ``to``, ``invoice`` (the
        record) and ``seen_at`` (ISO 8601). Statuses are stripped and case-folded, except in the record.
    """
    found: dict[str, dict[str, Any]] = {}
    for events in triggering_asset_events.values():
        for event in events:
            payload = (event.extra or {}).get("payload")
            for transition in payload.get("transitions", ()) if isinstance(payload, dict) else ():
                found.setdefault(transition["key"], transition)
    return sorted(found.values(), key=lambda transition: str(transition["seen_at"]))
