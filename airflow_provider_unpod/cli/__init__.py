"""The command line: ``python -m airflow_provider_unpod``, and ``airflow unpod`` from Airflow 3.3 on."""
