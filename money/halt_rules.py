"""Rules that halt an account by themselves: data in one table, looked at every few seconds by ``money.guard``.

A rule trips its halt once and leaves it to somebody to lift. Lifted, it is given ``GRACE`` to come right; broken still, it
trips again. It never lifts what it has tripped: that an account has recovered is for a person to say.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, cast

from django.db.models import Count, Exists, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.utils import timezone

from domain.market import OrderType
from domain.orders import AT_VENUE_STATUSES, OrderStatus
from exchanges.models import Account, RiskProfile
from money.book import account_book
from money.halts import halt_trip
from money.history import DAY
from money.models import EquityPoint, HaltMode, TradingHalt
from orders.models import Fill, Order
from positions.models import LIVE_POSITIONS, Position
from sessions.models import TRACKED_STATUSES

logger = logging.getLogger(__name__)

GRACE = timedelta(minutes=5)
REJECTED_WITHIN = timedelta(minutes=5)
MOST_REJECTED = 10
# Told of long before (``orders.services.UNKNOWN_ALERT_AFTER``): by then somebody should have looked.
UNKNOWN_TOO_LONG = timedelta(minutes=5)
HUNDRED = Decimal(100)


@dataclass(slots=True)
class Look:
    """One look at all rules: what an account is worth is found out once, whatever the number of rules that ask.
    ``spared`` are the accounts that the rule at hand does not trip for now."""

    now: datetime
    spared: set[int] = field(default_factory=set)
    equities: dict[int, Decimal | None] = field(default_factory=dict)

    def equity(self, profile: Any) -> Decimal | None:
        """What the profile's account is worth now, what is not realised included; None while that is in doubt. Where nothing
        is held and nothing was traded since it is as the last point of its curve says."""
        if not profile.is_moving:
            return cast("Decimal | None", profile.last_equity)
        if profile.account_id not in self.equities:
            self.equities[profile.account_id] = _equity(profile.account)
        return self.equities[profile.account_id]


@dataclass(frozen=True, slots=True)
class Rule:
    """``broken(look)`` tells which accounts break it, each with the figures in words."""

    name: str
    meaning: str
    broken: Callable[[Look], dict[int, str]]


def rules_watch(now: datetime | None = None) -> int:
    """Halt every account that breaks a rule, except where its last halt was lifted a moment ago; how many were halted. A rule
    that cannot be judged does not keep the others from it."""
    look = Look(now or timezone.now())
    tripped = 0
    for rule in RULES:
        halts = TradingHalt.objects.filter(Q(lifted_at=None) | Q(lifted_at__gt=look.now - GRACE), rule=rule.name)
        look.spared = set(halts.filter(account__isnull=False).values_list("account_id", flat=True))
        try:
            broken = rule.broken(look)
        except Exception:
            logger.exception("rule %s could not be judged", rule.name)
            continue
        for account_id in broken.keys() - look.spared:
            cause, actor = broken[account_id][:200], f"rule {rule.name}"
            halt_trip(HaltMode.HALT, cause, account_id=account_id, rule=rule.name, actor=actor)
            tripped += 1
    return tripped


def accounts_beyond_daily_loss(look: Look) -> dict[int, str]:
    """Accounts worth less than at midnight UTC by more than their limit: the last equity of the day before, else the first
    since."""
    broken = {}
    for profile in _profiles(look, Q(max_daily_loss_percent__isnull=False)):
        equity, limit = look.equity(profile), profile.max_daily_loss_percent
        if equity is None or profile.start_equity is None or profile.start_equity <= 0:
            continue
        lost = (profile.start_equity - equity) / profile.start_equity * HUNDRED
        if lost > limit:
            broken[profile.account_id] = _figures("lost today", lost, limit, profile.start_equity, equity)
    return broken


def accounts_beyond_drawdown(look: Look) -> dict[int, str]:
    """Accounts further below the highest equity they ever had than their limit."""
    broken = {}
    for profile in _profiles(look, Q(max_drawdown_percent__isnull=False)):
        equity, limit = look.equity(profile), profile.max_drawdown_percent
        if equity is None or profile.peak <= 0:
            continue
        below = (profile.peak - equity) / profile.peak * HUNDRED
        if below > limit:
            broken[profile.account_id] = _figures("below the peak", below, limit, profile.peak, equity)
    return broken


def accounts_often_rejected(look: Look) -> dict[int, str]:
    """Accounts whose venue has refused many orders lately: something is wrong with what we send, or with the account."""
    lately = Order.objects.filter(status=OrderStatus.REJECTED, closed_at__gt=look.now - REJECTED_WITHIN)
    counts = lately.values("account_id").order_by("account_id").annotate(count=Count("pk"))
    minutes = int(REJECTED_WITHIN.total_seconds() // 60)
    return {
        row["account_id"]: f"{row['count']} orders rejected in {minutes} minutes, wanted fewer than {MOST_REJECTED}"
        for row in counts.filter(count__gte=MOST_REJECTED)
    }


def accounts_with_unknown_orders(look: Look) -> dict[int, str]:
    """Accounts with an order of which nobody knows for too long whether it exists: what is held is not known either."""
    unknown = Order.objects.filter(status=OrderStatus.UNKNOWN, sent_at__lt=look.now - UNKNOWN_TOO_LONG).order_by(
        "-sent_at"
    )
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


def _profiles(look: Look, limit: Q) -> QuerySet[Any]:
    """The limits of accounts on which something goes on, with what their curves say, by one query."""
    midnight = look.now.replace(hour=0, minute=0, second=0, microsecond=0)
    points = EquityPoint.objects.filter(account=OuterRef("account"), currency=OuterRef("account__currency"))
    newest = points.order_by("-at")
    # As the limit has it (money.history.day_start_equity): what was moved in or out since an older point is no loss of today.
    before = Subquery(points.filter(at__lte=midnight, at__gt=midnight - DAY).order_by("-at").values("equity")[:1])
    since = Subquery(points.filter(at__gt=midnight).order_by("at").values("equity")[:1])
    live = Position.objects.filter(account=OuterRef("account"), status__in=LIVE_POSITIONS)
    news = Fill.objects.filter(account=OuterRef("account"), recorded_at__gt=OuterRef("last_at"))
    trading = Account.objects.filter(sessions__status__in=TRACKED_STATUSES).values("pk")
    profiles = RiskProfile.objects.filter(limit, account__in=trading).exclude(account__in=look.spared)
    return (
        profiles.select_related("account")
        .annotate(
            start_equity=Coalesce(before, since),
            last_equity=Subquery(newest.values("equity")[:1]),
            last_at=Subquery(newest.values("at")[:1]),
            peak=Subquery(newest.values("peak")[:1]),
        )
        .filter(last_at__isnull=False)
        .annotate(is_moving=Exists(live) | Exists(news))
        .order_by("pk")
    )


def _equity(account: Account) -> Decimal | None:
    """What the account is worth; None while that is in doubt.

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
