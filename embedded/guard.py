"""Outlives a supervisor that was killed, by a few seconds, to end the process groups that it left.

Reads lines from the supervisor (`watch PGID SIGNAL`, `forget PGID`, `remove PATH`); the end of that pipe means the
supervisor is gone, however it died. Standard library only, `python -I -S`, in a session of its own.
"""

import contextlib
import os
import shutil
import signal
import sys
import time

GRACE_S = 6.0


def is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def send(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def end(groups: dict[int, int]) -> None:
    """Ask each group with its own signal, then insist."""
    for group, number in groups.items():
        send(group, number)
    deadline = time.monotonic() + GRACE_S
    while any(map(is_alive, groups)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for group in groups:
        send(group, signal.SIGKILL)


def main() -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    groups: dict[int, int] = {}
    paths: list[str] = []
    for line in sys.stdin:
        verb, _, rest = line.rstrip("\n").partition(" ")
        if verb == "watch":
            group, number = rest.split(" ")
            groups[int(group)] = int(number)
        elif verb == "forget":
            groups.pop(int(rest), None)
        elif verb == "remove":
            paths.append(rest)
    end(groups)
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    main()
