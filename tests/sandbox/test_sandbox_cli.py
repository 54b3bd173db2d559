"""The command line of the sandbox."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import fields
from datetime import date
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import requests

from airflow_provider_unpod.sandbox import Sandbox
from airflow_provider_unpod.sandbox.cli import COMMANDS, _server_parser, main
from airflow_provider_unpod.sandbox.faults import MOVES, RESPONSES, TRANSFERS, Fault
from airflow_provider_unpod.sandbox.ledger import Ledger

MODULE = [sys.executable, "-m", "airflow_provider_unpod.sandbox"]


def shown(pattern: str, greeting: str) -> str:
    """Return the first group of a pattern in the greeting."""
    match = re.search(pattern, greeting)
    assert match is not None
    return str(match.group(1))


@contextmanager
def serving(*arguments):
    """A sandbox in a process of its own; yields the process and what it printed at the start."""
    process = subprocess.Popen(
        [*MODULE, "--port", "0", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Ctrl-C"):
                break
        yield process, "".join(lines)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_printed_connection_works_and_a_signal_stops_the_server_at_once(number):
    with serving("--org", "acme", "--invoices", "30") as (process, greeting):
        assert "SANDBOX" in greeting.splitlines()[0]
        assert "not the Unpod service" in greeting
        connection = json.loads(shown(r"AIRFLOW_CONN_UNPOD_DEFAULT='(.*)'", greeting))
        url = f"{connection['host']}:{connection['port']}"
        with requests.Session() as session:
            session.trust_env = False
            headers = {"Authorization": f"Token {connection['password']}", "Org-Handle": connection["login"]}
            body = session.get(f"{url}/api/v2/platform/organisation/billing/", headers=headers, timeout=10).json()
            assert body["count"] == 30
            pay = shown(r"(pay \d+ --port \d+)", greeting).split()
            assert main(pay) == 0
            # The connection is still open: stopping does not wait for it.
            process.send_signal(number)
            assert process.wait(timeout=5) == 0
        assert process.stderr.read() == ""


def test_the_same_date_gives_the_same_invoices_on_any_day():
    with serving("--invoices", "30", "--today", "2026-07-01") as (_, greeting):
        connection = json.loads(shown(r"AIRFLOW_CONN_UNPOD_DEFAULT='(.*)'", greeting))
        url = f"{connection['host']}:{connection['port']}"
        with requests.Session() as session:
            session.trust_env = False
            last = session.get(f"{url}/sandbox/invoices/130", timeout=10).json()
    (expected,) = Ledger(30, today=date(2026, 7, 1)).page(1, 1)
    assert last == expected
    assert last["invoice_date"].startswith("2026-06-")


@pytest.mark.slow
def test_a_port_in_use_gives_one_line_that_says_what_to_do():
    with Sandbox() as sandbox:
        run = subprocess.run([*MODULE, "--port", str(sandbox.port)], capture_output=True, text=True, timeout=30)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == (
        f"error: port {sandbox.port} of 127.0.0.1 is in use; choose another with --port (0 picks a free one)\n"
    )


def test_without_aiohttp_the_error_says_what_to_install():
    script = (
        "import sys; sys.modules['aiohttp'] = None\n"
        "from airflow_provider_unpod.sandbox.cli import main; sys.exit(main([]))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert run.returncode == 1
    assert run.stderr == "error: the sandbox needs aiohttp: pip install 'airflow-provider-unpod[sandbox]'\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--fault", "teapot"], "Unknown fault 'teapot'"),
        (["--drift", "insert"], "KIND:EVERY"),
        (["--order", "random"], "invalid choice"),
        (["--today", "2026-7-1"], "--today: must be a date such as 2026-07-01"),
    ],
)
def test_an_invalid_option_is_refused_with_a_reason(arguments, reason, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert reason in capsys.readouterr().err


def test_a_setting_out_of_range_is_refused_with_a_reason():
    run = subprocess.run([*MODULE, "--rate-limit", "0"], capture_output=True, text=True, timeout=30)
    assert (run.returncode, run.stderr) == (1, "error: rate_limit must be at least 1, got 0.\n")


def test_commands_control_a_running_sandbox(capsys):
    with Sandbox(invoices=5, orgs=("unpod.tv", "acme")) as sandbox:

        def command(*arguments):
            status = main([*arguments, "--port", str(sandbox.port)])
            return status, json.loads(capsys.readouterr().out)

        for action, after in (("pay", "paid"), ("fail", "failed"), ("refund", "refunded"), ("cancel", "cancelled")):
            assert command(action, "101")[1]["status"] == after
            assert sandbox.ledger.get(101).status == after
        assert command("show", "INV-00101")[1]["id"] == 101
        status, made = command("create", "--amount", "7.50", "--currency", "EUR", "--status", "paid", "--org", "acme")
        assert status == 0
        assert sandbox.ledgers["acme"].get(made["id"]).amount == "7.50"
        assert command("delete", str(made["id"]), "--org", "acme")[0] == 0
        assert made["id"] not in sandbox.ledgers["acme"]
        assert command("faults", "500:times=1", "429")[1] == {"faults": ["500:times=1", "429"]}
        assert command("faults")[1] == {"faults": []}
        assert command("stats")[1]["requests"] == 0
        assert command("stats", "--reset")[0] == 0


def test_a_command_that_fails_says_why_and_exits_with_1(capsys):
    with Sandbox(invoices=5) as sandbox:
        assert main(["pay", "999", "--port", str(sandbox.port)]) == 1
        assert capsys.readouterr().err == "error: Invoice 999 does not exist in this ledger.\n"
        assert main(["faults", "teapot", "--port", str(sandbox.port)]) == 1
        assert "teapot" in capsys.readouterr().err
    assert main(["pay", "101", "--port", str(sandbox.port)]) == 1
    assert "no sandbox responds on port" in capsys.readouterr().err


def test_a_command_sent_to_another_server_says_that_it_is_not_a_sandbox(capsys):
    class Other(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_error(501)

        def log_message(self, *arguments):
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        Thread(target=server.handle_request, daemon=True).start()
        assert main(["pay", "101", "--port", str(server.server_port)]) == 1
    assert "is not a sandbox; see --port" in capsys.readouterr().err


def test_the_guide_names_every_option_command_and_kind_of_fault():
    guide = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text()
    options = [option for action in _server_parser()._actions for option in action.option_strings if option != "-h"]
    names = [field.name for field in fields(Fault) if field.name != "kind"]
    for name in [*options, *COMMANDS, *RESPONSES, *TRANSFERS, *MOVES, *names]:
        assert name == "--help" or f"`{name}" in guide, name
