"""Rules that halt an account by themselves: data in one table, looked at every few seconds by ``money.guard``.

A rule trips its halt once and leaves it to somebody to lift. Lifted, it is given ``GRACE`` to come right; broken still, it
trips again. It never lifts what it has tripped: that an account has recovered is for a person to say.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from django.db.models import Count, Q
from django.utils import timezone

from domain.market import OrderType
from domain.orders import AT_VENUE_STATUSES, OrderStatus
from exchanges.models import Account, RiskProfile
from money.halts import halt_trip
from money.models import EquityPoint, HaltMode, TradingHalt
from money.services import account_book
from orders.models import Fill, Order
from sessions.models import TRACKED_STATUSES

logger = logging.getLogger(__name__)

GRACE = timedelta(minutes=5)
REJECTED_WITHIN = timedelta(minutes=5)
MOST_REJECTED = 10
# Told of long before (``orders.services.UNKNOWN_ALERT_AFTER``): by then somebody should have looked.
UNKNOWN_TOO_LONG = timedelta(minutes=5)
HUNDRED = Decimal(100)


@dataclass(frozen=True, slots=True)
class Rule:
    """``broken(now)`` tells which accounts break it, each with the figures in words."""

    name: str
    meaning: str
    broken: Callable[[datetime], dict[int, str]]


def rules_watch(now: datetime | None = None) -> int:
    """Halt every account that breaks a rule, except where its last halt was lifted a moment ago; how many were halted. A rule
    that cannot be judged does not keep the others from it."""
    at = now or timezone.now()
    tripped = 0
    for rule in RULES:
        try:
            broken = rule.broken(at)
        except Exception:
            logger.exception("rule %s could not be judged", rule.name)
            continue
        halts = TradingHalt.objects.filter(Q(lifted_at=None) | Q(lifted_at__gt=at - GRACE), rule=rule.name)
        spared = set(halts.filter(account__in=broken).values_list("account_id", flat=True))
        for account_id, cause in broken.items():
            if account_id not in spared:
                halt_trip(
                    HaltMode.HALT, cause[:200], account_id=account_id, rule=rule.name, actor=f"rule {rule.name}"[:64]
                )
                tripped += 1
    return tripped


def accounts_beyond_daily_loss(now: datetime) -> dict[int, str]:
    """Accounts worth less than at midnight UTC by more than their limit: the last equity before, else the first since."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    broken = {}
    for profile in _profiles(Q(max_daily_loss_percent__isnull=False)):
        points = EquityPoint.objects.filter(account=profile.account)
        start = points.filter(at__lte=midnight).order_by("-at").first() or points.order_by("at").first()
        equity = _equity(profile.account)
        if start is None or equity is None or start.equity <= 0:
            continue
        lost = (start.equity - equity) / start.equity * HUNDRED
        if lost > profile.max_daily_loss_percent:
            broken[profile.account_id] = _figures(
                "lost today", lost, profile.max_daily_loss_percent, start.equity, equity
            )
    return broken


def accounts_beyond_drawdown(now: datetime) -> dict[int, str]:
    """Accounts further below the highest equity they ever had than their limit."""
    broken = {}
    for profile in _profiles(Q(max_drawdown_percent__isnull=False)):
        last = EquityPoint.objects.filter(account=profile.account).order_by("-at").first()
        equity = _equity(profile.account)
        if last is None or equity is None or last.peak <= 0:
            continue
        below = (last.peak - equity) / last.peak * HUNDRED
        if below > profile.max_drawdown_percent:
            broken[profile.account_id] = _figures(
                "below the peak", below, profile.max_drawdown_percent, last.peak, equity
            )
    return broken


def accounts_often_rejected(now: datetime) -> dict[int, str]:
    """Accounts whose venue has refused many orders lately: something is wrong with what we send, or with the account."""
    lately = Order.objects.filter(status=OrderStatus.REJECTED, closed_at__gt=now - REJECTED_WITHIN, closed_at__lte=now)
    counts = lately.values("account_id").order_by("account_id").annotate(count=Count("pk"))
    minutes = int(REJECTED_WITHIN.total_seconds() // 60)
    return {
        row["account_id"]: f"{row['count']} orders rejected in {minutes} minutes, wanted fewer than {MOST_REJECTED}"
        for row in counts.filter(count__gte=MOST_REJECTED)
    }


def accounts_with_unknown_orders(now: datetime) -> dict[int, str]:
    """Accounts with an order of which nobody knows for too long whether it exists: what is held is not known either."""
    unknown = Order.objects.filter(status=OrderStatus.UNKNOWN, sent_at__lt=now - UNKNOWN_TOO_LONG).order_by("-sent_at")
    return {
        order.account_id: f"order {order.client_order_id} is UNKNOWN since {order.sent_at:%H:%M:%S}"
        for order in unknown
    }


RULES: tuple[Rule, ...] = (
    Rule("DAILY_LOSS", "The account lost more today than its risk profile allows.", accounts_beyond_daily_loss),
    Rule("DRAWDOWN", "The account is further below its peak than its risk profile allows.", accounts_beyond_drawdown),
    Rule("REJECTIONS", f"{MOST_REJECTED} orders were rejected in five minutes.", accounts_often_rejected),
    Rule("UNKNOWN_ORDER", "The outcome of an order is unknown for five minutes.", accounts_with_unknown_orders),
)


def _profiles(limit: Q) -> Iterable[RiskProfile]:
    """The limits of accounts on which something goes on."""
    trading = Account.objects.filter(sessions__status__in=TRACKED_STATUSES).values("pk")
    return RiskProfile.objects.filter(limit, account__in=trading).select_related("account").order_by("pk")


def _equity(account: Account) -> Decimal | None:
    """What the account is worth now, what is not realised included; None while that is in doubt.

    ``account_book`` errs on the cautious side while a fill may be in the balance already: for a second it may say less than
    there is. That is right for letting an entry through, and no reason to halt an account.
    """
    balance = account.balances.filter(currency=account.currency).first()
    if balance is None:
        return None
    sent_before = Q(order__sent_at__lte=balance.read_at) | Q(order__is_foreign=True)
    late = Fill.objects.filter(sent_before, account=account, recorded_at__gt=balance.read_at, is_correction=False)
    leaving = Order.objects.filter(
        account=account, status__in=AT_VENUE_STATUSES, is_exit=True, order_type=OrderType.MARKET, stop_price=None,
        sent_at__lte=balance.read_at,
    )  # fmt: skip
    if late.exists() or leaving.exists():
        return None
    book = account_book(account)
    return None if book is None else book.equity


def _figures(what: str, percent: Decimal, limit: Decimal, was: Decimal, now: Decimal) -> str:
    return f"{percent:.2f} % {what}, wanted at most {limit.normalize():f} %: equity was {was:.2f} and is {now:.2f}"
