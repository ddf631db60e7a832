"""A platform in a hurry: what its patience is measured by, shortened by one factor, so that recovery takes seconds.

All of it is scaled alike, so which patience outlasts which stays as it is. Only the processes of a run are hurried; the
product knows nothing of it.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from datetime import timedelta
from typing import Any

from celery import Celery
from celery.schedules import schedule as every

# Module and name of everything that is scaled. How old a price or a signal may be is not: the venue's own clock runs as
# fast as a run wants it to.
SCALED = (
    ("orders.services", "WINDOW"),
    ("orders.lookups", "OUTCOME_IS_LATE_AFTER"),
    ("orders.lookups", "NOT_PLACED_MARGIN"),
    ("orders.lookups", "LEASE"),
    ("orders.lookups", "LONGEST_PAUSE"),
    ("orders.lookups", "LOOK_AGAIN"),
    ("orders.ledger", "LOOK_AGAIN"),
    ("orders.ledger", "LOOK_AGAIN_AT_WAITING"),
    ("orders.services", "LOOK_AGAIN_AT_WAITING"),
    ("orders.services", "LEASE"),
    ("orders.services", "UNSEEN_PAUSE"),
    ("orders.services", "HELD_PAUSE"),
    ("orders.services", "BELL_IS_LATE_AFTER"),
    ("orders.services", "UNKNOWN_ALERT_AFTER"),
    ("positions.trading", "LONGEST_EXIT_PAUSE"),
    ("positions.look", "RESTING_IS_LOST_AFTER"),
    ("money.services", "BELL_IS_LATE_AFTER"),
    ("sessions.services", "RECOVERY_IS_LATE_AFTER"),
    ("marketdata.collection", "LEASE"),
    ("marketdata.looks", "ASK_TAKES"),
    ("marketdata.outcomes", "LONGEST_BACK_OFF"),
    ("marketdata.backfills", "LEASE"),
    ("marketdata.backfills", "LONGEST_PAUSE"),
    ("marketdata.repairs", "LEASE"),
    ("marketdata.repairs", "UNASKED_PAUSE"),
    ("marketdata.tapes", "LEASE"),
    ("marketdata.tapes", "LONGEST_BACK_OFF"),
    ("positions.reconciliation", "PERIOD"),
    ("positions.reconciliation", "SOON"),
    ("positions.reconciliation", "LEASE"),
    ("positions.reconciliation", "SHORTEST_PAUSE"),
    ("exchanges.breaker", "OPEN_MS"),
    ("exchanges.breaker", "TRYING_MS"),
    ("exchanges.ccxt_gateway", "HTTP_TIMEOUT_MS"),
    ("exchanges.ccxt_gateway", "RATE_LIMIT_PAUSE"),
)
# What is measured by requests that wander for minutes before they arrive: none does here, and a run does not wait for one.
SHORTENED = (("orders.lookups", "NOT_PLACED_MARGIN_WITHOUT_DEADLINE", timedelta(seconds=75)),)
# How long a worker waits for a broker that does not answer.
SCALED_TRANSPORT = ("socket_timeout", "health_check_interval")
DEFAULT_FACTOR = 0.2


def hurry(factor: float) -> None:
    """Scale this process: its constants, the broker's patience and the periods of its beat. Once, before it begins."""
    for module, name in SCALED:
        place = importlib.import_module(module)
        setattr(place, name, _scaled(getattr(place, name), factor))
    for module, name, value in SHORTENED:
        setattr(importlib.import_module(module), name, value * factor)
    hurry_celery(importlib.import_module("r3edge_site.celery").app, factor)
    hurry_limits(importlib.import_module("exchanges.venues").VENUES, factor)


def hurry_celery(app: Celery, factor: float) -> None:
    """Scale how long this application waits for its broker, and how often its beat beats."""
    options = app.conf.broker_transport_options
    patience = {name: options[name] * factor for name in SCALED_TRANSPORT}
    app.conf.broker_transport_options = {**options, **patience}
    periods = {}
    for name, entry in app.conf.beat_schedule.items():
        # In whole seconds, as the database keeps them.
        seconds = max(1, round(entry["schedule"].run_every.total_seconds() * factor))
        periods[name] = {**entry, "schedule": every(timedelta(seconds=seconds))}
    app.conf.beat_schedule = periods


def hurry_limits(venues: dict[str, Any], factor: float) -> None:
    """Scale the windows of the rate budgets: what asks more often is allowed more often."""
    for name, venue in venues.items():
        pools = {
            pool_name: replace(pool, seconds=max(1, round(pool.seconds * factor)))
            for pool_name, pool in venue.allowance.pools.items()
        }
        venues[name] = replace(venue, allowance=replace(venue.allowance, pools=pools))


def _scaled(value: Any, factor: float) -> Any:
    if isinstance(value, timedelta):
        return value * factor
    return max(1, int(value * factor))
