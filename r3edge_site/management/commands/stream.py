"""``manage stream [EXCHANGE...]``: listen to exchanges, in the foreground, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from exchanges.models import Exchange
from r3edge_site.streaming import Streams

# Whatever hangs: nothing of ours is lost with it.
ENDS_WITHIN = 1.4


class Command(BaseCommand):
    help = (
        "Listen to the named exchanges, or to all that are enabled and in use: candles, prices and own orders are then "
        "acted on at once instead of at the next poll. May be stopped and started at any time."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("exchanges", nargs="*", metavar="EXCHANGE", help="its name; none: all that are in use")

    def handle(self, *args: Any, exchanges: Sequence[str], **options: Any) -> None:
        enabled = set(Exchange.objects.filter(is_enabled=True).values_list("name", flat=True)) if exchanges else set()
        if unknown := sorted(set(exchanges) - enabled):
            raise CommandError(f"wanted names of enabled exchanges, was {', '.join(unknown)}")
        asyncio.run(_listen(exchanges))
        if threading.active_count() > 1:
            os._exit(0)  # a database that hangs holds a thread; it must not hold the process


async def _listen(names: Sequence[str]) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def end() -> None:
        stop.set()
        last = threading.Timer(ENDS_WITHIN, os._exit, (0,))
        last.daemon = True
        last.start()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    await Streams(names).run(stop)
