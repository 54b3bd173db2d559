"""The command line: ``python -m airflow_provider_unpod``, and ``airflow unpod`` where Airflow lets providers add it."""
