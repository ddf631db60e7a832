"""Why a session traded, or did not, on one candle: the decision log read back as facts, codes and sentences.

Nothing is computed anew: what is told is what was stored when it was decided. What was not stored is said to be unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from django.db.models import Q

from domain.candles import Timeframe
from domain.market import PositionSide
from domain.orders import DENIAL_TEXTS, Denial, OrderStatus
from domain.strategy import SignalKind
from exchanges.models import Market
from money.models import Valuation
from orders.models import Order
from pipeline.rest import exact_text
from positions.models import LIVE_POSITIONS, Intent, Position
from sessions.models import SessionStatus, TradingSession
from sessions.past import session_statuses, status_at
from strategies.models import Signal

ENTRIES = {SignalKind.ENTER_LONG: PositionSide.LONG, SignalKind.ENTER_SHORT: PositionSide.SHORT}


def session_why(session: TradingSession, candle_open_at: datetime | None = None) -> dict[str, Any]:
    """What happened in the session on the candle that opened then (default: the newest that was evaluated): the signal, the
    session's state, each order with its sizing, limits and fate, the position, and all of it in sentences."""
    signals = Signal.objects.filter(config=session.config_id)
    if candle_open_at is None:
        signal = signals.order_by("-candle_open_at").first()
    else:
        signal = signals.filter(candle_open_at=candle_open_at).first()
    until = _until(session, signal)
    orders = _orders(session, signal, until)
    positions = {position.pk: position for position, _ in orders.values()}
    status = _status_then(session, signal.created_at if signal is not None else None)
    told = [_order_told(order, position) for order, position in _with_orders(orders)]
    sentences = [_about_signal(session, signal, candle_open_at)]
    if signal is not None and signal.kind != SignalKind.NOTHING and not told:
        sentences.append(_why_no_order(session, signal, status))
    for one in told:
        sentences += one["sentences"]
    sentences += [_about_position(position) for position in positions.values()]
    return {
        "session": session.pk,
        "candle_open_at": signal.candle_open_at if signal is not None else candle_open_at,
        "signal": signal,
        "status_then": status,
        "status_now": session.status,
        "orders": told,
        "positions": list(positions.values()),
        "sentences": sentences,
    }


def check_told(check: Mapping[str, Any]) -> str:
    """One limit of a valuation as a sentence. Of several that cut an order, one may leave it more than it was cut to."""
    unit = {"quote": "", "percent": " %", "count": "", "times": " x"}[check["unit"]]
    # The unit stands behind the figures: some percentages are told in money.
    name = check["limit"].removeprefix("max_").removesuffix("_percent").replace("_", " ")
    verdicts = {"PASSED": "within it", "CUT": f"no more than {check['room']} of the order fits", "DENIED": "denied"}
    return (
        f"{name}: {check['before']}{unit} before, {check['after']}{unit} after, at most {check['bound']}{unit}; "
        + (verdicts[check["verdict"]])
    )


def verdict_text(verdict: str) -> str:
    """A valuation's verdict as a sentence; empty when it was approved."""
    return "" if verdict == Valuation.APPROVED else DENIAL_TEXTS[Denial(verdict)]


def _until(session: TradingSession, signal: Signal | None) -> datetime | None:
    """Until when, in our time, the candle of the signal was the newest: what was asked for later has other reasons."""
    if signal is None:
        return None
    later = Signal.objects.filter(config=session.config_id, candle_open_at__gt=signal.candle_open_at)
    return later.order_by("candle_open_at").values_list("created_at", flat=True).first()


def _orders(
    session: TradingSession, signal: Signal | None, until: datetime | None
) -> dict[Any, tuple[Position, Intent]]:
    """By intent id, what was wished for while that signal was the newest: entries on its behalf, additions, exits."""
    # Before its first signal a session trades by hand only.
    meanwhile = Q() if signal is None else Q(created_at__gte=signal.created_at)
    if until is not None:
        meanwhile &= Q(created_at__lt=until)
    of_signal = Q(position__entry_signal=signal, purpose=Intent.Purpose.ENTRY, step=0)
    wanted = meanwhile if signal is None else of_signal | meanwhile
    intents = Intent.objects.filter(wanted, position__session=session).select_related("position__market")
    return {intent.pk: (intent.position, intent) for intent in intents}


def _with_orders(intents: Mapping[Any, tuple[Position, Intent]]) -> Iterable[tuple[Order, Position]]:
    orders = Order.objects.filter(intent_id__in=intents).select_related("market", "valuation").order_by("pk")
    return [(order, intents[order.intent_id][0]) for order in orders.prefetch_related("fills")]


def _status_then(session: TradingSession, at: datetime | None) -> str | None:
    """How the session stood at that time, by what became of it last before; None where the journal does not say."""
    return None if at is None else status_at(session_statuses(session.pk, at), at)


