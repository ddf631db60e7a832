"""MoneyManager's doors."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from money import equity, services
from pipeline.sweeps import Waiting, sweep

WAITING = (Waiting("requested, not valued", services.orders_unvalued, "money.value", "order_ids", batch=50),)


@shared_task(name="money.value")
def value(order_ids: list[int]) -> None:
    services.orders_value(order_ids)


@shared_task(name="money.sweep")
def sweep_orders() -> None:
    sweep(*WAITING)


@shared_task(name="money.equity")
def record_equity() -> None:
    equity.equity_record(timezone.now())


@shared_task(name="money.thin_equity")
def thin_equity() -> None:
    equity.equity_thin(timezone.now())
