"""What an account may risk: every limit measured on the whole book, before and after one more order.

Pure: the book, the order and the past come in as plain figures. A limit says how much of the order it lets through; an
order is cut to the narrowest, or denied with its code. Nothing is let through on a figure that cannot be measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Context, Decimal
from typing import Any

import numpy as np

from domain.candles import FloatArray
from domain.market import ZERO, PositionSide, to_decimal
from domain.orders import Denial
from domain.risk import VarMethod, book_risk, correlated_exposure, correlations
from domain.sizing import Room

HUNDRED = Decimal(100)
# Fewer aligned returns than these measure nothing.
FEWEST_RETURNS = 30
# A room found by floats is taken a hair smaller, so that the exact figure stays within its bound.
HAIR = Decimal("0.999999")
# A figure is told however large its bound is.
EIGHT_PLACES = Decimal("1e-8")
EXACT = Context(prec=60)
# How finely an order is cut to a value at risk: 2 to this power parts.
BISECTIONS = 12


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one account, None where there is none; percentages are of equity unless a name says otherwise."""

    max_open_positions: int | None = None
    max_exposure: Decimal | None = None
    max_exposure_percent: Decimal | None = None
    max_net_exposure_percent: Decimal | None = None
    max_market_exposure_percent: Decimal | None = None
    max_currency_exposure_percent: Decimal | None = None
    max_correlated_exposure_percent: Decimal | None = None
    max_leverage: Decimal | None = None
    max_risk_per_trade_percent: Decimal | None = None
    max_open_risk_percent: Decimal | None = None
    max_orders_per_minute: int | None = None
    max_daily_loss_percent: Decimal | None = None
    max_drawdown_percent: Decimal | None = None
    max_var_percent: Decimal | None = None
    max_cvar_percent: Decimal | None = None
    var_method: str = VarMethod.HISTORICAL
    var_confidence: float = 0.95
    var_horizon_hours: int = 24
    cooldown_losses: int | None = None
    cooldown_minutes: int = 60
    price_band_percent: Decimal | None = None

    @property
    def wants_history(self) -> bool:
        """Whether the returns of the markets are needed to measure them."""
        wanting = (self.max_correlated_exposure_percent, self.max_var_percent, self.max_cvar_percent)
        return any(bound is not None for bound in wanting)


@dataclass(frozen=True, slots=True)
class Holding:
    """A position with the entries at work for it. ``notional`` is what both are worth, negative when short; ``risk`` what is
    lost from here when its stop is hit, the whole where it has none."""

    position_id: int | None
    market: str
    base: str
    notional: Decimal
    risk: Decimal

    def __add__(self, other: Holding) -> Holding:
        return replace(self, notional=self.notional + other.notional, risk=self.risk + other.risk)


@dataclass(frozen=True, slots=True)
class Past:
    """What an account has been through, as far as its limits ask for it. Amounts in its currency, times on one clock: that of
    the venue for losses. None where nothing is known."""

    day_start_equity: Decimal | None = None
    peak_equity: Decimal | None = None
    entries_last_minute: int = 0
    # Of the session and of the account: the last positions closed, newest first, as (result, closed at).
    closed_by_session: Sequence[tuple[Decimal, datetime]] = ()
    closed_by_account: Sequence[tuple[Decimal, datetime]] = ()


@dataclass(frozen=True, slots=True)
class Returns:
    """Returns of markets over the same periods, oldest first: a row per period, a column per market."""

    markets: tuple[str, ...]
    matrix: FloatArray
    period: timedelta

    def column(self, market: str) -> int | None:
        return self.markets.index(market) if market in self.markets else None


