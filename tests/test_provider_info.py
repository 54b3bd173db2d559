"""Airflow understands the provider's metadata, and shows the same form on 2.11 and 3.x."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import pkgutil
import re
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from airflow.providers_manager import ProvidersManager

import airflow_provider_unpod
from airflow_provider_unpod.billing.http.base_url import base_url_of
from airflow_provider_unpod.billing.http.settings import OPTIONS, options_in
from airflow_provider_unpod.get_provider_info import CONNECTION_FIELDS, FIELD_BEHAVIOUR, get_provider_info
from airflow_provider_unpod.hooks.unpod import UnpodHook

PROVIDER = "airflow-provider-unpod"
ROOT = Path(airflow_provider_unpod.__file__).parents[1]
HAS_METADATA_FORMS = '"conn-fields"' in (resources.files("airflow") / "provider.yaml.schema.json").read_text()
metadata_forms = pytest.mark.skipif(not HAS_METADATA_FORMS, reason="Airflow 3.2 and later read forms from metadata")
AIRFLOW_3 = int(importlib.metadata.version("apache-airflow").partition(".")[0]) >= 3
airflow_3 = pytest.mark.skipif(not AIRFLOW_3, reason="Airflow 2.11 has another way to show forms")
airflow_2 = pytest.mark.skipif(AIRFLOW_3, reason="only Airflow 2.11 shows the hook's own widgets")


def _checked(extra: dict[str, Any]) -> dict[str, Any]:
    return {name: OPTIONS[name](value) for name, value in options_in(extra).items()}


def airflow_schema(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((resources.files("airflow") / name).read_text())
    return loaded


class TestMetadata:
    def test_metadata_is_valid_by_airflows_own_schema(self) -> None:
        jsonschema.validate(get_provider_info(), airflow_schema("provider_info.schema.json"))

    @metadata_forms
    def test_metadata_has_no_key_that_airflow_does_not_know(self) -> None:
        # Unknown and misspelled keys pass the schema above; the one for provider.yaml is strict.
        schema = {**airflow_schema("provider.yaml.schema.json"), "required": []}
        info = get_provider_info()
        assert info.pop("dataset-uris") == info["asset-uris"]  # 2.11's name for the same
        jsonschema.validate(info, schema)

    def test_airflow_finds_it_by_the_name_of_the_distribution(self) -> None:
        provider = ProvidersManager().providers[PROVIDER]
        assert provider.version == airflow_provider_unpod.__version__ == importlib.metadata.version(PROVIDER)

    def test_lists_every_module_that_dag_authors_import_and_all_of_them_import(self) -> None:
        info = get_provider_info()
        for kind in ("hooks", "operators", "sensors", "triggers"):
            listed = {name for entry in info[kind] for name in entry["python-modules"]}
            package = importlib.import_module(f"airflow_provider_unpod.{kind}")
            public = {name for _, name, _ in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")}
            assert listed <= public, f"{kind}: listed, but not there"
            for name in listed:
                importlib.import_module(name)


class TestForm:
    def test_has_a_field_for_everything_that_the_extra_may_hold(self) -> None:
        assert set(CONNECTION_FIELDS) == set(OPTIONS)

    def test_placeholders_and_examples_are_values_that_the_client_accepts(self) -> None:
        placeholders = dict(FIELD_BEHAVIOUR["placeholders"])
        assert base_url_of(placeholders.pop("host"), int(placeholders.pop("port")[:3]), None) == "https://unpod.dev"
        assert placeholders.pop("login")
        assert not placeholders
        for name, field in CONNECTION_FIELDS.items():
            for value in (*field["schema"].get("enum", ()), *field["schema"].get("examples", ())):
                assert _checked({name: value})
        shown = re.search(r"{.*}", CONNECTION_FIELDS["proxies"]["description"])
        assert shown is not None
        assert _checked({"proxies": shown[0]})

    def test_limits_in_the_form_are_those_of_the_client(self) -> None:
        for name, field in CONNECTION_FIELDS.items():
            for limit in ("minimum", "maximum"):
                if limit in field["schema"]:
                    assert _checked({name: field["schema"][limit]})

    @airflow_3
    def test_airflow_3_shows_the_form(self) -> None:
        from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService

        # Any: all fields are declared as optional, and one that is missing fails the test anyhow.
        forms: list[Any] = [each for each in HookMetaService.hook_meta_data() if each.connection_type == "unpod"]
        (form,) = forms
        assert form.hook_name == "Unpod"
        assert form.standard_fields.login.title == "Organization handle"
        assert form.standard_fields.password.title == "API token"
        assert form.standard_fields.host.placeholder == "https://unpod.dev"
        assert form.standard_fields.port.title == "Port (443 for https)"
        assert form.standard_fields.port.placeholder == "443 (Test Connection needs a port)"
        assert form.standard_fields.url_schema.hidden
        # 3.1 asks the hook, later versions read the metadata.
        shown = {name: (field["schema"]["title"], field["description"]) for name, field in form.extra_fields.items()}
        assert shown == {name: (field["label"], field["description"]) for name, field in CONNECTION_FIELDS.items()}

    @airflow_2
    def test_airflow_2_shows_the_same_from_the_hook(self) -> None:
        manager = ProvidersManager()
        assert manager.hooks["unpod"].hook_name == "Unpod"  # type: ignore[union-attr]  # not None: it imports
        assert manager.hooks["unpod"].connection_testable  # type: ignore[union-attr]  # as above
        behaviour = manager.field_behaviours["unpod"]
        assert behaviour["relabeling"] == FIELD_BEHAVIOUR["relabeling"]
        assert behaviour["hidden_fields"] == FIELD_BEHAVIOUR["hidden-fields"]
        shown = {
            info.field_name: (info.field.kwargs["label"], info.field.kwargs["description"])
            for key, info in manager.connection_form_widgets.items()
            if key.startswith("extra__unpod__")
        }
        assert shown == {name: (field["label"], field["description"]) for name, field in CONNECTION_FIELDS.items()}

    @airflow_2
    @pytest.mark.parametrize(
        ("entered", "wrong"),
        [
            ({}, set()),
            ({"auth_scheme": "jwt", "page_size": "50", "timeout": "2.5", "allow_insecure_http": "true"}, set()),
            (
                {"auth_scheme": "Basic", "page_size": "0", "max_concurrency": "65"},
                {"auth_scheme", "page_size", "max_concurrency"},
            ),
        ],
    )
    def test_airflow_2_checks_what_is_entered(self, entered: dict[str, str], wrong: set[str]) -> None:
        from werkzeug.datastructures import MultiDict
        from wtforms import Form

        form = type("UnpodForm", (Form,), UnpodHook.get_connection_form_widgets())(MultiDict(entered))
        form.validate()
        assert set(form.errors) == wrong
        _checked({name: value for name, value in form.data.items() if name not in wrong})

    def test_hook_and_metadata_agree_on_the_standard_fields(self) -> None:
        from_hook = UnpodHook.get_ui_field_behaviour()
        assert {key.replace("_", "-"): value for key, value in from_hook.items()} == FIELD_BEHAVIOUR
        connection_type = get_provider_info()["connection-types"][0]
        assert connection_type["connection-type"] == UnpodHook.conn_type
        assert connection_type["hook-name"] == UnpodHook.hook_name
        assert connection_type["hook-class-name"] == f"{UnpodHook.__module__}.{UnpodHook.__qualname__}"
