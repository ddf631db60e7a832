"""What a session did beside what the backtest would have done over the same candles, trade by trade, and why they differ.

Both ask the same functions, so a difference has a cause: the market moved while an order was on its way, an entry was denied,
the session did not trade then, a candle was told otherwise. What was stored says which; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

import numpy as np
from django.utils import timezone

from backtesting.engine import backtest
from backtesting.engine.inputs import MarketInput, Result, Settings, Trade, at
from backtesting.gathering import market_gather, settings_of
from domain.candles import Timeframe
from domain.exits import ExitReason
from domain.market import ONE, MarketRules, PositionSide
from domain.orders import DENIAL_TEXTS, Denial
from domain.sizing import SizingMethod
from domain.strategy import SignalKind
from exchanges.models import Market
from sessions.models import SessionStatus, TradingSession
from sessions.past import session_statuses, status_at
from strategies.models import Signal

# More would keep a web worker for seconds.
MOST_CANDLES = 20_000
# An order that fills this soon after the open was not late: to collect, decide and send takes as long.
IN_TIME = timedelta(seconds=5)
BY_COMMAND = frozenset({ExitReason.MARKET_EXIT, ExitReason.SESSION_STOP, ExitReason.HALT})


class Code(StrEnum):
    """Why the two differ, or that they do not."""

    SAME = "SAME"
    LATENCY = "LATENCY"
    SLIPPAGE = "SLIPPAGE"
    PARTIAL = "PARTIAL"
    SIZE = "SIZE"
    EXIT = "EXIT"
    BY_HAND = "BY_HAND"
    DENIED = "DENIED"
    NOT_FILLED = "NOT_FILLED"
    SUSPENDED = "SUSPENDED"
    HALTED = "HALTED"
    NOT_RUNNING = "NOT_RUNNING"
    HELD = "HELD"
    NO_SIGNAL_LIVE = "NO_SIGNAL_LIVE"
    NOT_ENTERED = "NOT_ENTERED"
    MISSED_IN_BACKTEST = "MISSED_IN_BACKTEST"


# For whoever reads them; that none is missing is tested.
CODE_TEXTS: Mapping[Code, str] = {
    Code.SAME: "both did the same",
    Code.LATENCY: f"the entry filled more than {IN_TIME.seconds} s after the open",
    Code.SLIPPAGE: "entered or left at another price",
    Code.PARTIAL: "less was filled than was asked for",
    Code.SIZE: "another quantity was asked for",
    Code.EXIT: "left for another reason, in another candle, or by one of them only",
    Code.BY_HAND: "entered or left by command, which no backtest knows",
    Code.DENIED: "the entry was denied before it was sent",
    Code.NOT_FILLED: "the entry was sent, and nothing came of it",
    Code.SUSPENDED: "the session was suspended",
    Code.HALTED: "the session was halted",
    Code.NOT_RUNNING: "the session was stopped",
    Code.HELD: "the session still held another position",
    Code.NO_SIGNAL_LIVE: "the strategy did not say so then",
    Code.NOT_ENTERED: "the strategy said so, and no entry was asked for",
    Code.MISSED_IN_BACKTEST: "the backtest did not enter",
}
NOT_TRADING: Mapping[str, Code] = {
    SessionStatus.SUSPENDED: Code.SUSPENDED,
    SessionStatus.HALTED: Code.HALTED,
    SessionStatus.STOPPING: Code.NOT_RUNNING,
    SessionStatus.STOPPED: Code.NOT_RUNNING,
}
SPEAKS_OF = {PositionSide.LONG: SignalKind.ENTER_LONG, PositionSide.SHORT: SignalKind.ENTER_SHORT}


@dataclass(frozen=True, slots=True)
class LiveTrade:
    """A position as it came to be, from what was asked for to what was left. ``asked_at`` is when the candle closed whose
    signal asked for it, None for one by hand; ``asked`` the quantity that was let through. Amounts in quote currency, times
    by the venue's clock. ``denial`` is the code of an entry that was refused, ``fate`` what became of one that came to
    nothing."""

    position_id: int
    side: PositionSide
    asked_at: datetime | None
    asked: Decimal | None = None
    entry_at: datetime | None = None
    entry_price: Decimal | None = None
    quantity: Decimal | None = None
    exit_at: datetime | None = None
    exit_price: Decimal | None = None
    exit_reason: str = ""
    pnl: Decimal | None = None
    denial: str = ""
    fate: str = ""

    @property
    def is_closed(self) -> bool:
        return self.exit_at is not None

    def holds_at(self, moment: datetime) -> bool:
        is_entered = self.entry_at is not None and self.entry_at < moment
        return is_entered and (self.exit_at is None or self.exit_at > moment)


@dataclass(frozen=True, slots=True)
class Row:
    """One trade of either side, or of both, in the candle that opened at ``candle_open_at``. Differences are the live figure
    less the backtest's; ``slippage`` is what they cost in quote currency, negative where the live prices were better."""

    candle_open_at: datetime
    side: PositionSide
    live: LiveTrade | None
    tested: Trade | None
    codes: tuple[Code, ...]
    text: str
    slippage: float | None = None

    def seconds(self, name: str) -> float | None:
        """By how much ``entry_at`` was later."""
        live, tested = getattr(self.live, name, None), getattr(self.tested, name, None)
        return None if live is None or tested is None else float((live - tested).total_seconds())

    def difference(self, name: str) -> float | None:
        live, tested = getattr(self.live, name, None), getattr(self.tested, name, None)
        if live is None or tested is None or (name in ("exit_price", "pnl") and self._is_half_open):
            return None
        return float(live) - float(tested)

    @property
    def _is_half_open(self) -> bool:
        """Whether one of them is not left yet: the backtest's result is then no result."""
        return self.live is None or self.tested is None or not self.live.is_closed or self.tested.is_open


