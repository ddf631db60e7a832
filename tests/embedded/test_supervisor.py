"""Starting in order, starting again, and stopping for certain; with stand-in processes and real services."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from embedded.checkout import ROOT
from embedded.child import LOG_LIMIT, Backoff, Process, StartFailed
from embedded.memory import descendants, megabytes, tree_megabytes
from embedded.supervisor import Supervisor, supervised
from tests.embedded.conftest import clean_env

ENV = {"PATH": "/usr/bin:/bin"}
QUICK = Backoff(first_s=0.05, most_s=0.2, healthy_s=0.5)


def sh(name: str, script: str, **more: object) -> Process:
    return Process(name, ["/bin/sh", "-c", script], ENV, **more)  # type: ignore[arg-type]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.02)


def kill(supervisor: Supervisor, name: str) -> int:
    pid = supervisor.children[name].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


def test_a_killed_child_comes_back_and_one_line_says_so(tmp_path: Path) -> None:
    said: list[str] = []

    async def story() -> tuple[int, int | None]:
        async with supervised(log_dir=tmp_path, say=said.append, backoff=QUICK) as supervisor:
            await supervisor.start(sh("worker", "exec sleep 1000"))
            old = kill(supervisor, "worker")
            await until(lambda: any("back" in line for line in said))
            return old, supervisor.children["worker"].pid

    old, new = asyncio.run(story())

    assert new not in (None, old)
    assert said[0] == "worker ended (SIGKILL); starting it again in 0.05 s"
    assert re.fullmatch(rf"worker is back after \d\.\d s \(pid {new}\)", said[1])


def test_the_wait_doubles_up_to_a_limit_and_is_forgotten_after_a_healthy_time(tmp_path: Path) -> None:
    said: list[str] = []

    def waits() -> list[str]:
        return [line.rpartition(" in ")[2] for line in said if "again" in line]

    async def story() -> None:
        async with supervised(log_dir=tmp_path, say=said.append, backoff=QUICK) as supervisor:
            await supervisor.start(sh("worker", "exec sleep 1000"))
            for deaths in range(1, 5):
                kill(supervisor, "worker")
                await until(lambda deaths=deaths: sum("back" in line for line in said) == deaths)
            await asyncio.sleep(QUICK.healthy_s)
            kill(supervisor, "worker")
            await until(lambda: len(waits()) == 5)

    asyncio.run(story())

    assert waits() == ["0.05 s", "0.1 s", "0.2 s", "0.2 s", "0.05 s"]


def test_a_child_that_cannot_be_started_again_is_tried_until_it_can(tmp_path: Path) -> None:
    said: list[str] = []
    good = tmp_path / "good"
    good.touch()

    async def story() -> int:
        async with supervised(log_dir=tmp_path, say=said.append, backoff=QUICK) as supervisor:
            await supervisor.start(
                sh("worker", f"test -e {good} || exit 3; exec sleep 1000", is_healthy=lambda _: good.exists())
            )
            good.unlink()
            kill(supervisor, "worker")
            await until(lambda: sum("exit 3) before it was ready" in line for line in said) >= 2)
            good.touch()
            await until(lambda: any("is back" in line for line in said))
            return supervisor.children["worker"].restarts

    assert asyncio.run(story()) >= 3


def test_what_a_dead_child_left_in_its_group_goes_too(tmp_path: Path) -> None:
    async def story() -> list[psutil.Process]:
        async with supervised(log_dir=tmp_path, say=print, backoff=QUICK) as supervisor:
            await supervisor.start(sh("worker", "sleep 1000 & sleep 1000 & wait"))
            pid = supervisor.children["worker"].pid
            await until(lambda: len(psutil.Process(pid).children()) == 2)
            pool = list(psutil.Process(pid).children())
            kill(supervisor, "worker")
            await until(lambda: not any(process.is_running() for process in pool))
            return pool

    assert len(asyncio.run(story())) == 2


def test_a_start_that_fails_names_the_process_and_shows_the_end_of_its_log(tmp_path: Path) -> None:
    async def story() -> None:
        async with supervised(log_dir=tmp_path, say=print) as supervisor:
            await supervisor.start(
                sh("good", "exec sleep 1000"),
                sh("web", "echo no such module; sleep 0.1; exit 4", is_healthy=lambda _: False),
            )

    with pytest.raises(StartFailed) as failure:
        asyncio.run(story())

    assert "web ended (exit 4) before it was ready" in str(failure.value)
    assert str(failure.value).endswith("  no such module")
    assert psutil.Process().children() == []


def test_a_child_that_is_not_healthy_in_time_is_a_failed_start(tmp_path: Path) -> None:
    async def story() -> None:
        async with supervised(log_dir=tmp_path, say=print) as supervisor:
            await supervisor.start(sh("web", "exec sleep 1000", is_healthy=lambda _: False, start_timeout_s=0.2))

    with pytest.raises(StartFailed, match="web was not ready within 0.2 s"):
        asyncio.run(story())

    assert psutil.Process().children() == []


def test_a_command_that_is_run_once_must_succeed(tmp_path: Path) -> None:
    async def story() -> None:
        async with supervised(log_dir=tmp_path, say=print) as supervisor:
            await supervisor.run_once("migrate", ["/bin/sh", "-c", "echo fine"], ENV, tmp_path)
            await supervisor.run_once("migrate", ["/bin/sh", "-c", "echo no table; exit 1"], ENV, tmp_path)

    with pytest.raises(StartFailed, match=r"migrate failed \(exit 1\)(.|\n)*no table"):
        asyncio.run(story())

    assert "fine" in (tmp_path / "migrate.log").read_text()


def test_children_stop_in_the_order_of_their_ranks(tmp_path: Path) -> None:
    order = tmp_path / "order"

    def child(name: str, rank: int) -> Process:
        script = f'trap "echo {name} >> {order}; exit 0" TERM; touch {tmp_path}/{name}.up; while :; do sleep 0.02; done'
        return sh(name, script, stop_rank=rank, is_healthy=lambda _: (tmp_path / f"{name}.up").exists())

    async def story() -> None:
        async with supervised(log_dir=tmp_path, say=print) as supervisor:
            await supervisor.start(child("postgres", 9), child("beat", 0))
            await supervisor.start(child("web", 2), child("worker", 1))

    asyncio.run(story())

    assert order.read_text().split() == ["beat", "worker", "web", "postgres"]


def test_a_child_that_ignores_its_signal_is_stopped_by_force(tmp_path: Path) -> None:
    async def story() -> float:
        async with supervised(log_dir=tmp_path, say=print) as supervisor:
            stubborn = sh("worker", 'trap "" TERM; while :; do sleep 1; done', stop_signals=((signal.SIGTERM, 0.2),))
            await supervisor.start(stubborn)
            await asyncio.sleep(0.1)
            began = time.monotonic()
        return time.monotonic() - began

    assert 0.2 <= asyncio.run(story()) < 2
    assert psutil.Process().children() == []


def test_a_log_that_has_grown_is_set_aside_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "worker.log").write_bytes(b"x" * (LOG_LIMIT + 1))

    async def story() -> None:
        async with supervised(log_dir=tmp_path, say=print) as supervisor:
            await supervisor.run_once("worker", ["/bin/echo", "new"], ENV, tmp_path)

    asyncio.run(story())

    assert (tmp_path / "worker.log.1").stat().st_size == LOG_LIMIT + 1
    assert (tmp_path / "worker.log").read_text().endswith("new\n")


@pytest.mark.parametrize("victims", ["supervisor", "supervisor and guard"])
def test_a_killed_supervisor_leaves_no_orphan(home: Path, victims: str) -> None:
    command = [sys.executable, "-m", "tests.embedded.stand_in", str(home)]
    with subprocess.Popen(command, cwd=ROOT, env=clean_env(), stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == "up\n"
        time.sleep(0.3)
        family = psutil.Process(supervisor.pid).children(recursive=True)
        guard = next(process for process in family if "guard.py" in " ".join(process.cmdline()))
        names = [" ".join(process.cmdline()) for process in family]
        if victims == "supervisor and guard":
            guard.kill()
        supervisor.kill()

    _, alive = psutil.wait_procs(family, timeout=9)

    assert any("SELECT" in name for name in names)  # a busy backend was among them
    if victims == "supervisor":
        assert alive == []
    else:  # without the guard only what ignores its signals on purpose remains: direct children are tied to us
        assert all("trap" in " ".join(process.cmdline()) or process.name() == "sleep" for process in alive)
        for process in alive:
            process.kill()


def test_a_killed_guard_is_replaced_at_the_next_start(tmp_path: Path) -> None:
    async def story() -> tuple[int, int]:
        async with supervised(log_dir=tmp_path, say=print, backoff=QUICK) as supervisor:
            await supervisor.start(sh("worker", "exec sleep 1000"))
            first = supervisor.guard.pid
            os.kill(first, signal.SIGKILL)
            await until(lambda: psutil.Process(first).status() == psutil.STATUS_ZOMBIE)
            await supervisor.start(sh("beat", "exec sleep 1000"))
            assert psutil.pid_exists(supervisor.guard.pid)
            return first, supervisor.guard.pid

    first, second = asyncio.run(story())

    assert first != second


def test_memory_of_a_tree_is_the_sum_of_its_processes(tmp_path: Path) -> None:
    with subprocess.Popen(["/bin/sh", "-c", "sleep 1000 & sleep 1000 & echo; wait"], stdout=subprocess.PIPE) as tree:
        assert tree.stdout is not None
        tree.stdout.readline()
        pids = descendants(tree.pid)
        total, parts = tree_megabytes(tree.pid), sum(map(megabytes, pids))
        for pid in reversed(pids):
            os.kill(pid, signal.SIGKILL)

    assert len(pids) == 3
    assert total == pytest.approx(parts, rel=0.5)
    assert 0 < total < 50
    assert megabytes(tree.pid) == 0
