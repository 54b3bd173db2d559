"""Certified exports into tables of a database, each exactly once. Knows databases by their DB-API, and no Airflow."""
