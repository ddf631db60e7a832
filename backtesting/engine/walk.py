"""Any number of markets with one account, from event to event: between two of them nothing can happen that changes a
decision, so nothing is asked. What happens at one is decided by ``domain/``, on exact decimals.

Steps are places on the clock of all markets' candles; at one step all exits at the open come first, then entries, then what
happens inside the candles. What is found quickly by floats is only where to look: whether a price was met is asked again.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import numpy as np

from backtesting.engine.account import Account, Held, Leaving, since
from backtesting.engine.advised import HIGHEST_LEVERAGE, Conversation
from backtesting.engine.inputs import ENTER, HUNDRED, LEAVE, MarketInput, Refused, Result, Settings, Trade, at
from backtesting.engine.track import Bar, Entry, Track, first_at
from domain.advice import AS_IT_IS
from domain.candles import IntArray
from domain.exit_plan import ExitPlan
from domain.exits import (
    NO_LEVELS,
    EntryFacts,
    ExitDue,
    ExitLevels,
    ExitReason,
    Progress,
    best_price_kept,
    exit_due,
    is_time_up,
    levels_in_force,
    part_to_sell,
)
from domain.limits import Book, Candidate, Holding, Limits, denied_by, rooms_of, weigh
from domain.market import ONE, ZERO, PositionSide, round_price, to_decimal
from domain.matching import exit_in_candle, limit_fill_price, market_fill_price
from domain.orders import Denial
from domain.sizing import Room, Sizing, SizingMethod, notional_wanted, size, stop_percent
from domain.strategy import SignalKind

# An exit inside a candle comes after its open, by however little: what is counted from there has not passed at the open
# that is so much later.
WITHIN = timedelta(milliseconds=1)
# So much of a market's record counts for its Kelly fraction.
RECORD_LENGTH = 1000
# Events between two ticks: some milliseconds.
TICK_EVENTS = 64

KINDS = {
    ENTER: SignalKind.ENTER_LONG,
    -ENTER: SignalKind.ENTER_SHORT,
    LEAVE: SignalKind.EXIT_LONG,
    -LEAVE: SignalKind.EXIT_SHORT,
}


class Walk:
    """One run. ``tick`` is called now and then with the part of the clock that is behind it; what it raises ends the run."""

    def __init__(
        self, markets: Sequence[MarketInput], settings: Settings, tick: Callable[[float], None] | None = None
    ) -> None:
        times = [market.candles.open_ms for market in markets]
        self._clock: IntArray = np.unique(np.concatenate(times)) if times else np.empty(0, np.int64)
        self._settings, self._tick = settings, tick
        self._tracks = [Track(number, market, self._clock, settings) for number, market in enumerate(markets)]
        self._account = Account(settings.cash, self._clock, self._tracks)
        self._adviser = Conversation(settings, self._account)
        self._trades: list[Trade] = []
        self._refused: list[Refused] = []

    def result(self) -> Result:
        """Walk, once."""
        for count, due in enumerate(self._events()):
            if self._tick is not None and count % TICK_EVENTS == 0:
                self._tick(int(due[0].steps[due[0].index]) / len(self._clock))
            for track in due:
                self._fund(track)
                self._leave_at_open(track, track.bars()[0], track.said)
            for track in due:
                self._enter(track)
            for track in due:
                self._inside(track)
                _follow(track)
                self._adviser.at_close(track)
        self._end()
        firsts = [int(track.steps[track.first]) for track in self._tracks if track.first < len(track)]
        first = min(firsts, default=len(self._clock))
        return Result(tuple(self._trades), self._clock[first:], self._account.curve[first:], tuple(self._refused))

    def _events(self) -> Iterator[list[Track]]:
        """The markets that are due together, step after step."""
        queue: list[tuple[int, int]] = []

        def put(track: Track, index: int) -> None:
            track.index, track.used = index, ZERO
            if index < len(track):
                heapq.heappush(queue, (int(track.steps[index]), track.number))

        for track in self._tracks:
            track.index = track.first - 1
            put(track, first_at(track.asking, max(track.index, 0), len(track)))
        while queue:
            step, due = queue[0][0], []
            while queue and queue[0][0] == step:
                due.append(self._tracks[heapq.heappop(queue)[1]])
            self._account.draw(step)
            yield due
            for track in due:
                last = track.bars()[-1].ms if track.held is not None else None
                levels = None if track.held is None else self._levels(track, track.held, last or track.ms)
                put(track, track.next_index(levels, last))

    def _levels(self, track: Track, held: Held, ms: int) -> ExitLevels:
        held_for = since(held.opened_ms, ms)
        progress = Progress(held.best, held.targets_done, held_for, held.advised_stop, held.advised_target)
        # Where the strategy keeps a position only the venue may still take it.
        is_kept = held.kept_in == track.index
        levels = NO_LEVELS if is_kept else levels_in_force(track.plan, held.facts, progress)
        liquidated = held.facts.liquidation_price
        if liquidated is not None and liquidated > 0:
            is_first = levels.stop is None or (liquidated - levels.stop) * held.side.sign > 0
            levels = replace(levels, stop=liquidated, stop_reason=ExitReason.LIQUIDATED) if is_first else levels
        held.stop = levels.stop
        if levels.target is None:
            return levels
        target = round_price(levels.target, track.rules, held.side.exit_side)
        return replace(levels, target=target if target > 0 else None)

    def _leave_at_open(self, track: Track, bar: Bar, said: int) -> None:
        """What is due when a candle opens: levels that it opens past, time, a signal; and what was begun before."""
        while (held := track.held) is not None:
            due = self._due_at_open(track, held, bar, said)
            if due is None:
                return
            is_target = due.reason in (ExitReason.TAKE_PROFIT, ExitReason.ROI) and held.leaving is None
            if not self._leave(track, held, due, bar.open, bar.ms, is_target=is_target):
                return

    def _due_at_open(self, track: Track, held: Held, bar: Bar, said: int) -> ExitDue | None:
        begun = None if held.leaving is None else ExitDue(held.leaving.reason, held.leaving.step)
        if begun is not None and begun.step == 0:
            return begun
        is_kept, is_advised = held.kept_in == track.index, bool(held.leave_tag) and bar.ms == track.ms
        due = exit_due(
            held.side, self._levels(track, held, bar.ms), bar.open,
            KINDS[held.side.sign * LEAVE] if is_advised else KINDS.get(said),
            is_time_up=not is_kept and is_time_up(track.plan, since(held.opened_ms, bar.ms)),
            is_signal_used=is_advised or track.plan.is_exit_signal_used,
        )  # fmt: skip
        return begun if begun is not None and (due is None or due.step > 0) else due

    def _inside(self, track: Track) -> None:
        for number, bar in enumerate(track.bars() if track.held is not None else ()):
            if track.held is not None and track.index == track.held.entry_index and number <= track.held.entry_bar:
                if number < track.held.entry_bar:
                    continue  # it was not there yet
            elif number:
                self._leave_at_open(track, bar, 0)
            while (held := track.held) is not None and not (held.leaving is not None and held.leaving.step == 0):
                levels = self._levels_within(track, held, bar, number)
                found = exit_in_candle(held.side, levels.stop, levels.target, bar.open, bar.high, bar.low)
                if found is None:
                    break
                is_target = found[0] is ExitReason.TAKE_PROFIT
                due = ExitDue(levels.target_reason, levels.target_step) if is_target else ExitDue(levels.stop_reason)
                if not self._leave(track, held, due, found[1], bar.ms, is_target=is_target, is_inside=True):
                    break

    def _levels_within(self, track: Track, held: Held, bar: Bar, number: int) -> ExitLevels:
        """The levels that count inside a candle: no target where the entry filled within it, for its best may lie before; the
        price at which the strategy offers what it leaves, if that is nearer."""
        levels = self._levels(track, held, bar.ms)
        is_entry = track.index == held.entry_index and number == held.entry_bar
        if held.leaving is not None or (is_entry and held.is_entered_within):
            return replace(levels, target=None)
        offer = held.offer if held.offered_in == track.index else None
        if offer is None or (levels.target is not None and (offer - levels.target) * held.side.sign >= 0):
            return levels
        return replace(levels, target=offer, target_reason=ExitReason.EXIT_SIGNAL, target_step=0)

    def _leave(
        self,
        track: Track,
        held: Held,
        due: ExitDue,
        price: Decimal,
        ms: int,
        *,
        is_target: bool,
        is_inside: bool = False,
    ) -> bool:
        """Leave what is due at ``price``, if the strategy lets it, as far as the volume lets; whether there may be more to do
        now."""
        is_offered = held.offered_in == track.index and due.reason is ExitReason.EXIT_SIGNAL
        if held.leaving is None and not is_offered:
            word = self._adviser.on_exit(track, due, price, ms)
            if word is None:
                held.kept_in = track.index
                return False
            if due.reason is ExitReason.EXIT_SIGNAL and word.price is not None:
                offer = round_price(word.price, track.rules, held.side.exit_side)
                if (price - offer) * held.side.sign < 0:
                    held.offered_in, held.offer = track.index, offer
                    return False
        return self._take(track, held, due, price, ms, is_target=is_target, is_inside=is_inside)

    def _take(
        self,
        track: Track,
        held: Held,
        due: ExitDue,
        price: Decimal,
        ms: int,
        *,
        is_target: bool,
        is_inside: bool = False,
    ) -> bool:
        """As ``_leave``, with nobody to ask."""
        track.entry = None
        if due.reason is ExitReason.EXIT_SIGNAL:
            held.exit_tag = held.leave_tag
        side, state = held.side.exit_side, held.state
        is_resting = is_target and self._settings.rests_targets
        if not is_resting:
            price = round_price(market_fill_price(side, price, self._settings.worse), track.rules, side.opposite)
        wanted = state.quantity
        if held.leaving is not None and held.leaving.step == due.step:
            wanted = held.leaving.quantity
        elif due.step:
            wanted = part_to_sell(track.plan, due.step, state.entered, state.exited, state.quantity, track.rules, price)
        held.leaving = None
        quantity = track.fillable(wanted)
        if quantity < wanted:
            held.leaving = Leaving(due.reason, due.step, wanted - quantity)
        elif due.step:
            held.targets_done = due.step
        if quantity > 0:
            rate = self._settings.maker_fee if is_resting else self._settings.taker_fee
            track.used += quantity
            self._account.wallet += held.fill(side, quantity, price, rate, at(ms))
            if held.state.is_closed:
                self._close(track, held, due.reason, after=WITHIN if is_inside else timedelta(0))
        return held.leaving is None

    def _close(self, track: Track, held: Held, reason: ExitReason | None, after: timedelta = timedelta(0)) -> None:
        state, closed_at = held.state, held.fills[-1].filled_at
        if closed_at is None:
            raise RuntimeError("wanted the time of a fill, was none")
        track.held = None
        put_in = track.rules.notional(state.entered, state.entry_price)
        self._trades.append(
            Trade(
                symbol=track.market.symbol, side=held.side, entry_at=at(held.opened_ms),
                entry_price=float(state.entry_price), exit_at=closed_at, exit_price=float(state.exit_price),
                quantity=float(state.entered), pnl=float(state.realized_pnl), gain=float(state.realized_pnl / put_in),
                fees=float(state.fees), funding=float(state.funding), exit_reason=reason, tag=held.tag,
                exit_tag=held.exit_tag,
            )
        )  # fmt: skip
        self._account.closed.insert(0, (state.realized_pnl, closed_at + after))
        track.closed.insert(0, (state.realized_pnl, closed_at + after))
        track.record.insert(0, float(state.realized_pnl / put_in))

    def _enter(self, track: Track) -> None:
        """Go on with an entry at work, or begin what was asked for."""
        held, said = track.held, track.said
        if (entry := track.entry) is not None and said in (entry.side.sign * LEAVE, -entry.side.sign * ENTER):
            track.entry = None
        self._ask_again(track)
        adding, held_side = (None, None) if held is None else (held.adding, held.side)
        if held is not None:
            held.adding = None
        if track.entry is None and abs(said) == ENTER:
            side = PositionSide.LONG if said > 0 else PositionSide.SHORT
            is_adding = held is not None and held.side is side and held.leaving is None
            if held is None or (is_adding and held.entries < self._settings.max_entries):
                self._begin(track, side)
        elif track.entry is None and adding is not None and held_side is not None:
            self._begin(track, held_side, adding)
        if track.entry is not None:
            self._fill_entry(track, track.entry)

    def _ask_again(self, track: Track) -> None:
        """Move an entry that waited at a price of the strategy's to where it wants it now, or give it up."""
        entry = track.entry
        if entry is None or entry.price is None:
            return
        word = self._adviser.on_entry(track, entry.side, entry.left, self._equity(track), entry)
        if word is None or word.price is None:
            track.entry = None
        else:
            entry.price = round_price(word.price, track.rules, entry.side.entry_side)

    def _begin(self, track: Track, side: PositionSide, stake: Decimal | None = None) -> None:
        """Begin an entry, of the settings' size or for ``stake``, as the strategy wants it."""
        held, word = track.held, AS_IT_IS
        leverage = self._settings.leverage if held is None else held.leverage
        sized = self._sized(track, side, leverage, stake)
        if not isinstance(sized, Denial):
            said = self._adviser.on_entry(track, side, sized, self._equity(track))
            if said is None:
                return
            word = said
            if word.leverage is not None and held is None:
                highest = HIGHEST_LEVERAGE if track.market.can_short else ONE
                leverage = max(min(word.leverage, highest), ONE)
            if word != replace(AS_IT_IS, price=word.price):
                sized = self._sized(track, side, leverage, stake if word.stake is None else word.stake, word.plan)
        if isinstance(sized, Denial):
            self._refused.append(Refused(track.market.symbol, at(track.ms), side, sized))
            return
        price = None if word.price is None else round_price(word.price, track.rules, side.entry_side)
        track.entry = Entry(side, sized, track.index - 1, price, leverage, word.plan)
        self._account.entered(track.ms)
        if track.held is not None:
            track.held.entries += 1

    def _fill_entry(self, track: Track, entry: Entry) -> None:
        quantity, met = track.fillable(entry.left), self._met(track, entry)
        if quantity <= 0 or met is None:
            return
        number, price, is_within = met
        bar, side = track.bars()[number], entry.side.entry_side
        entry.left -= quantity
        if entry.left <= 0:
            track.entry = None
        track.used += quantity
        held = track.held
        if held is None:
            spoken, said = entry.spoken_in, track.signals
            facts = EntryFacts(
                entry.side, price, atr=track.volatility(spoken),
                signal_stop=track.named(said.stops, spoken), signal_target=track.named(said.targets, spoken),
            )  # fmt: skip
            held = track.held = Held(
                entry.side, track.rules, bar.ms, facts, track.tag(spoken), entered_in=track.index,
                entry_index=track.index, entry_bar=number, is_entered_within=is_within,
                leverage=entry.leverage, plan=entry.plan,
            )  # fmt: skip
        rate = self._settings.maker_fee if is_within else self._settings.taker_fee
        self._account.wallet += held.fill(side, quantity, price, rate, at(bar.ms))
        facts = replace(
            held.facts, entry_price=held.state.entry_price,
            liquidation_price=_liquidation(held, held.state.entry_price),
        )  # fmt: skip
        if held.best is not None:
            held.best = best_price_kept(track.plan, held.facts, facts, held.best)
            held.entered_in = track.index if held.best is None else held.entered_in
        held.facts = facts
        self._levels(track, held, bar.ms)  # its stop bounds what it risks, also for whoever enters at the same open
        self._adviser.after_fill(track, bar.ms, price)

    def _met(self, track: Track, entry: Entry) -> tuple[int, Decimal, bool] | None:
        """In which of the candles inside this one an entry fills, at which price, and whether that is after its open."""
        side, bars = entry.side.entry_side, track.bars()
        if entry.price is None:
            price = market_fill_price(side, bars[0].open, self._settings.worse)
            return 0, round_price(price, track.rules, side.opposite), False
        for number, bar in enumerate(bars):
            met = limit_fill_price(side, entry.price, bar.open, bar.low, bar.high)
            if met is not None:
                return number, round_price(met, track.rules, side), met == entry.price != bar.open
        return None

    def _sized(
        self,
        track: Track,
        side: PositionSide,
        leverage: Decimal,
        stake: Decimal | None = None,
        plan: ExitPlan | None = None,
    ) -> Decimal | Denial:
        """How much an entry may be, as the money manager would say: the wish, or ``stake``, cut to every limit, in whole
        lots."""
        settings, spoken = self._settings, track.index - 1
        if side is PositionSide.SHORT and not track.market.can_short:
            return Denial.SIDE_NOT_TRADABLE
        price = track.bars()[0].open * (1 + side.sign * settings.spread / 2)
        volatility = track.volatility(spoken)
        stop = stop_percent(
            plan or track.plan,
            price=price,
            side=side,
            atr=volatility,
            signal_stop=track.named(track.signals.stops, spoken),
        )
        sizing = Sizing(
            method=settings.sizing if stake is None else SizingMethod.FIXED_QUOTE,
            amount=settings.amount if stake is None else stake,
            price=price,
            equity=self._equity(track),
            free_balance=self._account.free,
            stop_loss_percent=stop,
            price_margin=settings.margin,
            leverage=leverage,
            atr=volatility,
            confidence=(
                track.named(track.signals.confidence, spoken)
                if settings.is_confidence_weighted and stake is None
                else None
            ),
            record=track.record[:RECORD_LENGTH] if settings.sizing is SizingMethod.KELLY else (),
            kelly_min_trades=settings.kelly_min_trades,
            kelly_cap_percent=settings.kelly_cap_percent,
        )
        rooms = self._rooms(track, side, sizing)
        if isinstance(rooms, Denial):
            return rooms
        sized = size(sizing, track.rules, rooms)
        return sized.denial or sized.quantity

    def _equity(self, track: Track) -> Decimal:
        step = int(track.steps[track.index])
        held = ((one, one.held) for one in self._tracks if one.held is not None)
        return self._account.wallet + sum((mine.worth(one.price(step)) for one, mine in held), ZERO)

    def _rooms(self, track: Track, side: PositionSide, sizing: Sizing) -> list[Room] | Denial:
        """What the limits let through, or which of them lets nothing."""
        if self._settings.limits == Limits():
            return []
        step, wanted = int(track.steps[track.index]), notional_wanted(sizing, track.rules)
        wish = ZERO if isinstance(wanted, Denial) else max(min(wanted, sizing.affordable), ZERO)
        holdings = tuple(
            _holding(one, one.held, one.price(step), sizing.price_margin)
            for one in self._tracks
            if one.held is not None
        )
        at_stop = ONE if sizing.stop_loss_percent is None else sizing.stop_loss_percent / HUNDRED
        candidate = Candidate(
            market=track.market.symbol, base=track.rules.base, side=side,
            risk_fraction=max(at_stop, sizing.price_margin), position_id=track.number if track.held else None,
            margin=sizing.price_margin, leverage=sizing.leverage, last_price=sizing.price,
        )  # fmt: skip
        past = self._account.past(track.ms, track.closed)
        book = Book(sizing.equity, holdings)
        checks = weigh(self._settings.limits, book, past, candidate, wish, None, at(track.ms))
        return denied_by(checks) or rooms_of(checks)

    def _fund(self, track: Track) -> None:
        """What was paid or received between the last event and the open of this candle."""
        funding, held = track.market.funding, track.held
        if funding is None or held is None:
            return
        first, last = np.searchsorted(funding.at_ms, (held.funded_ms, track.ms), side="right")
        held.funded_ms = track.ms
        rate = sum((to_decimal(float(one)) for one in funding.rate[first:last]), ZERO)
        amount = -held.side.sign * rate * track.rules.notional(held.state.quantity, track.bars()[0].open)
        held.funding += amount
        self._account.wallet += amount

    def _end(self) -> None:
        """Value what is still held at the last close, or close it there."""
        self._account.draw(len(self._clock) - 1 if self._settings.is_closed_at_end else len(self._clock))
        for track in self._tracks:
            held = track.held
            if held is None:
                continue
            candles, side = track.market.candles, held.side.exit_side
            track.index = len(track) - 1
            price, rate, reason = to_decimal(float(candles.close[-1])), ZERO, None
            if self._settings.is_closed_at_end:
                price = round_price(market_fill_price(side, price, self._settings.worse), track.rules, side.opposite)
                rate, reason = self._settings.taker_fee, ExitReason.SESSION_STOP
            self._account.wallet += held.fill(side, held.state.quantity, price, rate, at(track.ms))
            self._close(track, held, reason)
        self._account.draw(len(self._clock))


def _liquidation(held: Held, price: Decimal) -> Decimal | None:
    """Where the margin of a position of its own is gone; venues take it a little earlier."""
    return None if held.leverage <= 1 else price * (1 - held.side.sign / held.leverage)


def _follow(track: Track) -> None:
    """The candle has closed: its extreme counts, unless it saw the entry."""
    held = track.held
    if held is None or track.index <= held.entered_in:
        return
    if not track.plan.is_following and track.watcher is None:
        return
    candles, sign = track.market.candles, held.side.sign
    extreme = to_decimal(float((candles.high if sign > 0 else candles.low)[track.index]))
    if held.best is None or (extreme - held.best) * sign > 0:
        held.best = extreme


def _holding(track: Track, held: Held, price: Decimal, margin: Decimal) -> Holding:
    left = track.entry.left if track.entry is not None else ZERO
    notional = track.rules.notional(held.state.quantity + left * (1 + margin), price)
    stop = held.stop
    risk = notional if stop is None else notional * min(max((price - stop) * held.side.sign / price, margin), ONE)
    return Holding(track.number, track.market.symbol, track.rules.base, notional * held.side.sign, risk)
