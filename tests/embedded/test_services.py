"""The embedded PostgreSQL and Valkey, as real processes."""

import asyncio
import contextlib
import os
import signal
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from embedded import services
from embedded.checkout import Checkout
from embedded.child import DataInUse, StartFailed
from embedded.running import start_servers, start_services, start_throwaway_services
from embedded.services import BadData, Postgres, Valkey, free_port, place_data
from embedded.supervisor import Supervisor, supervised


@contextlib.asynccontextmanager
async def running(
    checkout: Checkout, said: list[str] | None = None
) -> AsyncIterator[tuple[Supervisor, dict[str, str]]]:
    async with supervised(log_dir=checkout.log_dir, say=(said if said is not None else []).append) as supervisor:
        yield supervisor, await start_services(supervisor, checkout)


def note(urls: dict[str, str], text: str) -> None:
    with psycopg.connect(urls["DATABASE_URL"]) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS note (text text)")
        connection.execute("INSERT INTO note VALUES (%s)", [text])
    redis.Redis.from_url(urls["REDIS_URL"]).rpush("note", text)


def notes(urls: dict[str, str]) -> tuple[list[str], list[str]]:
    with psycopg.connect(urls["DATABASE_URL"]) as connection:
        in_postgres = [row[0] for row in connection.execute("SELECT text FROM note ORDER BY text")]
    client = redis.Redis.from_url(urls["REDIS_URL"], decode_responses=True)
    return in_postgres, list(client.lrange("note", 0, -1))  # type: ignore[arg-type]


def test_data_survives_a_stop_and_a_kill(checkout: Checkout) -> None:
    async def story() -> tuple[list[str], list[str]]:
        async with running(checkout) as (_, urls):
            note(urls, "1 stopped")
        async with running(checkout) as (supervisor, urls):
            note(urls, "2 killed")
            await asyncio.sleep(1.2)  # Valkey writes its log every second
            for child in supervisor.children.values():
                assert child.pid is not None
                os.kill(child.pid, signal.SIGKILL)
        async with running(checkout) as (_, urls):
            return notes(urls)

    assert asyncio.run(story()) == (["1 stopped", "2 killed"], ["1 stopped", "2 killed"])


def test_a_killed_server_is_started_again_on_the_same_port(checkout: Checkout) -> None:
    said: list[str] = []

    async def story() -> dict[str, str]:
        async with running(checkout, said) as (supervisor, urls):
            note(urls, "kept")
            await asyncio.sleep(1.2)
            for child in supervisor.children.values():
                assert child.pid is not None
                os.kill(child.pid, signal.SIGKILL)
            while not all(any(f"{name} is back" in line for line in said) for name in supervisor.children):
                await asyncio.sleep(0.05)
            return {"kept": str(notes(urls))}

    assert asyncio.run(asyncio.wait_for(story(), 30)) == {"kept": "(['kept'], ['kept'])"}


def test_settings_are_durable_and_a_throw_away_is_fast(checkout: Checkout, home: Path) -> None:
    def settings(urls: dict[str, str]) -> dict[str, str]:
        with psycopg.connect(urls["DATABASE_URL"]) as connection:
            names = ("fsync", "data_checksums", "password_encryption", "unix_socket_directories", "listen_addresses")
            found = {name: connection.execute(f"SHOW {name}").fetchone() for name in names}
        client = redis.Redis.from_url(urls["REDIS_URL"], decode_responses=True)
        kept: dict[str, str] = dict(client.config_get("append*", "maxmemory-policy"))  # type: ignore[arg-type]
        return {name: row[0] for name, row in found.items() if row} | kept

    async def story() -> tuple[dict[str, str], dict[str, str]]:
        async with running(checkout) as (_, urls):
            durable = settings(urls)
        async with supervised(log_dir=checkout.log_dir, say=print) as supervisor:
            return durable, settings(await start_throwaway_services(supervisor, home / "throwaway"))

    (home / "throwaway").mkdir()
    durable, fast = asyncio.run(story())

    assert durable["fsync"] == "on"
    assert durable["data_checksums"] == "on"
    assert durable["password_encryption"] == "scram-sha-256"
    assert durable["unix_socket_directories"] == ""
    assert durable["listen_addresses"] == "127.0.0.1"
    assert durable["appendonly"] == "yes"
    assert durable["appendfsync"] == "everysec"
    assert durable["maxmemory-policy"] == "noeviction"
    assert (fast["fsync"], fast["appendonly"]) == ("off", "no")


