"""Positions of contracts as the venue has them: where it would liquidate them, whether it holds what we say, what it
liquidated, and what funding came after a position had ended.

A venue of contracts keeps one position of an account on a market, whatever the number of our sessions there: what is
compared is the sum of ours. What it liquidated becomes an exit of the positions that it was taken from, by its own fills.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from domain.exits import ExitReason
from domain.market import ZERO, PositionSide, Side
from domain.orders import LIVE_STATUSES, OrderStatus
from exchanges.accounts import account_pause
from exchanges.credentials import UnableToDecrypt
from exchanges.gateway import ExchangeUnavailable, PositionReport
from exchanges.models import Account, Market
from exchanges.services import gateway_for
from orders.ledger import FOREIGN, LIQUIDATION, orders_announce
from orders.models import WAITS_FOR_PRICE, Fill, Funding, Order, foreign_order_id
from pipeline.topics import Topic, publish
from positions.discrepancies import Difference, figure, tolerance_of
from positions.late import positions_fund
from positions.models import LIVE_POSITIONS, Discrepancy, Intent, Position, PositionStatus, Reconciliation
from positions.models import DiscrepancyKind as Kind
from positions.models import DiscrepancyStatus as Status
from positions.services import sessions_track
from sessions.models import TradingSession

PERIOD = timedelta(seconds=15)

OF_CONTRACTS = Q(market__kind=Market.Kind.LINEAR_FUTURE)


# -- where the venue would liquidate --------------------------------------------------------------------------------------


def accounts_due(now: datetime) -> list[int]:
    """Accounts that hold contracts and whose venue was not asked about them for a period: what the sweep rings for."""
    holding = Position.objects.filter(OF_CONTRACTS, status=PositionStatus.OPEN).values("account")
    row = (
        Q(reconciliation=None) | Q(reconciliation__contracts_due_at=None) | Q(reconciliation__contracts_due_at__lte=now)
    )
    asked = Account.objects.filter(row, pk__in=holding, status=Account.Status.ACTIVE, exchange__is_enabled=True)
    return list(asked.order_by("pk").values_list("pk", flat=True))


def contracts_read(account_id: int) -> bool:
    """Ask the venue what the account holds and note where it would liquidate it; whether it holds something else than we
    say, and the account should be compared. A venue that cannot be asked is asked again a period later."""
    now = timezone.now()
    Reconciliation.objects.get_or_create(account_id=account_id)
    due = Reconciliation.objects.filter(Q(contracts_due_at=None) | Q(contracts_due_at__lte=now), pk=account_id)
    if not due.update(contracts_due_at=now + PERIOD):
        return False
    account = Account.objects.select_related("exchange").get(pk=account_id)
    markets = list(Market.objects.filter(pk__in=_open(account).values("market")))
    if not markets:
        return False
    try:
        reports = gateway_for(account.exchange, account, markets).positions()
    except UnableToDecrypt as error:
        account_pause(account_id, str(error), keys=account.credentials)
        return False
    except ExchangeUnavailable as error:
        if error.is_refused_key:
            account_pause(account_id, str(error), keys=account.credentials)
            return False
        raise
    # A look by each session whose position may now be too near to its liquidation.
    sessions_track(_note_liquidation_prices(account, reports))
    return any(_is_news(account, market, reports) for market in markets)


def _note_liquidation_prices(account: Account, reports: Iterable[PositionReport]) -> list[int]:
    prices = {(report.symbol, report.side): report.liquidation_price for report in reports}
    changed = []
    with transaction.atomic():
        # In the tracker's order, so that this and a look at the same sessions never wait for each other.
        mine = _open(account).select_for_update(of=("self",)).order_by("session_id")
        for position in mine.select_related("market"):
            price = prices.get((position.market.symbol, PositionSide(position.side)))
            if price != position.liquidation_price:
                position.liquidation_price = price
                position.save(update_fields=["liquidation_price"])
                changed.append(position.session_id)
    return changed


def _is_news(account: Account, market: Market, reports: Iterable[PositionReport]) -> bool:
    """Whether the venue holds something else than we say, of which nothing on its way and no open difference tells."""
    ours, theirs = _sum_of(_live(account, [market])), _held_by_venue(market, reports)
    if abs(ours - theirs) <= tolerance_of(ours, theirs):
        return False
    in_flight = account.orders.filter(market=market, status__in=LIVE_STATUSES, is_foreign=False)
    in_flight = in_flight.exclude(WAITS_FOR_PRICE)  # it rests for days; if it was met just now, that is worth a look
    kinds = (Kind.MANUAL_CLOSE, Kind.BALANCE_DRIFT)
    told = account.discrepancies.filter(market=market, status=Status.OPEN, kind__in=kinds)
    return not in_flight.exists() and not told.exists()


# -- whether it holds what we say -----------------------------------------------------------------------------------------


def contracts_compare(
    account: Account, markets: Iterable[Market], reports: Sequence[PositionReport], foreign: Sequence[Difference]
) -> list[Difference]:
    """What the venue holds less of, or more, than our positions say; true while nothing is on its way."""
    differences = []
    by_hand = {one.market.pk: one.order for one in foreign if one.market and one.order}
    for market in markets:
        if market.kind != Market.Kind.LINEAR_FUTURE:
            continue
        positions = [one for one in _live(account, [market]) if one.quantity]
        ours, theirs = _sum_of(positions), _held_by_venue(market, reports)
        if abs(ours - theirs) <= tolerance_of(ours, theirs):
            continue
        detail = f"the venue holds {figure(theirs)} of {market.symbol}, our positions say {figure(ours)}"
        if not ours or (abs(theirs) > abs(ours) and theirs * ours > 0):
            if _is_of_others(account, market, theirs - ours):
                continue  # told of as their orders
            differences.append(
                Difference(
                    Kind.BALANCE_DRIFT, f"contracts:{market.pk}", expected=ours, found=theirs, market=market,
                    is_figure=True, detail=detail,
                )
            )  # fmt: skip
            continue
        sign = 1 if ours > 0 else -1
        differences += [
            Difference(
                Kind.MANUAL_CLOSE, f"position:{one.pk}", expected=abs(ours), found=max(theirs * sign, ZERO),
                market=market, position=one, order=by_hand.get(market.pk), currency=market.base, is_figure=True,
                detail=detail,
            )
            for one in positions
            if PositionSide(one.side).sign == sign
        ]  # fmt: skip
    return differences


def _is_of_others(account: Account, market: Market, surplus: Decimal) -> bool:
    """Whether orders of others that no position has adopted explain what the venue holds beside ours."""
    theirs = account.orders.filter(market=market, is_foreign=True, reason=FOREIGN, filled__gt=0)
    return surplus == sum((Side(one.side).sign * one.filled for one in theirs), ZERO)


def contracts_held(row: Discrepancy) -> Decimal:
    """What our positions say now of the contracts that a difference is about."""
    return abs(_sum_of(_live(row.account, [] if row.market is None else [row.market])))


def _open(account: Account) -> QuerySet[Position]:
    return Position.objects.filter(OF_CONTRACTS, account=account, status=PositionStatus.OPEN)


def _live(account: Account, markets: Collection[Market]) -> QuerySet[Position]:
    return Position.objects.filter(OF_CONTRACTS, account=account, market__in=markets, status__in=LIVE_POSITIONS)


def _sum_of(positions: Iterable[Position]) -> Decimal:
    return sum((PositionSide(one.side).sign * one.quantity for one in positions), ZERO)


def _held_by_venue(market: Market, reports: Iterable[PositionReport]) -> Decimal:
    return sum((one.side.sign * one.quantity for one in reports if one.symbol == market.symbol), ZERO)


# -- what it liquidated ---------------------------------------------------------------------------------------------------


def liquidations_take_up(account: Account) -> list[int]:
    """Make what the venue liquidated an exit of the positions it was taken from; the sessions to be looked at."""
    done = account.orders.filter(is_foreign=True, reason=LIQUIDATION).exclude(status__in=LIVE_STATUSES)
    sessions: list[int] = []
    for order_id in done.order_by("pk").values_list("pk", flat=True):
        sessions += _liquidation_take_up(account, order_id)
    return sessions


def _liquidation_take_up(account: Account, order_id: int) -> list[int]:
    with transaction.atomic():
        market_id = Order.objects.values_list("market_id", flat=True).get(pk=order_id)
        holding = Position.objects.filter(account=account, market=market_id, status=PositionStatus.OPEN)
        list(TradingSession.objects.filter(pk__in=holding.values("session")).locked())
        order = Order.objects.select_related("market", "account").locked().get(pk=order_id)
        if order.reason != LIQUIDATION:
            return []  # somebody else was first
        side = PositionSide.LONG if order.side == Side.SELL else PositionSide.SHORT
        positions = list(holding.filter(side=side, quantity__gt=0).order_by("opened_at", "pk"))
        if not positions:
            Order.objects.filter(pk=order_id).update(reason=FOREIGN)  # nothing of ours: a stranger's, as any other
            return []
        if len(positions) == 1 and order.filled <= positions[0].quantity:
            _attach(order, positions[0])
        else:
            _divide(order, positions)
        for position in positions:
            position.exit_reason = ExitReason.LIQUIDATED
            position.save(update_fields=["exit_reason"])
            publish(
                Topic.ALERTS, account.pk, account_id=account.pk, owner_id=account.owner_id, order_id=order.pk,
                session_id=position.session_id, position_id=position.pk,
                data={
                    "alert": "LIQUIDATED", "market": order.market.symbol, "quantity": position.quantity,
                    "price": order.average_price,
                },
            )  # fmt: skip
    return [position.session_id for position in positions]


def _attach(order: Order, position: Position) -> None:
    """The venue's order is the position's exit, with its fills."""
    Order.objects.filter(pk=order.pk).update(
        intent_id=_exit_of(position).pk, is_exit=True, position_side=position.side, reason=ExitReason.LIQUIDATED,
        closed_at=timezone.now(),
    )  # fmt: skip
    orders_announce([order], Topic.ORDER_UPDATES)


def _divide(order: Order, positions: Sequence[Position]) -> None:
    """One liquidation of what several positions held together: each gets its part of the quantity and of the fee, by a fill
    that no money moved for. The venue's order keeps its own."""
    left, price, now = order.filled, order.average_price or ZERO, timezone.now()
    fee = sum((fill.fee for fill in order.fills.all()), ZERO)
    last = order.fills.order_by("-filled_at").first()
    for position in positions:
        part = min(left, position.quantity)
        if not part:
            break
        left -= part
        name = f"liquidated-{order.pk}-{position.pk}"
        made = Order.objects.create(
            account=order.account, market=order.market, intent_id=_exit_of(position).pk, is_foreign=True, is_exit=True,
            client_order_id=foreign_order_id(order.account_id, order.market.symbol, name), side=order.side,
            position_side=position.side, quantity=part, filled=part, filled_quote=part * price,
            status=OrderStatus.CLOSED, reason=ExitReason.LIQUIDATED, detail=f"part of {order.client_order_id}",
            sent_at=now, closed_at=now,
        )  # fmt: skip
        Fill.objects.create(
            order=made, account=order.account, market=order.market, trade_id=name[:64], side=order.side, quantity=part,
            price=price, fee=fee * part / order.filled, fee_currency=order.market.quote, is_correction=True,
            filled_at=now if last is None else last.filled_at,
        )  # fmt: skip
        orders_announce([made], Topic.ORDER_UPDATES)
    Order.objects.filter(pk=order.pk).update(reason=ExitReason.LIQUIDATED, intent_id=uuid.uuid4())


def _exit_of(position: Position) -> Intent:
    return Intent.objects.get_or_create(
        position=position, purpose=Intent.Purpose.EXIT, step=0, defaults={"reason": ExitReason.LIQUIDATED}
    )[0]


# -- funding --------------------------------------------------------------------------------------------------------------


def fundings_count(funding_ids: Collection[int]) -> None:
    """Let the positions that these payments were made on know of them: a look adds up those that are live, those that have
    ended are added up again."""
    live: set[int] = set()
    ended: set[int] = set()
    for funding in Funding.objects.filter(pk__in=list(funding_ids)):
        mine = Position.objects.filter(account=funding.account_id, market=funding.market_id)
        live |= set(mine.filter(status__in=LIVE_POSITIONS).values_list("session_id", flat=True))
        while_open = mine.filter(opened_at__lte=funding.paid_at, closed_at__gte=funding.paid_at)
        ended |= set(while_open.filter(status=PositionStatus.CLOSED).values_list("pk", flat=True))
    positions_fund(sorted(ended))
    sessions_track(sorted(live))
