"""The callbacks of a strategy written for freqtrade as an adviser: asked when a candle has closed, right after an entry
filled, and before an order is made. freqtrade asks every few seconds, at the prices of the moment.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from domain.advice import Advice, Adviser, EntryWish, EntryWord, ExitWish, ExitWord, PositionView
from domain.exit_plan import ExitPlan
from domain.market import PositionSide, to_decimal
from strategies.freqtrade.settings import OLDER, plan_levered
from strategies.freqtrade.shims import Trade, Unsupported, minutes_of
from strategies.soundness import where

# How far from the current price a price of the strategy's own may be: freqtrade's default.
FARTHEST = 0.02
LONGEST_TAG = 64
EXIT_REASONS = {
    "STOP_LOSS": "stop_loss",
    "TRAILING_STOP": "trailing_stop_loss",
    "BREAK_EVEN": "trailing_stop_loss",
    "TAKE_PROFIT": "roi",
    "ROI": "roi",
    "EXIT_SIGNAL": "exit_signal",
    "TIME_EXIT": "roi",
}


class CallbackFailed(ValueError):
    """A callback raised, or answered what means nothing; the message says which, and where."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the adviser does beside the callbacks: exit signals by side with their tags, and a second trailing distance."""

    is_exit_signal_used: bool
    is_exit_profit_only: bool
    exit_profit_offset: float
    exits: dict[PositionSide, Any]
    exit_tags: Any
    plan: ExitPlan
    # (distance at first, distance from the offset on, offset), all parts of the price.
    trailing: tuple[float, float, float] | None = None


