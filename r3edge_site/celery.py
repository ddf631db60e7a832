"""The Celery application: doorbells over the broker, workers that are warm before they take their first message."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, Task, signals

from embedded import ready

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "r3edge_site.settings")

# Queues whose tasks never call a venue; a worker that serves only these need not load ccxt.
OFFLINE_QUEUES = frozenset({"strategies", "pipeline", "backtesting", "optimising"})
# Queues on which nobody's money waits.
RESEARCH_QUEUES = frozenset({"backtesting", "optimising"})
# How much a process of theirs gives way to the others on its machine: they get a processor whenever they want one, and it
# what is left. Not the most there is, for what holds a row's lock must come to its end.
RESEARCH_NICENESS = 10


class Door(Task):  # type: ignore[type-arg]
    """A task: a door to one verb of a service."""

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Drop database connections that broke under an earlier task: they are kept between tasks."""
        from django.db import connections  # noqa: PLC0415  # Django is set up after this module is imported

        for connection in connections.all(initialized_only=True):
            if connection.errors_occurred:
                if connection.is_usable():
                    connection.errors_occurred = False
                else:
                    connection.close()


app = Celery("r3edge", task_cls=Door)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@signals.worker_init.connect
def _warm_up(sender: Any, **_: Any) -> None:
    """Load what the first order would otherwise wait for."""
    if set(sender.app.amqp.queues.consume_from) - OFFLINE_QUEUES:
        from exchanges.services import gateways_warm  # noqa: PLC0415  # after Django's setup

        gateways_warm()


@signals.worker_process_init.connect
def _connect_child(**_: Any) -> None:
    from django.db import connection  # noqa: PLC0415

    if RESEARCH_QUEUES.issuperset(app.amqp.queues.consume_from):
        os.nice(RESEARCH_NICENESS)
    connection.ensure_connection()


@signals.worker_ready.connect
@signals.beat_init.connect
def _tell_supervisor(**_: Any) -> None:
    ready.mark()