@dataclass(frozen=True, slots=True)
class Candidate:
    """The entry that is asked for. ``risk_fraction`` is the part of its notional that is lost at its stop (1 without one);
    ``margin`` how much more than its notional it may become by slippage and fee; ``named_price`` the limit or stop price."""

    market: str
    base: str
    side: PositionSide
    risk_fraction: Decimal
    position_id: int | None = None
    margin: Decimal = ZERO
    leverage: Decimal = Decimal(1)
    named_price: Decimal | None = None
    last_price: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One limit, measured. ``figure`` gives what it measures were the order of that notional; ``room`` is how much notional
    it lets through, None where size is no matter or all of it fits; ``is_broken``: no order of any size."""

    limit: str
    code: Denial
    bound: Decimal
    figure: Callable[[Decimal], Decimal]
    room: Decimal | None = None
    is_broken: bool = False
    unit: str = "quote"

    def told(self, wish: Decimal, notional: Decimal) -> dict[str, Any]:
        """The check as it is stored: figures before and after an order of ``notional``, when ``wish`` was asked for."""
        is_cut = self.room is not None and self.room < wish
        is_denied = self.is_broken or (is_cut and not notional)
        verdict = "DENIED" if is_denied else "CUT" if is_cut else "PASSED"
        # The figure of an order that is denied is what it would have come to.
        after = self.figure(notional or wish)
        return {
            "limit": self.limit, "code": self.code.value, "unit": self.unit, "before": _text(self.figure(ZERO)),
            "after": _text(after), "bound": _text(self.bound), "margin": _text(self.bound - after),
            "room": None if self.room is None else _text(max(self.room, ZERO)), "verdict": verdict,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Book:
    """An account as its limits see it."""

    equity: Decimal
    holdings: tuple[Holding, ...]

    def of(self, **wanted: Any) -> list[Holding]:
        return [one for one in self.holdings if all(getattr(one, name) == value for name, value in wanted.items())]

    @property
    def exposure(self) -> Decimal:
        """What all holdings are worth, whichever side they are on."""
        return sum((abs(one.notional) for one in self.holdings), ZERO)

    @property
    def net_exposure(self) -> Decimal:
        """Long less short."""
        return sum((one.notional for one in self.holdings), ZERO)

    @property
    def open_risk(self) -> Decimal:
        return sum((one.risk for one in self.holdings), ZERO)

    def by(self, name: str) -> dict[str, Decimal]:
        """Signed notionals by ``market`` or ``base``."""
        sums: dict[str, Decimal] = {}
        for one in self.holdings:
            key = getattr(one, name)
            sums[key] = sums.get(key, ZERO) + one.notional
        return sums


def weigh(
    limits: Limits, book: Book, past: Past, candidate: Candidate, wish: Decimal, returns: Returns | None, now: datetime
) -> list[Check]:
    """Every limit that is set, measured for an order of ``wish`` at most, in the order in which they are named when several
    deny. ``now`` is the venue's time."""
    checks = [*_cooldowns(limits, past, now), *_pace(limits, past), *_losses(limits, book, past)]
    checks += [*_band(limits, candidate), *_positions(limits, book, candidate), *_risks(limits, book, candidate)]
    checks += _exposures(limits, book, candidate)
    if limits.wants_history:
        within = min((check.room for check in checks if check.room is not None), default=wish)
        checks += _by_history(limits, book, candidate, max(min(wish, within), ZERO), returns)
    return checks


def rooms_of(checks: Sequence[Check]) -> list[Room]:
    """What the checks let through, as the size is cut to it."""
    return [Room(check.room, check.code) for check in checks if check.room is not None]


def denied_by(checks: Sequence[Check]) -> Denial | None:
    """The first limit that lets no order of any size through."""
    return next((check.code for check in checks if check.is_broken), None)


def portfolio(book: Book, returns: Returns) -> FloatArray | None:
    """The signed notionals of the book in the order of ``returns``' markets; None where one of them is missing there."""
    sums = book.by("market")
    if any(returns.column(market) is None for market in sums):
        return None
    return np.array([float(sums.get(market, ZERO)) for market in returns.markets])


