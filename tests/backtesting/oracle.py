"""The same backtest, slowly: one market, candle after candle, every question asked of ``domain/`` on every one.

It knows no events, no floats and no buffers, so there is little in it to be wrong. The engine and its fast loop are held to
what it says.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal

import numpy as np

from backtesting.engine.inputs import MarketInput, Settings
from domain.exits import (
    EntryFacts,
    ExitDue,
    ExitLevels,
    ExitReason,
    Progress,
    exit_due,
    is_time_up,
    levels_in_force,
    part_to_sell,
)
from domain.indicators import atr
from domain.market import ZERO, PositionSide, round_price, to_decimal
from domain.matching import exit_in_candle, fee_of, market_fill_price
from domain.positions import FillFact, PositionState, fold, unrealized_pnl
from domain.sizing import Sizing, size
from domain.strategy import SignalKind

ENTRIES = {SignalKind.ENTER_LONG: PositionSide.LONG, SignalKind.ENTER_SHORT: PositionSide.SHORT}
ATR_PERIOD = 14
LIMITS = (ExitReason.TAKE_PROFIT, ExitReason.ROI)


@dataclass
class Told:
    """A trade as the oracle tells it: (side, entry index, exit index, reason), and its exact figures."""

    key: tuple[PositionSide, int, int, ExitReason | None]
    entry_price: Decimal
    exit_price: Decimal
    quantity: Decimal
    pnl: Decimal


@dataclass
class Position:
    facts: EntryFacts
    index: int
    fills: list[FillFact]
    state: PositionState
    best: Decimal | None = None
    done: int = 0


@dataclass
class Oracle:
    market: MarketInput
    settings: Settings
    trades: list[Told] = field(default_factory=list)
    equity: list[Decimal] = field(default_factory=list)
    refused: list[tuple[int, PositionSide, str]] = field(default_factory=list)
    wallet: Decimal = ZERO
    position: Position | None = None

    def run(self) -> Oracle:
        self.wallet = self.settings.cash
        signals, candles = self.market.said(), self.market.candles
        for i in range(self.market.first, len(candles)):
            spoke = signals.kind_at(i - 1) if i and i >= self.market.first else SignalKind.NOTHING
            o, h, lo, c = (
                to_decimal(float(column[i])) for column in (candles.open, candles.high, candles.low, candles.close)
            )
            while self.position is not None and (due := self.due(i, o, spoke)) is not None:
                self.leave(i, due, o)
            if self.position is None and spoke in ENTRIES:
                self.enter(i, ENTRIES[spoke], o)
            while self.position is not None and (hit := self.hit(i, o, h, lo)) is not None:
                self.leave(i, *hit)
            held = self.position
            if held is not None and i > held.index:
                extreme = h if held.facts.side is PositionSide.LONG else lo
                if held.best is None or (extreme - held.best) * held.facts.side.sign > 0:
                    held.best = extreme
            self.equity.append(self.wallet + (self.worth(c) if held is not None else ZERO))
        if self.position is not None:
            self.leave(len(candles) - 1, None, to_decimal(float(candles.close[-1])))
        return self

    def held_for(self, i: int) -> timedelta:
        assert self.position is not None
        open_ms = self.market.candles.open_ms
        return timedelta(milliseconds=int(open_ms[i] - open_ms[self.position.index]))

    def levels(self, i: int) -> ExitLevels:
        held = self.position
        assert held is not None
        progress = Progress(held.best, held.done, self.held_for(i))
        levels = levels_in_force(self.market.exit_plan, held.facts, progress)
        if levels.target is None:
            return levels
        target = round_price(levels.target, self.market.rules_or_none, held.facts.side.exit_side)
        return replace(levels, target=target if target > 0 else None)

    def due(self, i: int, price: Decimal, spoke: SignalKind) -> ExitDue | None:
        assert self.position is not None
        plan = self.market.exit_plan
        return exit_due(
            self.position.facts.side, self.levels(i), price, spoke,
            is_time_up=is_time_up(plan, self.held_for(i)), is_signal_used=plan.is_exit_signal_used,
        )  # fmt: skip

    def hit(self, i: int, o: Decimal, h: Decimal, lo: Decimal) -> tuple[ExitDue, Decimal] | None:
        assert self.position is not None
        levels = self.levels(i)
        found = exit_in_candle(self.position.facts.side, levels.stop, levels.target, o, h, lo)
        if found is None:
            return None
        is_stop = found[0] is ExitReason.STOP_LOSS
        return ExitDue(levels.stop_reason) if is_stop else ExitDue(levels.target_reason, levels.target_step), found[1]

    def enter(self, i: int, side: PositionSide, open_: Decimal) -> None:
        settings, rules, signals = self.settings, self.market.rules_or_none, self.market.said()
        if side is PositionSide.SHORT and not self.market.can_short:
            self.refused.append((i, side, "SIDE_NOT_TRADABLE"))
            return
        sizing = Sizing(
            settings.sizing, settings.amount, open_ * (1 + side.sign * settings.spread / 2), self.wallet, self.wallet,
            price_margin=settings.margin,
        )  # fmt: skip
        sized = size(sizing, rules)
        if sized.denial is not None:
            self.refused.append((i, side, sized.denial.value))
            return
        price = round_price(market_fill_price(side.entry_side, open_, settings.worse), rules, side.exit_side)
        named = [
            None if column is None or np.isnan(column[i - 1]) else to_decimal(float(column[i - 1]))
            for column in (signals.stops, signals.targets)
        ]
        candles = self.market.candles
        reach = atr(candles.high[:i], candles.low[:i], candles.close[:i], ATR_PERIOD)[-1]
        facts = EntryFacts(
            side, price, atr=None if np.isnan(reach) else to_decimal(f"{reach:.10g}"), signal_stop=named[0],
            signal_target=named[1],
        )  # fmt: skip
        fee = fee_of(rules.notional(sized.quantity, price), settings.taker_fee)
        self.wallet -= fee
        fills = [FillFact(side.entry_side, sized.quantity, price, fee_quote=fee)]
        self.position = Position(facts, i, fills, fold(fills, side))

    def leave(self, i: int, due: ExitDue | None, price: Decimal) -> None:
        held, settings, rules = self.position, self.settings, self.market.rules_or_none
        assert held is not None
        side, state, rate = held.facts.side, held.state, ZERO
        if due is not None:
            is_limit = due.reason in LIMITS and settings.rests_targets
            rate = settings.maker_fee if is_limit else settings.taker_fee
            if not is_limit:
                filled = market_fill_price(side.exit_side, price, settings.worse)
                price = round_price(filled, rules, side.entry_side)
        quantity = state.quantity
        if due is not None and due.step:
            held.done = due.step
            quantity = part_to_sell(
                self.market.exit_plan, due.step, state.entered, state.exited, quantity, rules, price
            )
        if not quantity:
            return
        fee = fee_of(rules.notional(quantity, price), rate)
        held.fills.append(FillFact(side.exit_side, quantity, price, fee_quote=fee))
        self.wallet += (price - state.entry_price) * quantity * rules.contract_size * side.sign - fee
        state = held.state = fold(held.fills, side, rules.contract_size)
        if state.is_closed:
            key = (side, held.index, i, due.reason if due is not None else None)
            self.trades.append(Told(key, state.entry_price, state.exit_price, state.entered, state.realized_pnl))
            self.position = None

    def worth(self, close: Decimal) -> Decimal:
        assert self.position is not None
        return unrealized_pnl(
            self.position.state, close, self.position.facts.side, self.market.rules_or_none.contract_size
        )
