"""Apache Airflow provider for Unpod billing: read, export and wait for an organization's invoices."""

__version__ = "0.1.0"
