"""The Unpod billing API, without Airflow: importable, usable and testable alone."""
