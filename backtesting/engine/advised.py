"""What a strategy's adviser is asked along a run, and what is kept of its answers.

It is shown no candle that has not closed, and told prices as they are at that moment. Where nobody has a word nothing is
asked.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from backtesting.engine.account import Account, Held
from backtesting.engine.inputs import Settings, at
from backtesting.engine.track import Entry, Track
from domain.advice import (
    AS_DUE,
    AS_IT_IS,
    Advice,
    Entered,
    EntryWish,
    EntryWord,
    ExitWish,
    ExitWord,
    PositionView,
)
from domain.exits import ExitDue, ExitReason
from domain.market import ONE, PositionSide, to_decimal

# What a strategy may ask for where there is margin: a session's highest.
HIGHEST_LEVERAGE = Decimal(125)
# Nobody is asked about these: the venue liquidates.
UNASKED = (ExitReason.LIQUIDATED, ExitReason.LIQUIDATION_GUARD)


class Conversation:
    """With the advisers of one run's markets."""

    def __init__(self, settings: Settings, account: Account) -> None:
        self._settings, self._account = settings, account

    def on_entry(
        self, track: Track, side: PositionSide, quantity: Decimal, equity: Decimal, waiting: Entry | None = None
    ) -> EntryWord | None:
        """How to make an entry of ``quantity`` at this open; ``waiting`` is one that did not fill."""
        if track.adviser is None:
            return AS_IT_IS
        price = track.bars()[0].open
        wish = EntryWish(
            symbol=track.market.symbol, index=track.index - 1, at=at(track.ms), side=side, price=price,
            stake=track.rules.notional(quantity, price), least=_least(track, price), most=self._most, equity=equity,
            tag=track.tag(waiting.spoken_in if waiting is not None else track.index - 1),
            max_leverage=HIGHEST_LEVERAGE if track.market.can_short else ONE,
            is_again=waiting is not None, is_adding=track.held is not None,
        )  # fmt: skip
        return track.adviser.on_entry(wish)

    def after_fill(self, track: Track, ms: int, price: Decimal) -> None:
        """Let the adviser set levels for what has just been entered."""
        if (watcher := track.watcher) is not None and (held := track.held) is not None:
            view = self._view(track, held, track.index - 1, at(ms), price, is_new=True)
            _heed_levels(held, watcher.while_held(view))

    def at_close(self, track: Track) -> None:
        """Ask about the position that is held when the candle has closed."""
        held, watcher = track.held, track.watcher
        if held is None or watcher is None or (held.leaving is not None and held.leaving.step == 0):
            return
        close = to_decimal(float(track.market.candles.close[track.index]))
        closed_at = at(track.ms + track.market.timeframe.seconds * 1000)
        advice = watcher.while_held(self._view(track, held, track.index, closed_at, close))
        _heed_levels(held, advice)
        held.leave_tag, held.adding = advice.leave, advice.add

    def on_exit(self, track: Track, due: ExitDue, price: Decimal, ms: int) -> ExitWord | None:
        """How to make the exit that is due."""
        held = track.held
        if track.adviser is None or held is None or due.reason in UNASKED:
            return AS_DUE
        tag = held.leave_tag if due.reason is ExitReason.EXIT_SIGNAL else ""
        wish = ExitWish(due.reason, price, held.state.quantity, tag)
        return track.adviser.on_exit(self._view(track, held, track.index - 1, at(ms), price), wish)

    @property
    def _most(self) -> Decimal:
        return self._account.free / (ONE / self._settings.leverage + self._settings.margin)

    def _view(
        self, track: Track, held: Held, index: int, now: datetime, price: Decimal, *, is_new: bool = False
    ) -> PositionView:
        entry = held.state.entry_price
        best = entry if held.best is None or (held.best - entry) * held.side.sign < 0 else held.best
        orders = [
            Entered(one.filled_at, one.price, one.quantity, one.side is held.side.entry_side)
            for one in held.fills
            if one.filled_at is not None
        ]
        return PositionView(
            symbol=track.market.symbol, side=held.side, index=index, at=now, opened_at=at(held.opened_ms), price=price,
            entry_price=entry, quantity=held.state.quantity, best_price=best, stop=held.stop,
            leverage=held.leverage,
            fee=self._settings.taker_fee, least=_least(track, price), most=self._most, tag=held.tag, orders=orders,
            is_new=is_new, memory=held.memory,
        )  # fmt: skip


def _heed_levels(held: Held, advice: Advice) -> None:
    if advice.stop is not None and (
        held.advised_stop is None or (advice.stop - held.advised_stop) * held.side.sign > 0
    ):
        held.advised_stop = advice.stop
    if advice.target is not None:
        held.advised_target = advice.target


def _least(track: Track, price: Decimal) -> Decimal:
    return max(track.rules.min_notional, track.rules.notional(track.rules.min_quantity, price))
