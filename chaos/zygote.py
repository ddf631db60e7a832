"""One process that has imported the platform, and forks a worker or beat of it on request: in a tenth of the time and the
CPU that starting one takes, so that processes can be killed by the thousand.

It keeps no thread, no connection and no database. Each request is a line of JSON on its standard input: a process to fork,
or one to ask after; each answer one on its standard output: the new process's id, or the other's exit code.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Zygote:
    """The controller's end: forks processes in ``env``."""

    def __init__(self, env: Mapping[str, str], log: Path) -> None:
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "chaos.zygote"], env=dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=errors, start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    def fork(self, arguments: Sequence[str], env: Mapping[str, str], log: Path) -> int:
        """A new process that leads a session of its own; its id. Raises RuntimeError when the zygote has died."""
        pid = self._ask({"arguments": list(arguments), "env": dict(env), "log": str(log)})
        assert pid is not None
        return pid

    def poll(self, pid: int) -> int | None:
        """The exit code of one that was forked, negative for a signal; None while it runs. Raises as ``fork`` does."""
        return self._ask({"poll": pid})

    def _ask(self, wanted: dict[str, Any]) -> int | None:
        asked, answers = self._process.stdin, self._process.stdout
        assert asked is not None
        assert answers is not None
        try:
            asked.write(json.dumps(wanted).encode() + b"\n")
            asked.flush()
            answer: int | None = json.loads(answers.readline())
        except (OSError, ValueError):
            raise RuntimeError(f"wanted a zygote that answers, its exit code was {self._process.poll()}") from None
        return answer

    def close(self) -> None:
        """End it, and with it all that it has forked."""
        self._process.kill()
        self._process.wait(10)


def serve() -> None:
    """Import the platform, then fork for each line until there are no more."""
    import django  # noqa: PLC0415  # nothing of this module is worth importing in the controller

    django.setup()
    from chaos import worker  # noqa: PLC0415  # after Django's setup
    from exchanges.services import gateways_warm  # noqa: PLC0415
    from r3edge_site.celery import app  # noqa: PLC0415

    app.loader.import_default_modules()
    gateways_warm()
    # What is there now is for ever: the children share it as long as the collector does not touch it.
    gc.freeze()
    ended: dict[int, int] = {}
    while line := sys.stdin.buffer.readline():
        wanted = json.loads(line)
        ended |= _reaped()
        if "poll" in wanted:
            _answer(ended.get(wanted["poll"]))
            continue
        pid = os.fork()
        if pid == 0:
            _begin(wanted["env"], wanted["log"])
            worker.become(wanted["arguments"])
            os._exit(0)
        ended.pop(pid, None)  # of an earlier process of that number
        _answer(pid)


def _reaped() -> dict[int, int]:
    """The exit codes of those that have ended and were not asked after by anybody; without this they stay as zombies."""
    codes = {}
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            codes[found[0]] = os.waitstatus_to_exitcode(found[1])
    return codes


def _answer(number: int | None) -> None:
    os.write(1, json.dumps(number).encode() + b"\n")


def _begin(env: Mapping[str, str], log: str) -> None:
    """Stand apart from the zygote: a session, a log and signals of one's own; yet die when it dies."""
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.environ.update(env)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(output)
    os.close(nothing)
    # Asked by this signal, it writes down where each of its threads stands: a process that does not end has its reason.
    faulthandler.register(signal.SIGUSR2, all_threads=True)


if __name__ == "__main__":
    serve()
