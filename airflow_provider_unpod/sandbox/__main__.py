"""``python -m airflow_provider_unpod.sandbox``: starts a sandbox, or controls a running one."""

from __future__ import annotations

import sys

from airflow_provider_unpod.sandbox.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
