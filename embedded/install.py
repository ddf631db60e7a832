"""Makes `.venv` and installs the pinned requirements; run by `./r3edge` with whatever Python it found.

Two first runs do not collide (a lock), an interrupted one is repaired by the next (a marker that only a finished
install removes), and the copies of the requirement files that `./r3edge` compares are written last and whole.
Standard library only: nothing is installed yet.
"""

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
        sys.exit(f"r3edge: installing failed, exit {done.returncode} of: {' '.join(command)}")


def say(text: str) -> None:
    print(f"r3edge: {text}", file=sys.stderr, flush=True)


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


if __name__ == "__main__":
    os.umask(0o022)
    try:
        main(sys.argv[1])
    except KeyboardInterrupt:
        sys.exit("r3edge: interrupted; the next run repairs .venv")