@dataclass(frozen=True, slots=True)
class Drift:
    """All rows of a span, oldest first; ``warnings`` say what could not be the same."""

    since: datetime
    until: datetime
    candles: int
    rows: tuple[Row, ...]
    warnings: tuple[str, ...] = ()

    @property
    def totals(self) -> dict[str, Any]:
        """Sums over what was left on either side, in quote currency, and how often each code was said."""
        lives = [row.live.pnl for row in self.rows if row.live is not None and row.live.is_closed and row.live.pnl]
        tested = [row.tested for row in self.rows if row.tested is not None and not row.tested.is_open]
        missed = [row.tested.pnl for row in self.rows if row.tested is not None and not row.tested.is_open
                  and (row.live is None or row.live.entry_at is None)]  # fmt: skip
        extra = [float(row.live.pnl) for row in self.rows if row.tested is None and row.live is not None
                 and row.live.is_closed and row.live.pnl is not None]  # fmt: skip
        codes = [code for row in self.rows for code in row.codes]
        live_pnl, tested_pnl = float(sum(lives, Decimal(0))), sum(trade.pnl for trade in tested)
        return {
            "live_pnl": live_pnl,
            "backtest_pnl": tested_pnl,
            "difference": live_pnl - tested_pnl,
            "slippage": sum(row.slippage for row in self.rows if row.slippage is not None),
            "missed_pnl": sum(missed),
            "extra_pnl": sum(extra),
            "live_trades": sum(row.live is not None and row.live.entry_at is not None for row in self.rows),
            "backtest_trades": sum(row.tested is not None for row in self.rows),
            "codes": {code.value: codes.count(code) for code in Code if code in codes},
        }


def session_market(session: TradingSession, since: datetime, until: datetime) -> MarketInput:
    """What the session trades, from the first candle on that it may enter in after ``since``, when its run began by the
    venue's clock. Raises as ``market_gather``."""
    feed = session.config.feed
    timeframe = Timeframe(feed.timeframe)
    first = timeframe.open_of(since) + timeframe.length
    return market_gather(feed, session.config.build(), first, until, plan=session.exit_plan)


def session_settings(session: TradingSession, cash: Decimal, **changes: Any) -> Settings:
    """How the session sizes its entries, on ``cash`` to begin with; and the terms of its account."""
    market = session.config.feed.market
    own: dict[str, Any] = {
        "cash": cash,
        "sizing": SizingMethod(session.sizing_method),
        "amount": session.sizing_amount,
        "is_confidence_weighted": session.is_confidence_weighted,
        "kelly_min_trades": session.kelly_min_trades,
        "kelly_cap_percent": session.kelly_cap_percent,
        "max_entries": session.max_entries,
        "leverage": session.leverage if market.kind == Market.Kind.LINEAR_FUTURE else ONE,
    }
    return settings_of(session.account, [market], **{**own, **changes})


def session_compare(
    session: TradingSession, since: datetime, until: datetime, cash: Decimal, live: Sequence[LiveTrade]
) -> Drift:
    """The session's trades ``live`` of that span beside those of the backtest with ``cash``. Raises as ``session_market``."""
    market = session_market(session, since, until)
    result = backtest([market], session_settings(session, cash))
    comparison = _Comparison(session, market, result, live)
    return Drift(since, until, len(market.candles) - market.first, comparison.rows(), comparison.warnings())


