"""``unpod://<handle>/billing``: one organization has one URI, in Airflow's own assets."""

from __future__ import annotations

import warnings

import pytest
from airflow.providers.common.compat.sdk import Asset

from airflow_provider_unpod.assets import billing_asset, billing_asset_uri, sanitize_uri

AIRFLOW_3 = Asset.__name__ == "Asset"  # 2.11 calls it Dataset


@pytest.mark.parametrize(
    "spelling",
    [
        "unpod://unpod.tv/billing",
        "unpod://unpod.tv/billing/",
        "unpod://unpod.tv",
        "unpod://unpod.tv/",
        "UNPOD://unpod.tv/billing#top",
        "unpod://unpod%2Etv/billing",
    ],
)
def test_every_spelling_of_one_organization_is_one_asset(spelling: str) -> None:
    assert Asset(uri=spelling).uri == billing_asset("unpod.tv").uri == "unpod://unpod.tv/billing"


@pytest.mark.parametrize(
    ("handle", "uri"),
    [
        ("acme", "unpod://acme/billing"),
        ("Acme", "unpod://Acme/billing"),
        ("a b/c:d@e?f#g", "unpod://a%20b%2Fc%3Ad%40e%3Ff%23g/billing"),
        ("бухгалтерия", "unpod://%D0%B1%D1%83%D1%85%D0%B3%D0%B0%D0%BB%D1%82%D0%B5%D1%80%D0%B8%D1%8F/billing"),
    ],
)
def test_every_handle_has_its_own_asset(handle: str, uri: str) -> None:
    assert billing_asset_uri(handle) == uri
    assert billing_asset(handle).uri == uri


@pytest.mark.parametrize(
    "uri",
    [
        "unpod:///billing",
        "unpod://acme/invoices",
        "unpod://acme:80/billing",
        "unpod://me@acme/billing",
        "unpod://acme?a=b",
    ],
)
def test_another_form_of_uri_is_refused_when_the_dag_is_parsed(uri: str) -> None:
    # 2.11 drops `me@` by itself, and makes a warning of what its handlers refuse.
    if AIRFLOW_3:
        with pytest.raises(ValueError, match="unpod://"):
            Asset(uri=uri)
    else:
        with pytest.warns(UserWarning, match="AIP-60|auth info"):
            Asset(uri=uri)


def test_an_empty_handle_is_refused() -> None:
    for handle in ("", "  "):
        with pytest.raises(ValueError, match="organization handle"):
            billing_asset(handle)


def test_normalizing_twice_changes_nothing() -> None:
    from urllib.parse import urlsplit

    for uri in ("unpod://a%20b", "unpod://x%252Fy/billing/"):
        once = sanitize_uri(urlsplit(uri))
        assert sanitize_uri(once) == once


def test_a_valid_uri_causes_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        billing_asset("unpod.tv")
