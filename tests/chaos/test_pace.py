"""What is scaled exists, is scaled alike, and leaves the order of the platform's patience as it is."""

from __future__ import annotations

import importlib
from datetime import timedelta

import pytest
from celery import Celery

from chaos import pace
from exchanges.venues import VENUES


@pytest.fixture
def app() -> Celery:
    """An application as the platform's, which nobody else has."""
    made = Celery("hurried", set_as_current=False)
    made.config_from_object("django.conf:settings", namespace="CELERY")
    return made


@pytest.mark.parametrize(("module", "name"), pace.SCALED)
def test_what_is_scaled_is_a_time_of_the_product(module: str, name: str) -> None:
    assert isinstance(getattr(importlib.import_module(module), name), timedelta | int)


def test_everything_is_scaled_by_the_same_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    orders = importlib.import_module("orders.services")
    lookups = importlib.import_module("orders.lookups")
    gateway = importlib.import_module("exchanges.ccxt_gateway")
    for module, name in (*pace.SCALED, *((module, name) for module, name, _ in pace.SHORTENED)):
        place = importlib.import_module(module)
        monkeypatch.setattr(place, name, getattr(place, name))
    monkeypatch.setattr(pace, "hurry_celery", lambda *_: None)
    monkeypatch.setattr(pace, "hurry_limits", lambda *_: None)

    pace.hurry(0.2)

    assert orders.WINDOW.total_seconds() == 1
    assert lookups.OUTCOME_IS_LATE_AFTER.total_seconds() == 3
    assert gateway.HTTP_TIMEOUT_MS == 2000
    # The protocol stands on these: the venue refuses before the client gives up, who gives up before it is called late.
    assert orders.WINDOW < timedelta(milliseconds=gateway.HTTP_TIMEOUT_MS) < lookups.OUTCOME_IS_LATE_AFTER


def test_the_broker_is_waited_for_less_and_beat_is_never_quicker_than_a_second(app: Celery) -> None:
    pace.hurry_celery(app, 0.2)

    periods = {name: entry["schedule"].run_every.total_seconds() for name, entry in app.conf.beat_schedule.items()}
    assert (periods["orders.sweep"], periods["exchanges.sweep"]) == (1, 12)
    assert app.conf.broker_transport_options["socket_timeout"] == 2


def test_rate_budgets_fill_again_as_much_sooner() -> None:
    venues = dict(VENUES)

    pace.hurry_limits(venues, 0.2)

    assert {name: (pool.weight, pool.seconds) for name, pool in venues["kucoin"].allowance.pools.items()} == {
        "public": (2000, 6),
        "spot": (4000, 6),
        "management": (2000, 6),
    }
    assert VENUES["kucoin"].allowance.pools["spot"].seconds == 30