class _Comparison:
    """One comparison: what is known of either side."""

    def __init__(self, session: TradingSession, market: MarketInput, result: Result, live: Sequence[LiveTrade]) -> None:
        self._session, self._market, self._result, self._live = session, market, result, live
        self._timeframe = market.timeframe
        self._rules: MarketRules = market.rules_or_none
        self._statuses = session_statuses(session.pk, timezone.now())
        self._tested = {(trade.entry_at, trade.side): trade for trade in result.trades}
        self._refused = {(one.at, one.side): one.denial for one in result.refused}

    def rows(self) -> tuple[Row, ...]:
        rows, left = [], dict(self._tested)
        for one in self._live:
            key = (self._entered_in(one), one.side)
            tested = left.pop(key, None) if one.asked_at is not None else None
            rows.append(self._extra(one, key[0]) if tested is None else self._both(one, tested))
        signals = self._signals([self._spoken_in(trade) for trade in left.values()])
        rows += [self._missed(trade, signals.get(self._spoken_in(trade))) for trade in left.values()]
        return tuple(sorted(rows, key=lambda row: row.candle_open_at))

    def warnings(self) -> tuple[str, ...]:
        account, found = self._session.account, []
        profile = getattr(account, "risk_profile", None)
        if profile is not None and settings_left_out(profile):
            found.append("Limits that need other markets' returns are not in the backtest.")
        if self._session.sizing_method != SizingMethod.FIXED_QUOTE:
            found.append(
                "The account is taken to be this session's alone: what others won, lost or held is not known to it."
            )
        return tuple(found)

    def _entered_in(self, one: LiveTrade) -> datetime:
        """The open time of the candle that the entry was for: the next after its signal's; of one by hand that it came in."""
        if one.asked_at is not None:
            open_ms = self._market.candles.open_ms
            next_one = int(np.searchsorted(open_ms, round(one.asked_at.timestamp() * 1000)))
            return at(int(open_ms[next_one])) if next_one < len(open_ms) else one.asked_at
        return self._timeframe.open_of(one.entry_at or timezone.now())

    def _spoken_in(self, trade: Trade) -> datetime:
        """The open time of the candle whose signal the backtest entered by: the one before."""
        open_ms = self._market.candles.open_ms
        return at(int(open_ms[int(np.searchsorted(open_ms, round(trade.entry_at.timestamp() * 1000))) - 1]))

    def _signals(self, opens: Sequence[datetime]) -> dict[datetime, Signal]:
        found = Signal.objects.filter(config=self._session.config_id, candle_open_at__in=list(opens))
        return {signal.candle_open_at: signal for signal in found}

    def _both(self, live: LiveTrade, tested: Trade) -> Row:
        if live.entry_at is None:
            return Row(tested.entry_at, live.side, live, tested, *self._unfilled(live))
        codes: list[Code] = []
        texts: list[str] = []
        late = live.entry_at - tested.entry_at
        if late > IN_TIME:
            codes.append(Code.LATENCY)
            texts.append(f"entered {late.total_seconds():g} s after the open")
        slippage = self._slippage(live, tested)
        off = [(what, _off(live, tested, f"{what}_price")) for what in ("entry", "exit")]
        is_same_exit = self._is_same_exit(live, tested)
        for what, difference in off if is_same_exit else off[:1]:
            if difference is not None and abs(difference) >= float(self._rules.tick_size) / 2:
                codes.append(Code.SLIPPAGE)
                texts.append(f"{what} at {difference:+.8g} from the backtest's price")
        codes += self._of_quantity(live, tested, texts)
        if not is_same_exit:
            codes.append(Code.BY_HAND if live.exit_reason in BY_COMMAND else Code.EXIT)
            texts.append(f"{_exit_told(live)}, in the backtest {_exit_told(tested)}")
        told = tuple(dict.fromkeys(codes)) or (Code.SAME,)
        return Row(tested.entry_at, live.side, live, tested, told, _sentence(texts) or "The same.", slippage)

    def _of_quantity(self, live: LiveTrade, tested: Trade, texts: list[str]) -> list[Code]:
        if live.quantity is None or abs(float(live.quantity) - tested.quantity) < float(self._rules.lot_size) / 2:
            return []
        if live.asked is not None and live.quantity < live.asked:
            texts.append(f"{live.quantity.normalize():f} of {live.asked.normalize():f} filled")
            return [Code.PARTIAL]
        texts.append(f"{live.quantity.normalize():f} asked for, in the backtest {tested.quantity:.12g}")
        return [Code.SIZE]

    def _is_same_exit(self, live: LiveTrade, tested: Trade) -> bool:
        if live.exit_at is None or tested.is_open:
            return live.exit_at is None and tested.is_open
        return live.exit_reason == tested.exit_reason and self._timeframe.open_of(live.exit_at) == tested.exit_at

    def _slippage(self, live: LiveTrade, tested: Trade) -> float | None:
        """What other prices cost, of exits only where both were left alike."""
        entry = _off(live, tested, "entry_price")
        if entry is None or live.quantity is None:
            return None
        leave = _off(live, tested, "exit_price") if self._is_same_exit(live, tested) else None
        units = float(live.quantity * self._rules.contract_size) * live.side.sign
        return (entry - (leave or 0.0)) * units

    def _unfilled(self, live: LiveTrade) -> tuple[tuple[Code, ...], str]:
        if live.denial:
            text = DENIAL_TEXTS[Denial(live.denial)] if live.denial in set(Denial) else ""
            return (Code.DENIED,), f"{live.denial}: {text}".rstrip(": ")
        return (Code.NOT_FILLED,), f"The entry came to nothing: {live.fate or 'unknown'}."

    def _extra(self, live: LiveTrade, candle_open_at: datetime) -> Row:
        """What only the session did, or tried."""
        if live.asked_at is None:
            return Row(candle_open_at, live.side, live, None, (Code.BY_HAND,), "Entered by hand.")
        denial = self._refused.get((candle_open_at, live.side))
        if live.entry_at is None:
            codes, text = self._unfilled(live)
            codes = (Code.SAME,) if denial is not None and denial == live.denial else codes
            return Row(candle_open_at, live.side, live, None, codes, f"{text} The backtest did not enter either.")
        held = [one for one in self._result.trades if one.entry_at < candle_open_at and one.exit_at >= candle_open_at]
        text = "The strategy says nothing there over the candles as they are stored now."
        if denial is not None:
            text = f"The backtest was denied the entry ({denial}): {DENIAL_TEXTS[denial]}"
        elif held:
            text = f"The backtest still held what it entered at {held[-1].entry_at:%Y-%m-%d %H:%M}."
        return Row(candle_open_at, live.side, live, None, (Code.MISSED_IN_BACKTEST,), text)

    def _missed(self, trade: Trade, signal: Signal | None) -> Row:
        """What only the backtest did: the session's state first, for a strategy is not asked while nobody trades by it."""
        code, text = self._why_missed(trade, signal)
        return Row(trade.entry_at, trade.side, None, trade, (code,), text)

    def _why_missed(self, trade: Trade, signal: Signal | None) -> tuple[Code, str]:
        exchange = self._session.account.exchange
        then = signal.created_at if signal is not None else exchange.our_time_of(trade.entry_at, timezone.now())
        status = status_at(self._statuses, then) or ""
        if status in NOT_TRADING:
            return NOT_TRADING[status], f"The session was {status} then and took no entries."
        held = next((one for one in self._live if one.holds_at(trade.entry_at)), None)
        if held is not None and held.entry_at is not None:
            return Code.HELD, f"The session still held what it entered at {held.entry_at:%Y-%m-%d %H:%M}."
        if signal is None:
            return Code.NO_SIGNAL_LIVE, "The candle before was not evaluated."
        if signal.kind != SPEAKS_OF[trade.side]:
            said = signal.reason if signal.kind == SignalKind.NOTHING else signal.kind
            return Code.NO_SIGNAL_LIVE, f"The strategy did not say so of the candle before: {said}."
        return Code.NOT_ENTERED, "The strategy said so, and the session asked for no entry: it saw the signal too late."


def settings_left_out(profile: Any) -> bool:
    """Whether the risk profile has limits that a backtest of one account's book cannot judge."""
    names = ("max_correlated_exposure_percent", "max_var_percent", "max_cvar_percent")
    return any(getattr(profile, name) is not None for name in names)


def _off(live: LiveTrade, tested: Trade, name: str) -> float | None:
    """The live price less the backtest's; of exits only where both have left."""
    price: Decimal | None = getattr(live, name)
    if price is None or (name == "exit_price" and (tested.is_open or not live.is_closed)):
        return None
    return float(price) - float(getattr(tested, name))


def _exit_told(one: LiveTrade | Trade) -> str:
    if one.exit_at is None or not one.exit_reason:
        return "not left yet"
    return f"left by {one.exit_reason} at {one.exit_at:%Y-%m-%d %H:%M}"


def _sentence(texts: Sequence[str]) -> str:
    told = "; ".join(texts)
    return f"{told[:1].upper()}{told[1:]}." if told else ""