class Callbacks(Adviser):
    """The adviser of one strategy on one run. ``own`` is the instance of its class, ``show`` puts before it the candles up to
    an index."""

    def __init__(self, own: Any, rules: Rules, show: Callable[[int, datetime], str]) -> None:
        self._own, self._rules, self._show = own, rules, show
        self._takes: dict[str, frozenset[str]] = {}
        self._is_told_of_fills = "after_fill" in _parameters(getattr(own, "custom_stoploss", None))

    def on_entry(self, wish: EntryWish) -> EntryWord | None:
        if wish.is_again:
            return None  # what did not fill within its candle is given up
        pair, rate = self._show(wish.index, wish.at), float(wish.price)
        common = {
            "pair": pair, "current_time": wish.at, "entry_tag": wish.tag or None, "buy_tag": wish.tag or None,
            "side": wish.side.value.lower(),
        }  # fmt: skip
        borrowed = EntryWord() if wish.is_adding else self._borrowed(wish, common)
        stake = borrowed.stake if wish.is_adding else self._stake(wish, common, borrowed)
        if stake == 0:
            return None
        own_price = self._called("custom_entry_price", None, **common, trade=None, proposed_rate=rate)
        price = self._near("custom_entry_price", own_price, rate)
        at_rate = float(price or wish.price)
        is_meant = self._called(
            "confirm_trade_entry", True, **common, order_type="market" if price is None else "limit",
            amount=float(stake or wish.stake) / at_rate, rate=at_rate, time_in_force="GTC",
        )  # fmt: skip
        return EntryWord(stake, price, borrowed.leverage, borrowed.plan) if is_meant else None

    def _borrowed(self, wish: EntryWish, common: dict[str, Any]) -> EntryWord:
        """The leverage that it asks for, and what its plan is then: theirs is of the margin, ours of the price."""
        if not hasattr(self._own, "leverage"):
            return EntryWord()
        most = float(wish.max_leverage)
        asked = self._called(
            "leverage", 1.0, **common, current_rate=float(wish.price), proposed_leverage=1.0, max_leverage=most
        )
        leverage = _decimal("leverage", min(max(asked, 1.0), most))
        return EntryWord(leverage=leverage, plan=plan_levered(self._rules.plan, leverage))

    def _stake(self, wish: EntryWish, common: dict[str, Any], borrowed: EntryWord) -> Decimal | None:
        """What the position is to be worth: its margin times what is borrowed on it. None as it is, 0 for no entry."""
        times, stake = borrowed.leverage, wish.stake
        if hasattr(self._own, "custom_stake_amount"):
            least, most = float(wish.least), float(wish.most)
            asked = self._called(
                "custom_stake_amount", None, **common, current_rate=float(wish.price), proposed_stake=float(stake),
                min_stake=least, max_stake=most, leverage=float(times or 1),
            )  # fmt: skip
            stake = _decimal("custom_stake_amount", min(max(asked, least), most)) if asked else Decimal(0)
        elif times is None:
            return None
        return stake * (times or 1)

    def _trade(self, position: PositionView, pair: str) -> Trade:
        return Trade(position, pair, self._times(position))

    def _times(self, position: PositionView) -> float:
        """The leverage of a strategy that asked for one; where a session has one its figures are of the price."""
        return float(position.leverage) if hasattr(self._own, "leverage") else 1.0

    def while_held(self, position: PositionView) -> Advice:
        pair = self._show(position.index, position.at)
        rate, trade = float(position.price), self._trade(position, pair)
        gain = trade.calc_profit_ratio(rate)
        common = {
            "pair": pair, "trade": trade, "current_time": position.at, "current_rate": rate, "current_profit": gain,
        }  # fmt: skip
        stop, target = self._stop(position, common), self._target(position, common)
        if position.is_new:
            return Advice(stop, target)
        return Advice(stop, target, self._leaves(position, common, gain), self._adds(position, common))

    def on_exit(self, position: PositionView, wish: ExitWish) -> ExitWord | None:
        pair, rate = self._show(position.index, position.at), float(wish.price)
        reason = (wish.reason == "EXIT_SIGNAL" and wish.tag) or EXIT_REASONS.get(wish.reason, "force_exit")
        trade = self._trade(position, pair)
        common = {"pair": pair, "trade": trade, "current_time": position.at}
        price = None
        if wish.reason == "EXIT_SIGNAL":
            own_price = self._called(
                "custom_exit_price", None, **common, proposed_rate=rate, exit_tag=wish.tag or None,
                current_profit=trade.calc_profit_ratio(rate),
            )  # fmt: skip
            price = self._near("custom_exit_price", own_price, rate)
        is_meant = self._called(
            "confirm_trade_exit", True, **common, order_type="market" if price is None else "limit",
            amount=float(wish.quantity), rate=float(price or rate), time_in_force="GTC", exit_reason=reason,
            sell_reason=reason,
        )  # fmt: skip
        return ExitWord(price) if is_meant else None

    def _stop(self, position: PositionView, common: dict[str, Any]) -> Decimal | None:
        stops, times = [], self._times(position)
        if getattr(self._own, "use_custom_stoploss", False) and (not position.is_new or self._is_told_of_fills):
            said = self._called("custom_stoploss", None, **common, after_fill=position.is_new)
            if said is not None:
                stops.append(_stop_of("custom_stoploss", float(position.price), said, times, position.side))
        if (trailing := self._rules.trailing) is not None:
            first, later, offset = trailing
            best, entry = float(position.best_price), float(position.entry_price)
            is_far = (best / entry - 1) * position.side.sign * times >= offset
            stops.append(_stop_of("trailing_stop", best, later if is_far else first, times, position.side))
        known = [one for one in stops if one is not None]
        return max(known, key=lambda one: one * position.side.sign, default=None)

    def _target(self, position: PositionView, common: dict[str, Any]) -> Decimal | None:
        gain = self._called(
            "custom_roi", None, **common, trade_duration=minutes_of(position.held), entry_tag=position.tag or None,
            side=position.side.value.lower(),
        )  # fmt: skip
        if gain is None:
            return None
        part = _decimal("custom_roi", gain / self._times(position))
        return position.entry_price * (1 + position.side.sign * part)

    def _leaves(self, position: PositionView, common: dict[str, Any], gain: float) -> str:
        rules = self._rules
        if not rules.is_exit_signal_used or (rules.is_exit_profit_only and gain <= rules.exit_profit_offset):
            return ""
        if rules.exits[position.side][position.index]:
            tag = "" if rules.exit_tags is None else rules.exit_tags[position.index]
            return tag or "exit_signal"
        said = self._called("custom_exit", None, **common)
        return "custom_exit" if said is True else str(said or "")[:LONGEST_TAG]

    def _adds(self, position: PositionView, common: dict[str, Any]) -> Decimal | None:
        most = getattr(self._own, "max_entry_position_adjustment", -1)
        entries = sum(one.is_entry for one in position.orders)
        if not getattr(self._own, "position_adjustment_enable", False) or 0 <= most < entries:
            return None
        rate, gain = common["current_rate"], common["current_profit"]
        said = self._called(
            "adjust_trade_position", None, **common, min_stake=float(position.least), max_stake=float(position.most),
            current_entry_rate=rate, current_exit_rate=rate, current_entry_profit=gain, current_exit_profit=gain,
        )  # fmt: skip
        stake = said[0] if isinstance(said, tuple) else said
        if not stake:
            return None
        if stake < 0:
            raise CallbackFailed(
                f"adjust_trade_position: wanted more to put in, was {stake}: parts are not taken out here"
            )
        return None if stake > float(position.most) else _decimal("adjust_trade_position", stake)

    def _near(self, name: str, price: Any, rate: float) -> Decimal | None:
        if price is None or not isinstance(price, int | float) or not math.isfinite(price) or price <= 0:
            return None  # the proposed price stands
        return _decimal(name, min(max(price, rate * (1 - FARTHEST)), rate * (1 + FARTHEST)))

    def _called(self, name: str, otherwise: Any, **values: Any) -> Any:
        """What a callback says, if the strategy has it; with those of ``values`` that it takes."""
        callback = getattr(self._own, name, None) or getattr(self._own, OLDER.get(name, name), None)
        if callback is None:
            return otherwise
        if (takes := self._takes.get(name)) is None:
            takes = self._takes[name] = _parameters(callback)
        try:
            return callback(**{key: value for key, value in values.items() if "**" in takes or key in takes})
        except Unsupported as error:
            raise CallbackFailed(f"{name}: {error}") from error
        except Exception as error:
            within = Path(inspect.getsourcefile(type(self._own)) or "")
            raise CallbackFailed(f"{name} raises {type(error).__name__}: {error}{where(error, within)}") from error


def _parameters(callback: Any) -> frozenset[str]:
    """The names that a callback takes; ``**`` among them where it takes any."""
    if callback is None:
        return frozenset()
    found = inspect.signature(callback).parameters.values()
    return frozenset("**" if one.kind is inspect.Parameter.VAR_KEYWORD else one.name for one in found)


def _stop_of(name: str, rate: float, distance: Any, times: float, side: PositionSide) -> Decimal | None:
    """So far against the position from ``rate``, whatever the sign, of a margin that moves so many ``times`` the price; None
    for nothing, or for all there is."""
    part = abs(float(distance)) / times
    if not math.isfinite(part):
        raise CallbackFailed(f"{name}: wanted a distance as a part of the price, was {distance}")
    stop = rate * (1 - side.sign * part)
    return None if part == 0 or stop <= 0 else to_decimal(stop)


def _decimal(name: str, value: Any) -> Decimal:
    try:
        return to_decimal(float(value))
    except (TypeError, ValueError) as error:
        raise CallbackFailed(f"{name}: wanted a number, was {value!r:.60}") from error
