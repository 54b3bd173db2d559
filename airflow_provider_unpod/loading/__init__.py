"""Loads certified exports into database tables, each exactly once. Uses only DB-API connections, not Airflow."""
