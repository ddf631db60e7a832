"""`./r3edge`, the shell script: what it refuses, from where it works, and when it installs."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedded.checkout import ROOT
from embedded.install import EXTRAS, file_of
from tests.embedded.conftest import Run, clean_env

COMMANDS = ("demo", "up", "worker", "test", "check", "bench", "chaos", "manage", "install")


@pytest.mark.parametrize("asked", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command_and_installs_nothing(run: Run, clone: Path, asked: list[str]) -> None:
    (clone / ".venv").unlink()

    done = run(clone / "r3edge", *asked)

    assert done.returncode == 0
    assert [command for command in COMMANDS if f"\n  {command} " not in done.stdout] == []
    assert done.stderr == ""
    assert not (clone / ".venv").exists()


def test_an_unknown_command_is_one_clear_line(run: Run, clone: Path) -> None:
    (clone / ".venv").unlink()

    done = run(clone / "r3edge", "fly")

    assert done.returncode == 2
    assert done.stderr == (
        "r3edge: unknown command 'fly', wanted one of: demo, up, worker, test, check, bench, backtest, chaos, manage, "
        "install\n"
    )
    assert not (clone / ".venv").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(run: Run, command: str) -> None:
    done = run(ROOT / "r3edge", command, "--help")

    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: r3edge {command}")


def test_it_works_through_a_link_from_another_directory_with_spaces_in_its_path(run: Run, clone: Path) -> None:
    elsewhere = clone.parent / "else where"
    elsewhere.mkdir()
    (elsewhere / "relative").symlink_to("../a clone with spaces/r3edge")
    (elsewhere / "link to link").symlink_to("relative")
    (clone / "manage.py").write_text("import os, sys; print(sys.argv[1:], os.getcwd())\n")

    services = {"DATABASE_URL": "postgresql://x/y", "REDIS_URL": "redis://x/0"}
    done = run("./link to link", "a b", "--c", cwd=elsewhere, **services)
    done = run("./link to link", "manage", "a b", "--c", cwd=elsewhere, **services)

    assert done.stdout == f"['a b', '--c'] {elsewhere}\n"
    assert done.returncode == 0


def test_nothing_of_the_callers_python_leaks_in(run: Run, clone: Path, home: Path) -> None:
    (clone / "manage.py").write_text("import os; print(os.environ.get('DJANGO_SETTINGS_MODULE'))\n")
    (home / "asyncio.py").write_text("raise SystemExit('the wrong asyncio')\n")
    env = {"PYTHONPATH": str(home), "PYTHONHOME": "/nonexistent", "DJANGO_SETTINGS_MODULE": "wrong"}

    services = {"DATABASE_URL": "postgresql://x/y", "REDIS_URL": "redis://x/0"}
    done = run(clone / "r3edge", "manage", "check", cwd=home, **env, **services)

    assert (done.stdout, done.stderr) == ("r3edge_site.settings\n", "")


def test_manage_starts_its_services_says_nothing_and_returns_the_exit_code(run: Run, clone: Path) -> None:
    (clone / "manage.py").write_text(
        "import os, psycopg, redis, sys\n"
        "with psycopg.connect(os.environ['DATABASE_URL']) as c: print(c.execute('SELECT 42').fetchone()[0])\n"
        "print(redis.Redis.from_url(os.environ['REDIS_URL']).ping(), len(os.environ['R3EDGE_SECRET_KEY']))\n"
        "sys.exit(7)\n"
    )

    done = run(clone / "r3edge", "manage", "check")

    assert (done.stdout, done.stderr, done.returncode) == ("42\nTrue 64\n", "", 7)


def test_test_runs_pytest_on_services_that_are_gone_afterwards(run: Run, clone: Path) -> None:
    (clone / "test_probe.py").write_text(
        "import os, psycopg, redis\n"
        "def test_services():\n"
        "    with psycopg.connect(os.environ['DATABASE_URL']) as c: home = c.execute('SHOW data_directory').fetchone()[0]\n"
        "    assert redis.Redis.from_url(os.environ['REDIS_URL']).ping()\n"
        "    open('home', 'w').write(home)\n"
        "def test_failing():\n"
        "    assert 'R3EDGE_ENCRYPTION_KEYS' not in os.environ\n"
    )

    done = run(clone / "r3edge", "test", "-n", "0", "-p", "no:django", "test_probe.py", "-q")

    assert "1 failed, 1 passed" in done.stdout
    assert done.returncode == 1
    assert not Path((clone / "home").read_text()).exists()


def test_no_suitable_python_is_said_plainly(run: Run, clone: Path, home: Path) -> None:
    (clone / ".venv").unlink()
    tools = home / "tools"
    tools.mkdir()
    for name in ("sh", "dirname", "readlink", "cmp", "cat"):
        (tools / name).symlink_to(shutil.which(name) or "")
    old = tools / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)

    none = run(clone / "r3edge", "up", PATH=str(tools))
    wrong = run(clone / "r3edge", "up", PYTHON=str(old))

    assert none.stderr.startswith("r3edge: no Python 3.11 to 3.13 found; wanted one on PATH")
    assert none.returncode == 1
    assert wrong.stderr.startswith(f"r3edge: PYTHON is {old}; wanted a Python 3.11 to 3.13")
    assert wrong.returncode == 1


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone without .venv whose requirements are nothing, so that it is the installing that is looked at."""
    root = tmp_path_factory.mktemp("install") / "fresh clone"
    (root / "embedded").mkdir(parents=True)
    shutil.copy2(ROOT / "r3edge", root)
    shutil.copy2(ROOT / "embedded/install.py", root / "embedded")
    (root / "embedded/__main__.py").write_text("import sys\nsys.stdout.write(f'{sys.prefix}\\n')\n")
    for name in ("requirements.txt", "requirements-dev.txt", "requirements-sources.txt"):
        (root / name).write_text(f"# {name}: nothing\n")
    return root


