"""Makes `.venv` and installs the pinned requirements; run by `./r3edge` with whatever Python it found.

Two first runs do not collide (a lock), an interrupted one is repaired by the next (a marker that only a finished
install removes), and the copies of the requirement files that `./r3edge` compares are written last and whole.
What is optional is installed by `./r3edge install NAME`, and kept current from then on; that it cannot be installed keeps
nothing from starting. Standard library only: nothing is installed yet.
"""

import argparse
import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

VENV = Path(".venv")
INCOMPLETE = VENV / ".r3edge-incomplete"
LOCK = Path("var/install.lock")
# One empty file for each extra that was installed once: it outlives .venv, and the shell script can read it.
ASKED = Path("var/extras")
EXTRAS = {
    "sources": "candles of Yahoo Finance, through yfinance (100 MB with what it needs)",
    "backtest": "faster sweeps and long backtests, through numba (170 MB with what it needs)",
    "optimise": "a search for parameters that learns from its trials, through optuna (60 MB with what it needs)",
    "freqtrade": "strategies written for freqtrade, with pandas and TA-Lib (90 MB)",
}


class InstallFailed(Exception):
    pass


def stamp_of(requirements: str) -> Path:
    return VENV / f".r3edge-{requirements}"


def is_installed(requirements: str) -> bool:
    stamp = stamp_of(requirements)
    return stamp.exists() and stamp.read_bytes() == Path(requirements).read_bytes()


def is_usable() -> bool:
    """Whether `.venv` holds a Python that starts: its base may have been removed since."""
    python = VENV / "bin/python"
    return (
        python.exists() and subprocess.run([python, "-I", "-c", ""], capture_output=True, check=False).returncode == 0
    )


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Hold the install lock; wait for another first run, saying so."""
    LOCK.parent.mkdir(exist_ok=True)
    with LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another r3edge is installing; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_venv(uv: str | None) -> None:
    if VENV.is_symlink():
        VENV.unlink()
    elif VENV.exists():
        shutil.rmtree(VENV)
    VENV.mkdir()
    INCOMPLETE.touch()
    if uv:
        run([uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(VENV)])
    else:
        run([sys.executable, "-I", "-m", "venv", str(VENV)])


def install(requirements: str, uv: str | None) -> None:
    python = str(VENV / "bin/python")
    if uv:
        uv_pip = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python]
        run([*uv_pip, "--require-hashes", "-r", requirements])
        return
    if subprocess.run([python, "-I", "-c", "import pip"], capture_output=True, check=False).returncode != 0:
        run([python, "-I", "-m", "ensurepip"])  # a .venv that uv made has no pip
    pip = [python, "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    run([*pip, "--require-hashes", "-r", requirements])


def write_stamp(requirements: str, content: bytes) -> None:
    half = stamp_of(requirements).with_suffix(".half")
    half.write_bytes(content)
    half.replace(stamp_of(requirements))


def run(command: list[str]) -> None:
    done = subprocess.run(command, check=False)
    if done.returncode != 0:
        raise InstallFailed(f"installing failed, exit {done.returncode} of: {' '.join(command)}")


def say(text: str) -> None:
    print(f"r3edge: {text}", file=sys.stderr, flush=True)


def file_of(extra: str) -> str:
    return f"requirements-{extra}.txt"


def asked_for() -> list[str]:
    """The extras that were ever asked for and that this version has."""
    return [extra for extra in EXTRAS if (ASKED / extra).exists() and Path(file_of(extra)).exists()]


def main(wanted: str) -> None:
    files = ["requirements.txt"] if wanted == "requirements.txt" else ["requirements.txt", wanted]
    uv = shutil.which("uv")
    with alone():
        if INCOMPLETE.exists() or not is_usable():
            say(f"making .venv with {sys.executable} ({'uv' if uv else 'venv and pip'})")
            make_venv(uv)
        for requirements in files:
            if is_installed(requirements):
                continue
            say(f"installing {requirements} (a minute or so the first time)")
            content = Path(requirements).read_bytes()
            INCOMPLETE.touch()
            install(requirements, uv)
            write_stamp(requirements, content)
        INCOMPLETE.unlink(missing_ok=True)
        for extra in asked_for():
            try:
                install_extra(extra, uv)
            except InstallFailed as error:
                say(f"{error}; going on with {extra} as it is")


def install_extra(extra: str, uv: str | None) -> None:
    """Install an extra that is not as its requirements say. It changes nothing that the platform runs on, so `.venv` is not
    incomplete meanwhile."""
    requirements = file_of(extra)
    if not is_installed(requirements):
        say(f"installing {requirements}")
        content = Path(requirements).read_bytes()
        install(requirements, uv)
        write_stamp(requirements, content)


def install_extras(arguments: list[str]) -> None:
    """`./r3edge install`: list the extras, or install those named and remember them."""
    listed = "\n".join(f"  {extra:9} {text}" for extra, text in EXTRAS.items())
    parser = argparse.ArgumentParser(
        prog="r3edge install",
        description="Install what is optional. Without a name: list what there is.",
        epilog=f"{listed}\n\nIt is kept as its requirements say from then on, until its file under {ASKED} is deleted.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="one of those below")
    names = parser.parse_args(arguments).names
    unknown = [name for name in names if name not in EXTRAS]
    if unknown:
        say(f"unknown extra '{unknown[0]}', wanted some of: {', '.join(EXTRAS)}")
        sys.exit(2)
    if not names:
        for extra, text in EXTRAS.items():
            state = "installed" if extra in asked_for() and is_installed(file_of(extra)) else "not installed"
            print(f"{extra:9} {text}: {state}")
        return
    main("requirements.txt")
    with alone():
        for name in names:
            install_extra(name, shutil.which("uv"))
            ASKED.mkdir(parents=True, exist_ok=True)
            (ASKED / name).touch()
    say(f"{', '.join(names)}: installed; a platform that is running uses it after a restart")


if __name__ == "__main__":
    os.umask(0o022)
    try:
        if sys.argv[1] == "install":
            install_extras(sys.argv[2:])
        else:
            main(sys.argv[1])
    except InstallFailed as error:
        sys.exit(f"r3edge: {error}")
    except KeyboardInterrupt:
        sys.exit("r3edge: interrupted; the next run repairs .venv")
