"""Turns a process that was just forked into a worker or beat of the platform, perhaps in a hurry and mutilated."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from celery.__main__ import main

from chaos.pace import hurry


def become(arguments: Sequence[str]) -> None:
    """Be ``celery ARGUMENTS``; ends only with the process. The environment says at what pace (its own when it says
    nothing), and with which mutant."""
    if pace := os.environ.get("R3EDGE_CHAOS_PACE"):
        hurry(float(pace))
    if mutant := os.environ.get("R3EDGE_CHAOS_MUTANT"):
        # Imported when one is wanted: without it nothing of a worker's program is touched.
        importlib.import_module("chaos.mutants").apply(mutant)
    sys.argv = ["celery", *arguments]
    main()
