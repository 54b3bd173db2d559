"""A Singer tap on the SDK's `RESTStream` and page-number paginator; its messages go to the output file."""

import contextlib
import logging
from typing import IO, Any

import measure
from singer_sdk import RESTStream, Tap
from singer_sdk import typing as th
from singer_sdk.pagination import BasePageNumberPaginator


class Pages(BasePageNumberPaginator):
    def has_more(self, response: Any) -> bool:
        return bool(response.json().get("results"))


class Billing(RESTStream):
    name = "billing"
    path = "/api/v2/platform/organisation/billing/"
    records_jsonpath = "$.results[*]"
    primary_keys = ("id",)
    schema = th.PropertiesList(
        th.Property("id", th.IntegerType),
        th.Property("amount", th.StringType),
        th.Property("currency", th.StringType),
        th.Property("status", th.StringType),
        th.Property("invoice_date", th.DateTimeType),
    ).to_dict()

    @property
    def url_base(self) -> Any:
        return self.config["url"]

    @property
    def http_headers(self) -> Any:
        return self.config["headers"]

    def get_new_paginator(self) -> Pages:
        return Pages(1)

    def get_url_params(self, context: Any, next_page_token: Any) -> dict[str, Any]:
        return {"page": next_page_token, "page_size": 100}


class TapUnpod(Tap):
    name = "tap-unpod"
    config_jsonschema = th.PropertiesList(
        th.Property("url", th.StringType), th.Property("headers", th.ObjectType())
    ).to_dict()

    def discover_streams(self) -> list[RESTStream]:
        return [Billing(self)]


def read(url: str, headers: dict[str, str], output: IO[str]) -> None:
    logging.disable(logging.INFO)
    with contextlib.redirect_stdout(output):
        TapUnpod(config={"url": url, "headers": headers}, validate_config=False).sync_all()


if __name__ == "__main__":
    measure.run(read)
