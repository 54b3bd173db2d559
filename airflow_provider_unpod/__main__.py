"""Runs the command line as ``python -m airflow_provider_unpod``."""

from __future__ import annotations

import sys

from airflow_provider_unpod.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