def test_it_installs_once_when_two_begin_together_and_again_only_after_a_change(run: Run, fresh: Path) -> None:
    env = {**clean_env(), "PYTHON": sys.executable}
    pair = [
        subprocess.Popen([fresh / "r3edge", "up"], env=env, stdout=-1, stderr=-1, text=True, cwd="/") for _ in range(2)
    ]
    said = "".join(err for _, err in (process.communicate(timeout=100) for process in pair))
    again = run(fresh / "r3edge", "up")
    (fresh / "requirements.txt").write_text("# still nothing, said otherwise\n")
    changed = run(fresh / "r3edge", "up")
    for_tests = run(fresh / "r3edge", "test")

    assert [process.returncode for process in pair] == [0, 0]
    assert said.count("making .venv") == 1
    assert said.count("installing requirements.txt") == 1
    assert (again.stdout, again.stderr) == (f"{fresh / '.venv'}\n", "")
    assert "making" not in changed.stderr
    assert changed.stderr.count("installing requirements.txt") == 1
    assert for_tests.stderr.count("installing requirements-dev.txt") == 1
    assert "installing requirements.txt" not in for_tests.stderr


def test_an_interrupted_install_is_repaired_by_the_next(run: Run, fresh: Path, home: Path) -> None:
    shutil.rmtree(fresh / ".venv", ignore_errors=True)
    slow = home / "uv"  # hangs where the real one would be at work
    slow.write_text("#!/bin/sh\nexec sleep 100\n")
    slow.chmod(0o755)
    env = {**clean_env(), "PYTHON": sys.executable, "PATH": f"{home}:{os.environ['PATH']}"}
    command = [str(fresh / "r3edge"), "up"]
    first = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert first.stderr is not None
    assert "making .venv" in first.stderr.readline()
    while not (fresh / ".venv/.r3edge-incomplete").exists():
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()

    repaired = run(fresh / "r3edge", "up", PYTHON=sys.executable)

    assert repaired.stdout == f"{fresh / '.venv'}\n"
    assert "making .venv" in repaired.stderr
    assert not (fresh / ".venv/.r3edge-incomplete").exists()


def test_an_install_that_fails_says_so_and_is_tried_again(run: Run, fresh: Path) -> None:
    good = (fresh / "requirements.txt").read_text()
    (fresh / "requirements.txt").write_text(f"no-such-distribution==1 --hash=sha256:{'0' * 64}\n")
    nowhere = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/nonexistent", "UV_NO_INDEX": "1", "PYTHON": sys.executable}

    failed = run(fresh / "r3edge", "up", **nowhere)
    (fresh / "requirements.txt").write_text(good)
    repaired = run(fresh / "r3edge", "up", PYTHON=sys.executable)

    assert failed.returncode == 1
    assert failed.stdout == ""
    assert "r3edge: installing failed, exit 1 of:" in failed.stderr
    assert (repaired.returncode, repaired.stdout) == (0, f"{fresh / '.venv'}\n")


# -- what is optional ---------------------------------------------------------------------------------------------------

NOWHERE = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/nonexistent", "UV_NO_INDEX": "1", "PYTHON": sys.executable}
NOT_TO_BE_HAD = f"no-such-distribution==1 --hash=sha256:{'0' * 64}\n"
LISTED = "sources   candles of Yahoo Finance, through yfinance (100 MB with what it needs): "
OTHERS = "".join(f"{name:9} {EXTRAS[name]}: not installed\n" for name in ("backtest", "optimise", "freqtrade"))