def test_a_wrong_password_is_refused_and_the_right_one_shows_nowhere(checkout: Checkout) -> None:
    secrets = [checkout.secret("postgres.password"), checkout.secret("valkey.password")]

    async def story() -> str:
        async with running(checkout) as (supervisor, urls):
            wrong = urls["DATABASE_URL"].replace(secrets[0], "wrong")
            with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                psycopg.connect(wrong)
            with pytest.raises(redis.AuthenticationError):
                redis.Redis.from_url(urls["REDIS_URL"].replace(secrets[1], "wrong")).ping()
            pids = [child.pid for child in supervisor.children.values()]
            return " ".join(" ".join(psutil.Process(pid).cmdline()) for pid in pids)

    shown = asyncio.run(story()) + "".join(path.read_text() for path in checkout.log_dir.iterdir())

    assert "postgres" in shown
    assert not any(secret in shown for secret in secrets)
    assert stat.S_IMODE((checkout.var / "valkey/valkey.conf").stat().st_mode) == 0o600


def test_a_port_that_another_server_took_meanwhile_is_left_to_it(checkout: Checkout) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        postgres = Postgres(checkout.var / "postgres", "secret", taken, is_throwaway=True)
        valkey = Valkey(checkout.var / "valkey", "secret", taken, is_throwaway=True)

        async def story() -> dict[str, str]:
            async with supervised(log_dir=checkout.log_dir, say=print) as supervisor:
                urls = await start_servers(supervisor, {"DATABASE_URL": postgres, "REDIS_URL": valkey})
                note(urls, "mine")
                return {"notes": str(notes(urls))}

        assert asyncio.run(story()) == {"notes": "(['mine'], ['mine'])"}

    assert taken not in (postgres.port, valkey.port)


def test_another_server_that_answers_on_our_port_is_not_taken_for_ours(checkout: Checkout) -> None:
    async def story() -> tuple[bool, bool, bool]:
        async with running(checkout) as (supervisor, urls):
            pid = supervisor.children["postgres"].pid
            port = psycopg.conninfo.conninfo_to_dict(urls["DATABASE_URL"])["port"]
            password = checkout.secret("postgres.password")
            same = Postgres(place_data(checkout.var, "postgres"), password, int(str(port)))
            other_data = Postgres(checkout.var / "elsewhere", password, int(str(port)))
            assert pid is not None
            return same.is_ours(pid), same.is_ours(pid + 1), other_data.is_ours(pid)

    assert asyncio.run(story()) == (True, False, False)


def test_two_servers_never_share_one_data_directory(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedded.child.LOCK_WAIT_S", 0.3)

    async def story() -> None:
        async with running(checkout), supervised(log_dir=checkout.log_dir, say=print) as second:
            await second.start(Valkey(checkout.var / "valkey", "secret", free_port()).process())

    with pytest.raises(DataInUse, match="another server still uses .*valkey"):
        asyncio.run(story())


def test_a_lost_password_file_is_said_plainly(checkout: Checkout) -> None:
    async def start() -> None:
        async with running(checkout):
            pass

    asyncio.run(start())
    (checkout.secrets_dir / "postgres.password").unlink()

    with pytest.raises(BadData, match=r"has another password than var/secrets/postgres.password"):
        asyncio.run(start())


def test_data_of_another_postgresql_version_is_refused(checkout: Checkout) -> None:
    data = checkout.var / "postgres"
    data.mkdir()
    (data / "PG_VERSION").write_text("15\n")

    with pytest.raises(BadData, match="written by PostgreSQL 15, the binaries are 18; wanted the same"):
        Postgres(data, "secret", free_port()).prepare()


def test_a_pid_file_whose_number_another_program_has_now_is_forgotten(checkout: Checkout) -> None:
    data = checkout.var / "postgres"
    data.mkdir()
    (data / "postmaster.pid").write_text(f"{os.getpid()}\n{data}\n")

    with contextlib.suppress(StartFailed):
        Postgres(data, "secret", free_port(), is_throwaway=True).prepare()

    assert not (data / "postmaster.pid").exists()


def test_services_that_the_environment_names_are_not_started(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://theirs/db")

    async def story() -> tuple[list[str], str]:
        async with running(checkout) as (supervisor, urls):
            return list(supervisor.children), urls["DATABASE_URL"]

    assert asyncio.run(story()) == (["valkey"], "postgresql://theirs/db")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to give its servers to another user")
def test_root_in_a_closed_directory_keeps_its_data_where_the_servers_user_can_go(
    checkout: Checkout, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = home / "system"
    monkeypatch.setattr(services, "SYSTEM_HOME", system)
    monkeypatch.setattr(services, "can_enter", lambda path: str(path).startswith(str(system)))
    system.mkdir()

    async def story() -> tuple[set[int], list[str]]:
        async with running(checkout) as (supervisor, urls):
            note(urls, "here")
            programs = [psutil.Process(child.pid) for child in supervisor.children.values()]
            return {program.uids().real for program in programs}, [program.exe() for program in programs]

    users, programs = asyncio.run(story())

    assert 0 not in users
    assert all(program.startswith(str(system)) for program in programs)
    assert (checkout.var / "postgres").resolve().is_relative_to(system)
    assert (checkout.var / "valkey").resolve().is_relative_to(system)
