"""The named moments at which a process can be made to die, so that recovery from each is tested in the real program."""

from __future__ import annotations

import itertools
import os
import signal

# How often this process has come by the crash point that the environment names.
_passes = itertools.count(1)


def crashpoint(name: str) -> None:
    """Die here, as by SIGKILL, when the environment asks for it: ``R3EDGE_CRASH_AT=name``, or ``name:3`` for the third time
    that this process comes by.

    Recovery from a crash at the worst moment is a promise; this is how a test reaches that moment in the real program.
    """
    wanted, _, nth = os.environ.get("R3EDGE_CRASH_AT", "").partition(":")
    if wanted == name and next(_passes) >= int(nth or 1):
        os.kill(os.getpid(), signal.SIGKILL)
