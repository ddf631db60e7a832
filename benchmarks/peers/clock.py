"""Runs a job some times in this process and says, in one line of JSON, what it took and came to."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable


def told(job: Callable[[], int], rounds: int, **more: object) -> None:
    """``job`` answers with how many trades it made. The first call is apart: most programs compile or cache in it."""
    taken, trades = [], 0
    for _ in range(rounds):
        began, used = time.perf_counter(), time.process_time()
        trades = job()
        taken.append((time.perf_counter() - began, time.process_time() - used))
    walls, cpus = [wall for wall, _ in taken[1:] or taken], [cpu for _, cpu in taken[1:] or taken]
    found = {
        "trades": trades,
        "first_s": taken[0][0],
        "warm_s": min(walls),
        "warm_cpu_s": min(cpus),
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    sys.stdout.write(json.dumps({**found, **more}) + "\n")
