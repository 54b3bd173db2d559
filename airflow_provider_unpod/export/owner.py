"""The owner of a folder: an organization and, within a run, one task instance.

Mapped tasks with one ``output_path`` would replace each other's files, and all would succeed. So a file names its
owner, and another owner of the same run is refused.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_unpod.billing.errors import short_repr

if TYPE_CHECKING:
    from collections.abc import Mapping


class Other(NamedTuple):
    """Another owner of a path, and what to do about it."""

    who: str
    remedy: str


class Owner(NamedTuple):
    """The owner of files, as recorded in their claim and in the files themselves.

    :param organization: handle of the organization. ``None`` if there is none.
    :param run: ``dag_id``, ``task_id``, ``run_id`` and ``map_index`` of the task instance. ``None`` outside of Airflow.
    """

    organization: Any
    run: Any

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Owner:
        """Return the owner that a claim or another file names."""
        return cls(content.get("organization"), content.get("run"))

    def claim(self, what: str) -> bytes:
        """Return the content of a claim.

        :param what: a sentence for people who find the file.
        """
        note = f"{what} This file is removed when it ends."
        return (json.dumps({**self._asdict(), "note": note}, indent=2) + "\n").encode()

    def other_than(self, text: bytes) -> Other | None:
        """Return the owner of a claim or another file if it is another one or unknown. ``None`` if it is the same.

        Other runs of the same task are the same owner. The organization of a damaged file can often still be read, so
        that it can be replaced.

        :param text: the file, a JSON object.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            content = None
        other = Owner.of(content) if isinstance(content, dict) else None
        if other is None or (other.organization is None and self.organization is not None):
            return Other("an unknown organization (the file is damaged or has a later version)", "Use another path")
        if other.organization != self.organization:
            who = f"organization {short_repr(other.organization)}, not of {short_repr(self.organization)}"
            return Other(who, "Use a separate path for each organization")
        if not self._is_same_run(other):
            return None
        if other.run.get("task_id") != self.run.get("task_id"):
            who = f"task {short_repr(other.run.get('task_id'))} of this run"
            return Other(who, "Use a separate path for each task")
        if other.run.get("map_index") != self.run.get("map_index"):
            who = f"map_index {short_repr(other.run.get('map_index'))} of this task and run"
            return Other(who, "Put `{{ ti.map_index }}` or the mapped value into `output_path`")
        return None

    def _is_same_run(self, other: Owner) -> bool:
        if not (isinstance(self.run, dict) and isinstance(other.run, dict)):
            return False
        return all(self.run.get(name) == other.run.get(name) for name in ("dag_id", "run_id"))
