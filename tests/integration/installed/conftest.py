"""Distributes the tests over processes by release: those of one release need one another.

xdist's own groups would do, but xdist 3.8 does not recognize them with pytest 9.2.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling


class ByRelease(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return nodeid.rpartition("[")[2]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByRelease:
    return ByRelease(config, log)
