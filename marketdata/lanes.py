"""Where sources are asked: some threads for each place, so that one that hangs holds up nobody but those who wait for it.

A lane belongs to this process and is shared by all of its tasks; what is asked in it never holds a transaction.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor

from django.db import connections

logger = logging.getLogger(__name__)

# At an answer in 150 ms two hundred a second: the four hundred feeds that KuCoin's budget for public data lets through at
# once have been asked for within two.
LANE_THREADS = 32

_lanes: dict[Hashable, ThreadPoolExecutor] = {}
_lock = threading.Lock()


def ask_in_lane(lane: Hashable, question: Callable[[], None]) -> None:
    """Run ``question`` in a thread of ``lane`` as soon as one is free; it tells its outcome itself, and raises nothing."""
    with _lock:
        if lane not in _lanes:
            _lanes[lane] = ThreadPoolExecutor(LANE_THREADS, thread_name_prefix=f"lane-{lane}")
    _lanes[lane].submit(_asked, question)


def _asked(question: Callable[[], None]) -> None:
    try:
        question()
    except Exception:
        logger.exception("a question raised what it should have told")
    finally:
        # A source may read the database: what it opened in a thread that lives on would never be closed.
        connections.close_all()
