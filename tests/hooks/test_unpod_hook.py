"""The hook: every definition of a connection gives the same client, and errors name the invalid field."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowNotFoundException, Connection, redact

from airflow_provider_unpod.billing import errors
from airflow_provider_unpod.get_provider_info import CONNECTION_FIELDS
from airflow_provider_unpod.hooks.unpod import UnpodHook, client_from
from airflow_provider_unpod.task_boundary import fail_fast
from tests.billing.faulty_server import FaultyServer, answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_unpod.sandbox.runner import Sandbox

TOKEN = "tok-5EcReT-value"


@pytest.fixture
def define(monkeypatch: pytest.MonkeyPatch) -> Callable[..., UnpodHook]:
    """Returns a function that defines the connection ``unpod_default`` and returns its hook."""

    def define(**fields: Any) -> UnpodHook:
        connection = {"conn_type": "unpod", "login": "acme", "password": TOKEN, **fields}
        monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", json.dumps(connection))
        return UnpodHook()

    return define


class TestAddress:
    @pytest.mark.parametrize(
        ("fields", "base_url"),
        [
            pytest.param({}, "https://unpod.dev", id="empty is the published address"),
            pytest.param({"host": "unpod.ai"}, "https://unpod.ai", id="a name"),
            pytest.param({"host": "http://localhost:3001"}, "http://localhost:3001", id="a URL"),
            pytest.param({"host": "localhost", "port": 3001, "schema": "http"}, "http://localhost:3001", id="parts"),
            pytest.param({"host": "https://unpod.ai/", "port": 0}, "https://unpod.ai", id="as the form saves it"),
        ],
    )
    def test_host_port_and_schema_become_the_base_url(
        self, define: Callable[..., UnpodHook], fields: dict[str, Any], base_url: str
    ) -> None:
        assert define(**fields).get_conn().base_url == base_url

    @pytest.mark.parametrize(
        ("uri", "base_url"),
        [
            (f"unpod://acme:{TOKEN}@unpod.dev", "https://unpod.dev"),
            (f"unpod://acme:{TOKEN}@", "https://unpod.dev"),
            (f"unpod://acme:{TOKEN}@localhost:3001/http", "http://localhost:3001"),
            (f"unpod://http://acme:{TOKEN}@localhost:3001", "http://localhost:3001"),
            (f"unpod://acme:{TOKEN}@https%3A%2F%2Funpod.ai", "https://unpod.ai"),
        ],
    )
    def test_a_uri_gives_the_same_client_as_fields(
        self, monkeypatch: pytest.MonkeyPatch, uri: str, base_url: str
    ) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", f"{uri}?page_size=50&max_concurrency=2&auth_scheme=Bearer")
        client = UnpodHook().get_conn()
        assert (client.base_url, client.org_handle) == (base_url, "acme")
        assert (client.page_size, client.max_concurrency) == (50, 2)

    def test_a_connection_that_airflow_writes_as_a_uri_gives_the_same_client(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connection = Connection(
            conn_id="unpod_default",
            conn_type="unpod",
            host="http://localhost",
            port=3001,
            login="unpod.tv",
            password="a/b:c@d",
            extra=json.dumps({"proxies": {}, "timeout": 2.5, "verify": True, "page_size": 7}),
        )
        monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", connection.get_uri())
        client = UnpodHook().get_conn()
        assert (client.base_url, client.org_handle, client.page_size) == ("http://localhost:3001", "unpod.tv", 7)


class TestConfigurationErrors:
    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"password": None}, "password"),
            ({"login": None}, "login"),
            ({"host": "https://unpod.dev/api/v2"}, "host"),
            ({"host": "https://me:pw@unpod.dev"}, "host"),
            ({"host": "http://unpod.dev"}, "allow_insecure_http"),
            ({"extra": {"auth_scheme": "Basic"}}, "auth_scheme"),
            ({"extra": {"timeout": "soon"}}, "timeout"),
            ({"extra": {"page_size": 0}}, "page_size"),
            ({"extra": {"max_concurrency": "many"}}, "max_concurrency"),
            ({"extra": {"verify": "/no/such/file.pem"}}, "verify"),
            ({"extra": {"proxies": "proxy:3128"}}, "proxies"),
        ],
    )
    def test_the_error_names_the_connection_and_the_field_and_never_the_token(
        self, define: Callable[..., UnpodHook], fields: dict[str, Any], field: str
    ) -> None:
        hook = define(**fields)
        with pytest.raises(errors.UnpodError, match=rf"`{field}`.* Connection: 'unpod_default'\.$") as caught:
            hook.get_conn()
        assert TOKEN not in str(caught.value)
        # The form tests under a random id, which would only confuse.
        without_id = str(caught.value).removesuffix(" Connection: 'unpod_default'.")
        assert hook.test_connection() == (False, without_id)
        assert f"`{field}`" in without_id[:60] or field == "allow_insecure_http"

    @pytest.mark.parametrize("extra", ["{broken", "[1, 2]", '"text"'])
    def test_an_extra_that_is_not_a_json_object_is_refused_and_not_ignored(self, extra: str) -> None:
        # As an old row of the database may give it; Airflow lets none of them in any more.
        row: Any = SimpleNamespace(
            conn_id="old", host=None, port=None, schema=None, login="acme", password=TOKEN, extra=extra
        )
        with pytest.raises(errors.UnpodConfigError, match=r"`extra`.*'old'"):
            client_from(row)

    @pytest.mark.parametrize("empty", ["", None], ids=["Airflow 2.11 saves texts", "Airflow 3 saves nulls"])
    def test_empty_form_fields_mean_their_defaults(self, define: Callable[..., UnpodHook], empty: str | None) -> None:
        extra = {**dict.fromkeys(CONNECTION_FIELDS, empty), "allow_insecure_http": False}
        client = define(extra=extra).get_conn()
        assert (client.page_size, client.max_concurrency) == (100, 4)


class TestUnknownFields:
    SECRET = "valu3-of-a-field"

    def test_a_misspelled_field_causes_one_warning_that_names_it_and_the_known_fields(
        self, define: Callable[..., UnpodHook], caplog: pytest.LogCaptureFixture
    ) -> None:
        define(extra={"time_out": self.SECRET, "timeout": 5, "Verify": self.SECRET}).get_conn()
        (warning,) = [record for record in caplog.records if record.name.startswith("airflow_provider_unpod")]
        said = warning.getMessage()
        assert "'unpod_default'" in said
        assert "'Verify', 'time_out'" in said
        assert all(field in said for field in CONNECTION_FIELDS)
        assert self.SECRET not in said

    def test_the_fields_of_airflows_forms_cause_no_warning(
        self, define: Callable[..., UnpodHook], caplog: pytest.LogCaptureFixture
    ) -> None:
        fields = dict.fromkeys(CONNECTION_FIELDS)
        define(extra={**fields, **{f"extra__unpod__{name}": "" for name in fields}}).get_conn()
        # Airflow warns once a process that its own key is empty.
        ours = [record for record in caplog.records if record.name.startswith("airflow_provider_unpod")]
        assert ours == []

    def test_the_connection_test_names_it_too(self, unpod_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
        _redefine(monkeypatch, unpod_sandbox, extra={"time_out": self.SECRET})
        ok, message = UnpodHook().test_connection()
        assert ok
        assert "'time_out'" in message
        assert self.SECRET not in message


class TestMissingConnection:
    def test_the_error_is_airflows_own_and_says_what_to_do(self) -> None:
        hook = UnpodHook("typo")
        with pytest.raises(
            AirflowNotFoundException, match=r"'typo' does not exist. Create .*`unpod_conn_id`"
        ) as caught:
            hook.get_conn()
        assert hook.test_connection() == (False, str(caught.value))

    @pytest.mark.parametrize("fields", [{"password": 123456}, {"login": 7}, {"host": 5}])
    def test_a_connection_that_airflow_cannot_read_because_of_numbers_is_reported_as_such(
        self, define: Callable[..., UnpodHook], fields: dict[str, Any]
    ) -> None:
        with pytest.raises(AirflowNotFoundException, match=r"^Put all values in AIRFLOW_CONN_UNPOD_DEFAULT in quotes"):
            define(**fields).get_conn()

    @pytest.mark.parametrize(
        ("value", "remedy"),
        [
            ("", "Set AIRFLOW_CONN_UNPOD_DEFAULT to a URI or a JSON object: it is empty."),
            ("unpod://acme:tok/5EcReT@unpod.dev", "Percent-encode AIRFLOW_CONN_UNPOD_DEFAULT: in a URI, / is %2F"),
            ("unpod://acme:tok#5EcReT@unpod.dev", "Percent-encode AIRFLOW_CONN_UNPOD_DEFAULT: in a URI, / is %2F"),
            ("{'conn_type': 'unpod', 'password': '5EcReT'}", "Correct the JSON in AIRFLOW_CONN_UNPOD_DEFAULT: names"),
            ('{"conn_type": "unpod", "token": "5EcReT"}', "Remove 'token' from AIRFLOW_CONN_UNPOD_DEFAULT: Airflow"),
        ],
    )
    def test_a_variable_that_airflow_cannot_read_is_reported_with_what_to_correct(
        self, monkeypatch: pytest.MonkeyPatch, value: str, remedy: str
    ) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", value)
        ok, said = UnpodHook().test_connection()
        assert not ok
        assert said.startswith(remedy)
        assert "5EcReT" not in said

    def test_a_missing_connection_is_retried_because_the_secrets_backend_may_be_unreachable(self) -> None:
        with pytest.raises(AirflowNotFoundException, match="'typo'"), fail_fast():
            UnpodHook("typo").get_conn()


class TestOrganization:
    def test_the_argument_overrides_the_login(self, define: Callable[..., UnpodHook]) -> None:
        define()
        assert UnpodHook(org_handle="globex").get_conn().org_handle == "globex"

    @pytest.mark.parametrize("handle", ["", "   ", "None", True, 7.5, b"acme"])
    def test_an_invalid_handle_never_falls_back_to_the_login(
        self, define: Callable[..., UnpodHook], handle: Any
    ) -> None:
        define()
        with pytest.raises(errors.UnpodConfigError, match=r"^`org_handle`") as caught:
            UnpodHook(org_handle=handle).get_conn()
        assert "login" not in str(caught.value)

    def test_a_handle_that_a_native_template_renders_to_an_integer_becomes_a_string(
        self, define: Callable[..., UnpodHook]
    ) -> None:
        define()
        assert UnpodHook(org_handle=12345).get_conn().org_handle == "12345"  # type: ignore[arg-type]  # the point

    def test_one_hook_has_one_client(self, define: Callable[..., UnpodHook]) -> None:
        hook = define()
        assert hook.get_conn() is hook.get_conn()

    @pytest.mark.parametrize("from_argument", [False, True])
    @pytest.mark.parametrize("fault", ["401", "403", "404"])
    def test_a_refusal_names_the_handle_that_was_sent_and_never_the_token(
        self, unpod_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, fault: str, from_argument: bool
    ) -> None:
        unpod_sandbox.faults(fault)
        if not from_argument:
            _redefine(monkeypatch, unpod_sandbox, login="nobody")
        with pytest.raises(errors.UnpodError, match=r"`login` or `org_handle`.*'nobody'") as caught:
            next(UnpodHook(org_handle="nobody" if from_argument else None).iter_invoices())
        assert type(caught.value) is (errors.UnpodOrganizationNotFound if fault == "404" else errors.UnpodAuthError)
        assert unpod_sandbox.token not in str(caught.value)

    def test_a_token_that_was_entered_as_the_handle_is_not_shown(
        self, unpod_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _redefine(monkeypatch, unpod_sandbox, login=unpod_sandbox.token)
        with pytest.raises(errors.UnpodOrganizationNotFound) as caught:
            next(UnpodHook().iter_invoices())
        assert unpod_sandbox.token not in str(caught.value)


class TestSecrets:
    def test_token_and_proxy_password_are_masked_in_task_logs(self, define: Callable[..., UnpodHook]) -> None:
        hook = define(extra={"proxies": {"https": "http://me:pr0xy%2Fword@proxy.example:3128"}})
        hook.get_conn()
        shown = redact(f"Authorization: Token {TOKEN}; proxy pr0xy%2Fword, pr0xy/word")
        assert shown == "Authorization: Token ***; proxy ***, ***"


class TestConnectionCheck:
    def test_success_names_the_address_and_the_organization(self, unpod_sandbox: Sandbox) -> None:
        ok, message = UnpodHook().test_connection()
        assert ok, message
        assert unpod_sandbox.url in message
        assert unpod_sandbox.org_handle in message

    def test_a_wrong_token_is_reported_and_not_shown(
        self, unpod_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _redefine(monkeypatch, unpod_sandbox, password=TOKEN)
        ok, message = UnpodHook().test_connection()
        assert not ok
        assert "401" in message
        assert TOKEN not in message

    def test_a_handle_without_access_is_reported_with_those_that_work(
        self, unpod_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _redefine(monkeypatch, unpod_sandbox, login="umbrella")
        ok, message = UnpodHook().test_connection()
        assert not ok
        assert "'umbrella'" in message
        assert message.startswith("Organization handle (`login`) must be one of: acme, globex, unpod.tv.")

    def test_a_host_that_does_not_respond_is_reported_after_one_attempt(
        self, unpod_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        unpod_sandbox.__exit__(None, None, None)
        ok, message = UnpodHook().test_connection()
        assert not ok
        assert message.startswith("Check Host (`host`): 127.0.0.1:")
        assert "tries" not in message

    def test_it_reads_no_billing_data(self, unpod_sandbox: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG):
            UnpodHook().test_connection()
        assert unpod_sandbox.token not in caplog.text
        assert "organisation/billing" not in caplog.text


def _redefine(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, **fields: Any) -> None:
    connection = {**json.loads(sandbox.connection_json()), **fields}
    monkeypatch.setenv("AIRFLOW_CONN_UNPOD_DEFAULT", json.dumps(connection))


class TestReading:
    def test_organizations_are_returned_as_the_api_sends_them(self, unpod_sandbox: Sandbox) -> None:
        handles = [each["domain_handle"] for each in UnpodHook().get_organizations()]
        assert handles == ["unpod.tv", "acme", "globex"]

    @pytest.mark.unpod_sandbox(invoices=230)
    @pytest.mark.parametrize("consistency", ["linked", "single-pass"])
    def test_all_invoices_once_with_evidence_at_the_end(self, unpod_sandbox: Sandbox, consistency: str) -> None:
        with UnpodHook().iter_invoices(consistency=consistency) as invoices:
            first = next(invoices)
            with pytest.raises(RuntimeError):
                _ = invoices.evidence
            ids = [first.invoice_id, *(invoice.invoice_id for invoice in invoices)]
            assert invoices.evidence.as_dict()["consistency"] == consistency
        assert len(ids) == len(set(ids)) == 230

    @pytest.mark.unpod_sandbox(invoices=230)
    def test_filters_by_status_and_half_open_dates(self, unpod_sandbox: Sandbox) -> None:
        hook = UnpodHook()
        everything = list(hook.iter_invoices())
        moment = everything[100].invoice_date
        assert moment is not None
        paid = [(each, each.invoice_date) for each in everything if each.status == "paid"]
        wanted = [each for each, date in paid if date is not None and date >= moment]
        rest = [each for each, date in paid if date is not None and date < moment]
        assert len(wanted) + len(rest) == len(paid)
        assert wanted
        assert rest
        ids = [each.invoice_id for each in hook.iter_invoices(statuses="paid", invoice_date_from=moment)]
        assert ids == [each.invoice_id for each in wanted]
        ids = [each.invoice_id for each in hook.iter_invoices(statuses=["paid"], invoice_date_to=moment)]
        assert ids == [each.invoice_id for each in rest]

    def test_invalid_arguments_are_refused_before_any_request(self, unpod_sandbox: Sandbox) -> None:
        hook = UnpodHook()
        for arguments in (
            {"consistency": "hope"},
            {"page_size": 0},
            {"page_size": "10"},
            {"max_concurrency": 65},
            {"invoice_date_from": "yesterday"},
        ):
            with pytest.raises(errors.UnpodConfigError):
                hook.iter_invoices(**arguments)
        assert hook.get_conn().requests_made == 0

    @pytest.mark.unpod_sandbox(invoices=2000)
    def test_leaving_early_stops_the_requests(self, unpod_sandbox: Sandbox) -> None:
        hook = UnpodHook()
        with hook.iter_invoices(max_concurrency=1) as invoices:
            next(invoices)
        assert hook.get_conn().requests_made < 10
        assert list(invoices) == []


class TestOneInvoice:
    def test_a_string_and_an_integer_id_are_the_same_invoice(self, unpod_sandbox: Sandbox) -> None:
        hook = UnpodHook()
        some = next(hook.iter_invoices())
        for spelling in (some.invoice_id, str(some.invoice_id)):
            assert hook.get_invoice(spelling).raw == some.raw

    def test_an_unknown_invoice_raises_an_error_that_names_it(self, unpod_sandbox: Sandbox) -> None:
        with pytest.raises(errors.UnpodInvoiceNotFound, match="'no-such-invoice'"):
            UnpodHook().get_invoice("no-such-invoice")

    @pytest.mark.parametrize("nonsense", [None, "", "None", 1.5, True, [101]])
    def test_an_invalid_id_is_refused_before_any_request(self, unpod_sandbox: Sandbox, nonsense: Any) -> None:
        with pytest.raises(errors.UnpodConfigError, match="`invoice_id`"):
            UnpodHook().get_invoice(nonsense)
        assert unpod_sandbox.stats["requests"] == 0

    @pytest.mark.unpod_sandbox(invoices=2000)
    def test_finding_an_invoice_again_costs_one_request(self, unpod_sandbox: Sandbox) -> None:
        hook = UnpodHook()
        invoice_id = list(hook.iter_invoices())[1234].invoice_id
        hook.get_invoice(invoice_id)
        before = hook.get_conn().requests_made
        hook.get_invoice(invoice_id)
        assert hook.get_conn().requests_made == before + 1


class TestMessages:
    """Messages of the connection test begin with the field and the remedy."""

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"password": ""}, "Enter the API token (`password`): it is empty."),
            ({"password": f"Token {TOKEN}"}, "Enter the API token (`password`) alone, without `Token` or `Bearer`"),
            ({"password": "***"}, "Enter the API token (`password`) again: it is ***"),
            ({"login": ""}, "Enter the organization handle (`login`), for example unpod.tv"),
            ({"login": "a\nb"}, "The organization handle (`login`, or `org_handle`) must be printable ASCII"),
            ({"host": "https://unpod.dev/api"}, "Host (`host`) must be the address alone, without a path"),
            ({"host": "https://unpod.dev?x=1"}, "Host (`host`) must be the address alone, without a query"),
            ({"host": "https://me:pw@unpod.dev"}, "Host (`host`) must be the address alone, without credentials"),
            ({"host": "ftp://unpod.dev"}, "Host (`host`) must begin with https:// or http://"),
            ({"host": "un pod"}, "Host (`host`) must be a host name such as"),
            ({"host": "http://[::1"}, "Host (`host`) must be an address such as"),
            ({"host": "http://unpod.dev"}, "Host (`host`) must be an https address: plain http would expose"),
            ({"host": "unpod.dev", "port": 70000}, "Port (`port`) must be empty or a number from 1 to 65535."),
            ({"host": "unpod.dev:80", "port": 81}, "Port (`port`) must be 80, as in `host`, or empty; got 81."),
            ({"schema": "gopher"}, "Schema (`schema`) must be https, http or empty."),
            (
                {"host": "https://unpod.dev", "schema": "http"},
                "Schema (`schema`) must be https, as in `host`, or empty",
            ),
            ({"extra": {"timeout": "soon"}}, "Timeout (`timeout`) must be seconds above 0, at most 86400"),
            ({"extra": {"page_size": 0}}, "Page size (`page_size`) must be a whole number, from 1 to 100000, got 0."),
            (
                {"extra": {"max_concurrency": "65"}},
                "Max. concurrency (`max_concurrency`) must be a whole number, from 1 to 64, got 65.",
            ),
            ({"extra": {"verify": "/no/ca.pem"}}, "Verify TLS (`verify`) must be true, false or an existing CA file"),
            ({"extra": {"proxies": "proxy:1"}}, "Proxies (`proxies`) must be a JSON object such as"),
            ({"extra": {"proxies": {"https": "socks5://p:1"}}}, "Proxies (`proxies`) must be a JSON object such as"),
            ({"extra": {"auth_scheme": "Basic"}}, "Authorization scheme (`auth_scheme`) must be Token"),
            (
                {"extra": {"allow_insecure_http": "maybe"}},
                "Allow insecure HTTP (`allow_insecure_http`) must be true or false",
            ),
            ({"extra": {"product_id": "\u00fc"}}, "Product ID (`product_id`) must be printable ASCII characters"),
            ({"password": 123456}, "Put all values in AIRFLOW_CONN_UNPOD_DEFAULT in quotes"),
        ],
    )
    def test_a_broken_connection_says_what_to_change(
        self, define: Callable[..., UnpodHook], fields: dict[str, Any], message: str
    ) -> None:
        ok, said = define(**fields).test_connection()
        assert not ok
        assert said.startswith(message)
        assert TOKEN not in said

    def test_a_token_without_access_to_any_organization_is_reported(
        self, define: Callable[..., UnpodHook], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            "airflow_provider_unpod.billing.client.UnpodClient.get_organizations",
            lambda self, page, page_size: ([{"id": 1, "domain_handle": None}], 1),
        )
        ok, said = define().test_connection()
        assert not ok
        assert said == "Check API token (`password`): it is valid, but it cannot access any organization."

    def test_the_list_of_another_api_is_not_taken_for_organizations(self, define: Callable[..., UnpodHook]) -> None:
        with FaultyServer(otherwise=answer({"count": 1, "results": [{"name": "pikachu"}]})) as another:
            ok, said = define(host=another.url).test_connection()
        assert not ok
        assert said.startswith("Check Host (`host`): what it lists are not organizations")
