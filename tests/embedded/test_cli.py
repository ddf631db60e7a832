"""What the commands accept, and what a second one is told."""

import os
import socket
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest

from embedded import commands
from embedded.checkout import Checkout, State
from embedded.child import StartFailed
from embedded.cli import main
from embedded.running import Options, Plan, is_answering, joined_env
from tests.embedded.conftest import Run, clean_env

BAD = [
    (["up", "--web-port", "x"], "argument --web-port: wanted a whole number from 0 to 65535, was 'x'"),
    (["up", "--web-port", "65536"], "argument --web-port: wanted a whole number from 0 to 65535, was '65536'"),
    (["up", "--flower-port", "-1"], "argument --flower-port: wanted a whole number from 0 to 65535, was '-1'"),
    (["up", "--host", "example.org"], "argument --host: wanted an IP address or localhost, was 'example.org'"),
    (["up", "now"], "unrecognized arguments: now"),
    (["up", "--web"], "unrecognized arguments: --web"),
    (["demo", "--speed", "0"], "argument --speed: wanted a number from 0.001 to 100000, was '0'"),
    (["demo", "--speed", "nan"], "argument --speed: wanted a number from 0.001 to 100000, was 'nan'"),
    (["demo", "--seed", "1.5"], "argument --seed: wanted a whole number from 0 to 2.14748e+09, was '1.5'"),
    (["demo", "--timeout", "-3"], "argument --timeout: wanted a number from 1 to 86400, was '-3'"),
    (["worker"], "the following arguments are required: QUEUE"),
    (
        ["worker", "orders", "order"],
        "argument QUEUE: unknown queue 'order', wanted some of: "
        "exits, exchanges, marketdata, strategies, sessions, pipeline, positions, money, orders",
    ),
    (
        ["worker", "orders", "--concurrency", "0"],
        "argument --concurrency: wanted a whole number from 1 to 256, was '0'",
    ),
    (["worker", "orders", "--pool", "solo"], "argument --pool: invalid choice: 'solo' (choose from"),
    (
        ["check", "all"],
        "argument NAME: unknown check 'all', wanted some of: lint, format, types, floors, migrations, django",
    ),
    (["chaos", "--seed", "x"], "r3edge chaos: argument --seed: wanted a whole number from 0 to 2147483647, was 'x'"),
    (["bench"], "the following arguments are required: NAME"),
    (["fly"], "argument COMMAND: invalid choice: 'fly'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_a_bad_option_is_one_clear_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(arguments)

    said = capsys.readouterr()

    assert refused.value.code == 2
    assert message in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


@pytest.mark.parametrize(("command", "code"), [("up", 0), ("demo", 1)])
def test_a_second_start_says_what_runs_and_harms_nothing(run: Run, clone: Path, command: str, code: int) -> None:
    checkout = Checkout(clone)
    checkout.make()
    state = State(4711, "up", is_ready=True, urls={"admin": "http://127.0.0.1:8000/admin/"})

    with checkout.lock():
        checkout.write_state(state)
        done = run(clone / "r3edge", command)
        after = checkout.state()

    said = done.stdout + done.stderr
    assert said.startswith("r3edge: `r3edge up` runs already in this checkout (pid 4711)\n")
    assert "http://127.0.0.1:8000/admin/" in said
    assert done.returncode == code
    assert after == state


def test_a_worker_without_a_platform_says_what_is_missing(run: Run, clone: Path) -> None:
    services = {"DATABASE_URL": "postgresql://x/y", "REDIS_URL": "redis://x/0"}

    nothing = run(clone / "r3edge", "worker", "orders")
    half = run(clone / "r3edge", "worker", "orders", DATABASE_URL="postgresql://x/y")
    no_keys = run(clone / "r3edge", "worker", "orders", **services)

    assert "DATABASE_URL and REDIS_URL not set" in nothing.stderr
    assert "and REDIS_URL not set" in half.stderr
    assert "R3EDGE_SECRET_KEY and R3EDGE_ENCRYPTION_KEYS not set" in no_keys.stderr
    assert [nothing.returncode, half.returncode, no_keys.returncode] == [1, 1, 1]


def test_a_command_joins_the_services_of_the_platform_that_runs(checkout: Checkout) -> None:
    passwords = checkout.secret("postgres.password"), checkout.secret("valkey.password")

    env = joined_env(checkout, State(os.getpid(), "up", is_ready=True, postgres_port=5001, valkey_port=5002))

    assert env == {
        "DATABASE_URL": f"postgresql://r3edge:{passwords[0]}@127.0.0.1:5001/r3edge",
        "REDIS_URL": f"redis://:{passwords[1]}@127.0.0.1:5002/0",
    }


def test_a_joining_command_cannot_guess_services_that_only_the_platform_was_told(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    with checkout.lock():
        checkout.write_state(State(os.getpid(), "up", is_ready=True, valkey_port=5002))

        with pytest.raises(StartFailed, match="the platform here uses a DATABASE_URL of its own"):
            commands.worker_env(checkout)


def test_a_checkout_that_cannot_be_written_is_one_clear_line(clone: Path, run: Run) -> None:
    (clone / "var").mkdir()
    (clone / "var/secrets").write_text("a file where a directory is wanted")

    done = run(clone / "r3edge", "manage", "check")

    assert done.stderr == f"r3edge: cannot make the directory {clone}/var/secrets: File exists\n"
    assert done.returncode == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_web_servers_own_health_check_is_always_allowed_in(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("R3EDGE_ALLOWED_HOSTS", "trade.example.org")

    plan = Plan(Options(host=host, web_port=0, flower_port=0), checkout, {})
    allowed = plan.env["R3EDGE_ALLOWED_HOSTS"].split(",")

    assert plan.urls["admin"] == f"http://127.0.0.1:{plan.web_port}/admin/"
    assert {"trade.example.org", "127.0.0.1", "[::1]"} <= set(allowed)


@pytest.mark.parametrize("has_stream", [False, True])
def test_the_stream_is_started_where_it_was_asked_for_and_is_ready_when_it_says_so(
    has_stream: bool, checkout: Checkout
) -> None:
    plan = Plan(Options(web_port=0, flower_port=0, has_stream=has_stream), checkout, {})

    streams = [process for process in plan.with_tables() if process.name == "stream"]

    assert [process.command[1:] for process in streams] == ([["manage.py", "stream"]] if has_stream else [])
    assert not any(process.is_healthy(os.getpid()) for process in streams)


def test_an_address_that_is_not_this_machines_is_said(checkout: Checkout) -> None:
    with pytest.raises(StartFailed, match="cannot listen on 192.0.2.1 port 8000: Cannot assign requested address"):
        Plan(Options(host="192.0.2.1"), checkout, {})


def test_health_is_asked_for_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)

    class Ready(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/ready" else 404)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Ready) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        answers = [is_answering(f"http://127.0.0.1:{server.server_port}/{path}", 0) for path in ("ready", "other")]
        server.shutdown()

    assert answers == [True, False]


def test_a_port_that_was_asked_for_and_is_busy_is_said(checkout: Checkout) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]

        with pytest.raises(StartFailed, match=f"--web-port {taken} is busy on 127.0.0.1; wanted a free one"):
            Plan(Options(web_port=taken), checkout, {})


def test_a_terminated_manage_passes_it_on_and_stops_its_services(clone: Path) -> None:
    (clone / "manage.py").write_text(
        "import signal, sys, time\n"
        "def end(*_): sys.exit(9)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('running', flush=True)\n"
        "time.sleep(100)\n"
    )
    command = [str(clone / "r3edge"), "manage", "wait"]
    with subprocess.Popen(command, env=clean_env(), stdout=subprocess.PIPE, text=True) as manage:
        assert manage.stdout is not None
        assert manage.stdout.readline() == "running\n"
        family = psutil.Process(manage.pid).children(recursive=True)
        manage.terminate()
        code = manage.wait(20)

    _, alive = psutil.wait_procs(family, timeout=5)

    assert code == 9
    assert len(family) > 8  # PostgreSQL's own among them
    assert alive == []


def test_a_killed_manage_takes_its_command_and_its_services_along(clone: Path) -> None:
    (clone / "manage.py").write_text("import time; print('running', flush=True); time.sleep(100)\n")
    command = [str(clone / "r3edge"), "manage", "wait"]
    with subprocess.Popen(command, env=clean_env(), stdout=subprocess.PIPE, text=True) as manage:
        assert manage.stdout is not None
        assert manage.stdout.readline() == "running\n"
        family = psutil.Process(manage.pid).children(recursive=True)
        manage.kill()

    _, alive = psutil.wait_procs(family, timeout=9)

    assert alive == []