@pytest.fixture
def without_extras(fresh: Path) -> Iterator[Path]:
    """The fresh clone, nothing optional installed or asked for."""
    (fresh / "requirements-sources.txt").write_text("# requirements-sources.txt: nothing\n")
    (fresh / ".venv/.r3edge-requirements-sources.txt").unlink(missing_ok=True)
    yield fresh
    shutil.rmtree(fresh / "var/extras", ignore_errors=True)


def test_install_lists_what_is_optional_and_installs_nothing(run: Run, without_extras: Path) -> None:
    before = sorted(without_extras.rglob("*"))

    done = run(without_extras / "r3edge", "install", PYTHON=sys.executable)

    assert (done.stdout, done.stderr, done.returncode) == (f"{LISTED}not installed\n{OTHERS}", "", 0)
    assert sorted(without_extras.rglob("*")) == before


def test_an_extra_is_installed_once_remembered_and_kept_as_its_requirements_say(run: Run, without_extras: Path) -> None:
    command = without_extras / "r3edge"
    env = {"PYTHON": sys.executable}

    first = run(command, "install", "sources", **env)
    again = run(command, "install", "sources", **env)
    listed = run(command, "install", **env)
    quiet = run(command, "up", **env)
    (without_extras / "requirements-sources.txt").write_text("# still nothing, said otherwise\n")
    changed = run(command, "up", **env)
    shutil.rmtree(without_extras / ".venv")
    anew = run(command, "up", **env)

    assert first.stderr.count("installing requirements-sources.txt") == 1
    assert first.stderr.endswith("r3edge: sources: installed; a platform that is running uses it after a restart\n")
    assert "installing" not in again.stderr
    assert listed.stdout == f"{LISTED}installed\n{OTHERS}"
    assert (quiet.stdout, quiet.stderr) == (f"{without_extras / '.venv'}\n", "")
    assert changed.stderr == "r3edge: installing requirements-sources.txt\n"
    assert anew.stderr.count("installing requirements-sources.txt") == 1
    assert [done.returncode for done in (first, again, listed, quiet, changed, anew)] == [0] * 6


def test_an_extra_that_was_not_asked_for_is_not_installed_with_the_rest(run: Run, without_extras: Path) -> None:
    (without_extras / "requirements-sources.txt").write_text(NOT_TO_BE_HAD)

    done = run(without_extras / "r3edge", "test", **NOWHERE)

    assert (done.returncode, "requirements-sources" in done.stderr) == (0, False)


def test_an_extra_that_cannot_be_installed_says_so_is_not_remembered_and_harms_nothing(
    run: Run, without_extras: Path
) -> None:
    run(without_extras / "r3edge", "up", PYTHON=sys.executable)
    (without_extras / "requirements-sources.txt").write_text(NOT_TO_BE_HAD)

    failed = run(without_extras / "r3edge", "install", "sources", **NOWHERE)
    started = run(without_extras / "r3edge", "up", **NOWHERE)

    assert failed.returncode == 1
    assert "r3edge: installing failed, exit 1 of:" in failed.stderr
    assert (started.stdout, started.stderr, started.returncode) == (f"{without_extras / '.venv'}\n", "", 0)


def test_an_extra_that_cannot_be_kept_current_keeps_nothing_from_starting(run: Run, without_extras: Path) -> None:
    run(without_extras / "r3edge", "install", "sources", PYTHON=sys.executable)
    (without_extras / "requirements-sources.txt").write_text(NOT_TO_BE_HAD)

    started = run(without_extras / "r3edge", "up", **NOWHERE)

    assert (started.stdout, started.returncode) == (f"{without_extras / '.venv'}\n", 0)
    assert started.stderr.rstrip().endswith("; going on with sources as it is")


def test_an_extra_that_there_is_not_is_one_clear_line(run: Run, without_extras: Path) -> None:
    done = run(without_extras / "r3edge", "install", "sources", "moon", PYTHON=sys.executable)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "r3edge: unknown extra 'moon', wanted some of: sources, backtest, optimise, freqtrade\n"
    assert not (without_extras / "var/extras").exists()


def test_every_extra_has_requirements_that_agree_with_those_of_the_platform_and_of_its_tests() -> None:
    def pins(name: str) -> dict[str, str]:
        lines = (ROOT / name).read_text().splitlines()
        return dict(re.findall(r"^([a-z0-9._-]+)==([^\s;]+)", "\n".join(lines), re.MULTILINE))

    platform, tests = pins("requirements.txt"), pins("requirements-dev.txt")
    for extra in EXTRAS:
        pinned = pins(file_of(extra))
        assert pinned != {}
        for known in (platform, tests):
            assert {name: known[name] for name in pinned.keys() & known} == {
                name: pinned[name] for name in pinned.keys() & known
            }