def periods_of(limits: Limits, returns: Returns) -> int:
    """The horizon of the value at risk in periods of ``returns``, begun ones counted whole."""
    return max(-(-int(limits.var_horizon_hours * 3600) // int(returns.period.total_seconds())), 1)


def _percent(percent: Decimal, equity: Decimal) -> Decimal:
    return percent * equity / HUNDRED


def _still(value: Decimal) -> Callable[[Decimal], Decimal]:
    return lambda notional: value


def _cooldowns(limits: Limits, past: Past, now: datetime) -> list[Check]:
    """Rest after losses in a row: of the session, and of the account."""
    if limits.cooldown_losses is None:
        return []
    checks = []
    for of, closed in (("session", past.closed_by_session), ("account", past.closed_by_account)):
        losses = next((index for index, (result, _) in enumerate(closed) if result >= 0), len(closed))
        is_recent = bool(closed) and now - closed[0][1] < timedelta(minutes=limits.cooldown_minutes)
        checks.append(
            Check(
                f"cooldown_losses of {of}",
                Denial.COOLDOWN,
                Decimal(limits.cooldown_losses),
                _still(Decimal(losses)),
                is_broken=is_recent and losses >= limits.cooldown_losses,
                unit="count",
            )  # fmt: skip
        )
    return checks


def _pace(limits: Limits, past: Past) -> list[Check]:
    if limits.max_orders_per_minute is None:
        return []
    sent, bound = Decimal(past.entries_last_minute), Decimal(limits.max_orders_per_minute)
    return [
        Check(
            "max_orders_per_minute",
            Denial.MAX_ORDERS_PER_MINUTE,
            bound,
            lambda notional: sent + bool(notional),
            is_broken=sent >= bound,
            unit="count",
        )  # fmt: skip
    ]


def _losses(limits: Limits, book: Book, past: Past) -> list[Check]:
    """Today's loss and the way down from the peak. Where no earlier figure is known there is no loss to be seen yet."""
    asked = (
        ("max_daily_loss_percent", Denial.MAX_DAILY_LOSS, limits.max_daily_loss_percent, past.day_start_equity),
        ("max_drawdown_percent", Denial.MAX_DRAWDOWN, limits.max_drawdown_percent, past.peak_equity),
    )
    checks = []
    for name, code, percent, reference in asked:
        if percent is None:
            continue
        lost = ZERO if reference is None else max(reference - book.equity, ZERO)
        bound = _percent(percent, book.equity if reference is None else reference)
        checks.append(Check(name, code, bound, _still(lost), is_broken=lost > 0 and lost >= bound))
    return checks


def _band(limits: Limits, candidate: Candidate) -> list[Check]:
    if limits.price_band_percent is None or candidate.named_price is None or not candidate.last_price:
        return []
    off = abs(candidate.named_price - candidate.last_price) / candidate.last_price * HUNDRED
    return [
        Check(
            "price_band_percent",
            Denial.PRICE_BAND,
            limits.price_band_percent,
            _still(off),
            is_broken=off > limits.price_band_percent,
            unit="percent",
        )  # fmt: skip
    ]


def _positions(limits: Limits, book: Book, candidate: Candidate) -> list[Check]:
    checks = []
    is_new = candidate.position_id is None or not book.of(position_id=candidate.position_id)
    if limits.max_open_positions is not None:
        count, bound = Decimal(len(book.holdings)), Decimal(limits.max_open_positions)
        checks.append(
            Check(
                "max_open_positions",
                Denial.MAX_OPEN_POSITIONS,
                bound,
                lambda notional: count + (is_new and notional > 0),
                is_broken=is_new and count >= bound,
                unit="count",
            )  # fmt: skip
        )
    if limits.max_leverage is not None:
        checks.append(
            Check(
                "max_leverage",
                Denial.MAX_LEVERAGE,
                limits.max_leverage,
                _still(candidate.leverage),
                is_broken=candidate.leverage > limits.max_leverage,
                unit="times",
            )  # fmt: skip
        )
    return checks


def _linear(
    name: str, code: Denial, bound: Decimal | None, used: Decimal, rate: Decimal, *, is_size: bool = False
) -> list[Check]:
    """A limit on something that grows by ``rate`` with each unit of notional; ``is_size``: an amount of either sign."""
    if bound is None:
        return []
    room = (bound - used) / rate if rate > 0 else None

    def figure(notional: Decimal) -> Decimal:
        grown = used + notional * rate
        return abs(grown) if is_size else grown

    return [Check(name, code, bound, figure, room)]


def _risks(limits: Limits, book: Book, candidate: Candidate) -> list[Check]:
    own = [] if candidate.position_id is None else book.of(position_id=candidate.position_id)
    at_stop = sum((one.risk for one in own), ZERO)
    asked = (
        ("max_risk_per_trade_percent", Denial.MAX_RISK_PER_TRADE, limits.max_risk_per_trade_percent, at_stop),
        ("max_open_risk_percent", Denial.MAX_OPEN_RISK, limits.max_open_risk_percent, book.open_risk),
    )
    checks = []
    for name, code, percent, used in asked:
        bound = None if percent is None else _percent(percent, book.equity)
        checks += _linear(name, code, bound, used, candidate.risk_fraction)
    return checks


def _exposures(limits: Limits, book: Book, candidate: Candidate) -> list[Check]:
    """What is held counts at the last price; the order, like those at work, with what slippage and fee may add."""
    rate = 1 + candidate.margin
    net = book.net_exposure * candidate.side.sign
    market = sum((abs(one.notional) for one in book.of(market=candidate.market)), ZERO)
    currency = sum((abs(one.notional) for one in book.of(base=candidate.base)), ZERO)
    percents = (
        ("max_exposure_percent", Denial.MAX_EXPOSURE, limits.max_exposure_percent, book.exposure),
        ("max_market_exposure_percent", Denial.MAX_MARKET_EXPOSURE, limits.max_market_exposure_percent, market),
        ("max_currency_exposure_percent", Denial.MAX_CURRENCY_EXPOSURE, limits.max_currency_exposure_percent, currency),
        ("max_net_exposure_percent", Denial.MAX_NET_EXPOSURE, limits.max_net_exposure_percent, net),
    )
    checks = _linear("max_exposure", Denial.MAX_EXPOSURE, limits.max_exposure, book.exposure, rate)
    if limits.max_leverage is not None:
        most = limits.max_leverage * book.equity
        checks += _linear("max_leverage of the account", Denial.MAX_LEVERAGE, most, book.exposure, rate)
    for name, code, percent, used in percents:
        bound = None if percent is None else _percent(percent, book.equity)
        checks += _linear(name, code, bound, used, rate, is_size=code is Denial.MAX_NET_EXPOSURE)
    return checks


def _by_history(
    limits: Limits, book: Book, candidate: Candidate, wish: Decimal, returns: Returns | None
) -> list[Check]:
    """Limits on how the markets moved, and moved together."""
    held = None if returns is None else portfolio(book, returns)
    index = None if returns is None else returns.column(candidate.market)
    asked: Mapping[str, Decimal | None] = {
        "max_correlated_exposure_percent": limits.max_correlated_exposure_percent,
        "max_var_percent": limits.max_var_percent,
        "max_cvar_percent": limits.max_cvar_percent,
    }
    wanted = {name: _percent(percent, book.equity) for name, percent in asked.items() if percent is not None}
    unmeasured = [Check(name, Denial.NO_HISTORY, bound, _still(ZERO), is_broken=True) for name, bound in wanted.items()]
    if returns is None or held is None or index is None or len(returns.matrix) < FEWEST_RETURNS:
        return unmeasured
    step = float(candidate.side.sign * (1 + candidate.margin))

    def after(notional: Decimal) -> FloatArray:
        moved: FloatArray = held.copy()
        moved[index] += step * float(notional)
        return moved

    together = correlations(returns.matrix)

    def moving_together(notional: Decimal) -> Decimal:
        return to_decimal(correlated_exposure(together, after(notional)))

    checks = []
    for name, bound in wanted.items():
        figure: Callable[[Decimal], Decimal] = moving_together
        code = Denial.MAX_CORRELATED_EXPOSURE
        if name != "max_correlated_exposure_percent":
            code = Denial.MAX_VAR if name == "max_var_percent" else Denial.MAX_CVAR
            figure = _loss(limits, returns, after, is_tail=code is Denial.MAX_CVAR)
        try:
            checks.append(Check(name, code, bound, figure, _room(figure, bound, wish)))
        except ValueError:  # too few returns for this confidence and horizon
            checks.append(Check(name, Denial.NO_HISTORY, bound, _still(ZERO), is_broken=True))
    return checks


def _loss(
    limits: Limits, returns: Returns, after: Callable[[Decimal], FloatArray], *, is_tail: bool
) -> Callable[[Decimal], Decimal]:
    """The value at risk of the book with an order, or its mean loss beyond; no loss where it would gain."""

    def figure(notional: Decimal) -> Decimal:
        risk = book_risk(
            returns.matrix, after(notional), method=VarMethod(limits.var_method), confidence=limits.var_confidence,
            horizon=periods_of(limits, returns),
        )  # fmt: skip
        return max(to_decimal(risk.cvar if is_tail else risk.var), ZERO)

    return figure


def _room(figure: Callable[[Decimal], Decimal], bound: Decimal, wish: Decimal) -> Decimal | None:
    """The largest notional below ``wish`` that halving finds within ``bound``, nothing where even a small part of it is not;
    None where all of it is."""
    if figure(wish) <= bound:
        return None
    low: Decimal = ZERO
    high: Decimal = wish
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if figure(middle) <= bound else (low, middle)
    return low * HAIR


def _text(value: Decimal) -> str:
    """A figure to read and to store: in full, without an exponent or trailing zeros, at eight decimals at most."""
    rounded = value.quantize(EIGHT_PLACES, context=EXACT)
    text = format(rounded if rounded else ZERO, "f")  # no -0
    return text.rstrip("0").rstrip(".") if "." in text else text
