"""MoneyManager's doors."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from money import equity, halt_rules, halts, services
from pipeline.sweeps import Waiting, sweep

UNDONE = Waiting("halt not carried out", halts.halts_undone, "money.carry_out", "halt_ids", batch=1)
WAITING = (Waiting("requested, not valued", services.orders_unvalued, "money.value", "order_ids", batch=50), UNDONE)


@shared_task(name="money.value")
def value(order_ids: list[int]) -> None:
    services.orders_value(order_ids)


@shared_task(name="money.carry_out")
def carry_out(halt_ids: list[int]) -> None:
    for halt_id in halt_ids:
        halts.halt_carry_out(halt_id)


@shared_task(name="money.guard")
def guard() -> None:
    halt_rules.rules_watch()
    sweep(UNDONE)


@shared_task(name="money.sweep")
def sweep_orders() -> None:
    sweep(*(rule for rule in WAITING if rule is not UNDONE))


@shared_task(name="money.equity")
def record_equity() -> None:
    equity.equity_record(timezone.now())


@shared_task(name="money.thin_equity")
def thin_equity() -> None:
    equity.equity_thin(timezone.now())