def _order_told(order: Order, position: Position) -> dict[str, Any]:
    valuation: Valuation | None = getattr(order, "valuation", None)
    checks = [{**check, "text": check_told(check)} for check in valuation.checks] if valuation is not None else []
    what = "exit" if order.is_exit else "entry"
    sentences = []
    if valuation is not None and not valuation.is_approved:
        sentences.append(f"The {what} was denied ({valuation.verdict}): {verdict_text(valuation.verdict)}")
        sentences += [check["text"] for check in checks if check["verdict"] == "DENIED"]
    elif valuation is not None:
        cut = [check["text"] for check in checks if check["verdict"] == "CUT"]
        sentences.append(
            f"The {what} was let through with {_figure(valuation.quantity)} {position.market.base}: "
            f"{_figure(valuation.wanted)} was asked for, {_figure(valuation.capped)} allowed."
        )
        sentences += cut
    sentences.append(_fate(order, what, position.market))
    return {
        "id": order.pk, "client_order_id": order.client_order_id, "is_exit": order.is_exit, "side": order.side,
        "order_type": order.order_type, "status": order.status, "reason": order.reason, "detail": order.detail,
        "quantity": order.quantity, "filled": order.filled, "average_price": order.average_price,
        "requested_at": order.requested_at, "closed_at": order.closed_at,
        "verdict": valuation.verdict if valuation is not None else None,
        "verdict_text": verdict_text(valuation.verdict) if valuation is not None else "",
        "sizing": valuation.sizing if valuation is not None else {},
        "checks": checks,
        "fills": list(order.fills.all()),
        "sentences": sentences,
    }  # fmt: skip


def _fate(order: Order, what: str, market: Market) -> str:
    filled = f"{_figure(order.filled)} of {_figure(order.quantity)} {market.base} filled"
    if order.filled:
        filled += f" at {_figure(order.average_price)}"
    endings: Mapping[str, str] = {
        OrderStatus.REQUESTED: f"The {what} waits to be valued.",
        OrderStatus.DENIED: f"The {what} was never sent.",
        OrderStatus.REJECTED: f"The exchange refused the {what}: {order.reason} {order.detail}".rstrip() + ".",
        OrderStatus.NOT_PLACED: f"The {what} did not reach the exchange; nothing was traded.",
        OrderStatus.UNKNOWN: f"The {what} may have reached the exchange; it is being looked up.",
        OrderStatus.CANCELED: f"The {what} was cancelled with {filled}.",
        OrderStatus.CLOSED: f"The {what} is done: {filled}.",
    }
    return endings.get(order.status, f"The {what} is at work ({order.status}): {filled}.")


def _about_signal(session: TradingSession, signal: Signal | None, candle_open_at: datetime | None) -> str:
    if signal is None:
        if candle_open_at is None:
            return "No candle has been evaluated yet."
        needed = "" if session.config.is_needed else " Nobody needs the configuration evaluated now."
        return f"The candle that opened at {candle_open_at:%Y-%m-%d %H:%M} UTC was not evaluated.{needed}"
    closed = f"the candle that closed at {signal.candle_close_at:%Y-%m-%d %H:%M} UTC"
    if signal.kind == SignalKind.NOTHING:
        return f"The strategy had nothing to say about {closed}: {signal.reason}."
    return f"The strategy said {signal.kind} about {closed}, at {_figure(signal.price)}."


def _why_no_order(session: TradingSession, signal: Signal, status: str | None) -> str:
    """Why a signal that spoke became no order."""
    timeframe = Timeframe(session.config.feed.timeframe)
    held = Position.objects.filter(
        Q(closed_at=None, status__in=LIVE_POSITIONS) | Q(closed_at__gt=signal.candle_close_at),
        session=session, created_at__lte=signal.created_at,
    ).first()  # fmt: skip
    wanted = ENTRIES.get(SignalKind(signal.kind))
    seen = session.last_signal is not None and session.last_signal.candle_open_at >= signal.candle_open_at
    too_late = session.account.exchange.time_at(signal.created_at) > signal.candle_close_at + timeframe.length
    is_spot = session.config.feed.market.kind == Market.Kind.SPOT
    reasons = (
        (session.signals_after is None, "The session was never started."),
        (
            session.signals_after is not None and signal.candle_close_at <= session.signals_after,
            "The candle had closed before this run of the session began.",
        ),
        (status is not None and status != SessionStatus.ACTIVE, f"The session was {status} then and took no entries."),
        (wanted is None and held is None, "There was nothing to leave."),
        (wanted is PositionSide.SHORT and is_spot, "A short position cannot be opened on a spot market."),
        (wanted is not None and held is not None, "A position was held already, and no more entries were wanted."),
        (wanted is not None and too_late, "The signal came when its candle's successor had closed: too late to enter."),
        (not seen, "The session has not looked at it yet."),
    )
    return next((text for is_so, text in reasons if is_so), "The session saw it and asked for nothing.")


def _about_position(position: Position) -> str:
    held = f"The position is {position.status}: {position.side} {_figure(position.quantity)} {position.market.base}"
    parts = [held]
    if position.entered:
        parts.append(f"entered at {_figure(position.entry_price)}")
    if position.stop_price is not None:
        parts.append(f"stop at {_figure(position.stop_price)}")
    if position.target_price is not None:
        parts.append(f"target at {_figure(position.target_price)}")
    if position.exit_reason:
        parts.append(f"left by {position.exit_reason} with {_figure(position.realized_pnl)} {position.market.quote}")
    return ", ".join(parts) + "."


def _figure(value: Any) -> str:
    return "nothing" if value is None else exact_text(value, 8)
