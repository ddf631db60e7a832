"""The listed symbols and what anybody may read about them: rules, tickers, depth, candles, public trades.

All of it is read off each symbol's timeline at the market time asked for. Answers have KuCoin's names, order and units:
numbers as text, candles newest first in seconds as open-close-high-low, the open candle included.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, Decimal
from itertools import islice
from typing import Any

import numpy as np

from domain.market import ZERO, Side
from domain.matching import market_fill_price
from simulator.contracts import Contract, contract_symbol, default_contract
from simulator.prices import (
    DAY_MINUTES,
    MINUTE_MS,
    First,
    IntArray,
    Minutes,
    Pinned,
    Source,
    Timeline,
    Walk,
    to_ticks,
)
from simulator.replays import CandleRow, Replay
from simulator.rules import Rules, currency_wire, default_rules, dollars, text

MAX_CANDLES = 1_500
DEPTH_LEVELS = 100
DEPTH_FIRST_LEVEL = Decimal(
    50_000
)  # what the best price offers, in quote units of about a dollar; level n offers n times

TIMEFRAMES = {
    "1min": 1,
    "3min": 3,
    "5min": 5,
    "15min": 15,
    "30min": 30,
    "1hour": 60,
    "2hour": 120,
    "4hour": 240,
    "6hour": 360,
    "8hour": 480,
    "12hour": 720,
    "1day": 1440,
    "1week": 10080,
    "1month": 43200,  # calendar months; the figure only bounds how far back a query reads
}
_MONDAY = 4 * DAY_MINUTES  # 1970-01-05, the first Monday since the epoch: weeks begin there

_TRADE_SPACING_MS = 2_000
_TRADES = 100


@dataclass(frozen=True, slots=True, eq=False)
class Switch:
    """Prices taken over by hand from ``at_ms`` on: held at ``price``, replayed from ``rows``, or (neither) let go. ``first``
    is the extreme that comes first inside the candles of ``rows``."""

    symbol: str
    at_ms: int
    price: Decimal | None = None
    rows: tuple[CandleRow, ...] = ()
    first: First | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """Candles shown otherwise than they were traded, from market time ``from_ms`` until ``until_ms``: these ``rows``, or
    (none) a gap over the minutes from ``start`` up to ``stop``. Orders and tickers know nothing of it."""

    symbol: str
    start: int
    stop: int
    from_ms: int
    until_ms: int
    rows: tuple[CandleRow, ...] = ()


class Listing:
    """One symbol: its rules, its timeline, and what they make of a moment."""

    def __init__(self, rules: Rules, timeline: Timeline, slippage: Decimal) -> None:
        self.rules = rules
        self.timeline = timeline
        self.slippage = slippage
        self.is_delisted = False
        self.published: dict[str, Any] | None = None  # the depth as the stream last told it, while it tells it
        self.edits: list[Edit] = []
        self._day: tuple[int, int, Minutes] | None = None  # (minute, the timeline's version, what was read then)
        self.depth_quote = DEPTH_FIRST_LEVEL / dollars(rules.quote)
        self.switches: list[Switch] = []
        self._before_pin: Source | None = None

    def change_rules(self, rules: Rules) -> None:
        if rules.price_increment != self.rules.price_increment:
            self.timeline.retick(rules.price_increment)
            if self._before_pin is not None:
                self._before_pin = self._before_pin.with_tick(rules.price_increment)
        self.rules = rules

    def switch(self, switch: Switch) -> None:
        """Take over the prices; letting go returns to the source before the first pin."""
        if switch.rows:
            source: Source = Replay(switch.rows, self.rules.price_increment, switch.first)
            self._before_pin = None
        elif switch.price is not None:
            source = Pinned(switch.price, self.rules.price_increment)
            if self._before_pin is None:
                self._before_pin = self.timeline.source_at(switch.at_ms)
        elif self._before_pin is not None:
            source, self._before_pin = self._before_pin, None
        else:
            return
        self.timeline.switch(switch.at_ms, source)
        self.switches.append(switch)

    def price_at(self, at_ms: int) -> Decimal:
        return self.timeline.price_at(at_ms) * self.rules.price_increment

    def best(self, side: Side, price: Decimal) -> Decimal:
        """What a taker on ``side`` gets first when the price is ``price``: the ask for a buy, the bid for a sell."""
        return self._level_price(side, price, 1)

    def levels(self, side: Side, price: Decimal) -> Iterator[tuple[Decimal, Decimal]]:
        """(price, size) that a taker on ``side`` meets, best first; the last level is bottomless."""
        for number in range(1, DEPTH_LEVELS + 1):
            level = self._level_price(side, price, number)
            yield level, self._level_size(level, number)
        yield level, self.rules.base_max_size

    def _level_price(self, side: Side, price: Decimal, number: int) -> Decimal:
        tick = self.rules.price_increment
        exact = market_fill_price(side, price, self.slippage * number)
        rounding = ROUND_CEILING if side is Side.BUY else ROUND_FLOOR
        return max(tick, (exact / tick).to_integral_value(rounding=rounding) * tick)

    def _level_size(self, level: Decimal, number: int) -> Decimal:
        lot = self.rules.base_increment
        worth = level * self.rules.multiplier * lot
        return max(lot, (self.depth_quote * number / worth).to_integral_value(rounding=ROUND_DOWN) * lot)

    # -- what is published --------------------------------------------------------------------------------------

    def depth(self, now_ms: int, levels: int) -> dict[str, Any]:
        if self.published is not None:
            return {**self.published, **{side: self.published[side][:levels] for side in ("bids", "asks")}}
        price = self.price_at(now_ms)
        sides = {}
        for name, side in (("bids", Side.SELL), ("asks", Side.BUY)):
            merged: dict[Decimal, Decimal] = {}
            for level, size in islice(self.levels(side, price), levels):
                merged[level] = merged.get(level, ZERO) + size
            sides[name] = [[text(level), text(size)] for level, size in merged.items()]
        return {"time": now_ms, "sequence": str(now_ms), **sides}

    def level1(self, now_ms: int) -> dict[str, Any]:
        price = self.price_at(now_ms)
        ask, ask_size = next(self.levels(Side.BUY, price))
        bid, bid_size = next(self.levels(Side.SELL, price))
        return {
            "time": now_ms,
            "sequence": str(now_ms),
            "price": text(price),
            "size": text(self.rules.base_min_size),
            "bestBid": text(bid),
            "bestBidSize": text(bid_size),
            "bestAsk": text(ask),
            "bestAskSize": text(ask_size),
        }

    def stats(self, now_ms: int) -> dict[str, Any]:
        """The last 24 hours."""
        level1 = self.level1(now_ms)
        day = self._last_day(now_ms)
        open_candle = self.timeline.partial(now_ms)
        tick, rules = self.rules.price_increment, self.rules
        last = Decimal(level1["price"])
        first = (int(day.open[0]) if len(day) else int(open_candle.open[0])) * tick
        volume = float(day.volume.sum() + open_candle.volume[0])
        turnover = float((day.volume * day.close).sum() + open_candle.volume[0] * open_candle.close[0]) * float(tick)
        return {
            "time": now_ms,
            "symbol": rules.symbol,
            "buy": level1["bestBid"],
            "sell": level1["bestAsk"],
            "changeRate": text(((last - first) / first).quantize(Decimal("0.0001"))),
            "changePrice": text(last - first),
            "high": text(max(int(day.high.max(initial=0)), int(open_candle.high[0])) * tick),
            "low": text(min(int(day.low.min(initial=1 << 62)), int(open_candle.low[0])) * tick),
            "vol": _volume_text(volume),
            "volValue": _volume_text(turnover),
            "last": text(last),
            "averagePrice": text(last if not volume else Decimal(turnover / volume).quantize(tick)),
            "takerFeeRate": text(rules.taker_fee),
            "makerFeeRate": text(rules.maker_fee),
            "takerCoefficient": "1",
            "makerCoefficient": "1",
        }

    def ticker(self, now_ms: int) -> dict[str, Any]:
        """One row of allTickers."""
        level1 = self.level1(now_ms)
        row = self.stats(now_ms)
        del row["time"]
        return {
            **row,
            "symbolName": self.rules.symbol,
            "bestBidSize": level1["bestBidSize"],
            "bestAskSize": level1["bestAskSize"],
        }

    def trades(self, now_ms: int) -> list[dict[str, Any]]:
        """The latest public trades, oldest first: one every two seconds, on the path."""
        newest = now_ms // _TRADE_SPACING_MS
        trades = []
        previous = self.timeline.price_at((newest - _TRADES) * _TRADE_SPACING_MS)
        for number in range(newest - _TRADES + 1, newest + 1):
            ticks = self.timeline.price_at(number * _TRADE_SPACING_MS)
            trades.append(
                {
                    "sequence": str(number),
                    "price": text(ticks * self.rules.price_increment),
                    "size": text(self.rules.base_min_size * (1 + number % 50)),
                    "side": "buy" if ticks >= previous else "sell",
                    "time": number * _TRADE_SPACING_MS * 1_000_000,
                }
            )
            previous = ticks
        return trades

    def candles(self, timeframe: str, start_s: int | None, end_s: int | None, now_ms: int) -> list[list[str]]:
        """Candles whose open time lies in [start, end), newest first and at most 1,500, the open one included."""
        length = TIMEFRAMES[timeframe]
        now_minute = now_ms // MINUTE_MS
        stop = now_minute + 1 if end_s is None else min(now_minute + 1, -(-end_s // 60))
        start = max(self.timeline.first_minute, stop - MAX_CANDLES * length - length)
        stop = min(now_minute + 1, stop + length * 2)  # a candle that opens before the end is wanted up to its own end
        if start_s is not None:
            start = max(start, -(-start_s // 60))
        start = min(_bucket_start(start, timeframe, length), stop)
        minutes = self._edited(self._with_open_candle(start, stop, now_ms), now_ms)
        wanted_from, wanted_until = start_s or 0, (1 << 62) if end_s is None else end_s
        return self._rows(minutes, timeframe, length, wanted_from, wanted_until)

    def _with_open_candle(self, start: int, stop: int, now_ms: int) -> Minutes:
        now_minute = now_ms // MINUTE_MS
        if stop <= now_minute or start > now_minute:
            return self.timeline.minutes(start, stop)
        whole, partial = self.timeline.minutes(start, now_minute), self.timeline.partial(now_ms)
        return Minutes(
            start,
            np.append(whole.open, partial.open),
            np.append(whole.high, partial.high),
            np.append(whole.low, partial.low),
            np.append(whole.close, partial.close),
            np.append(whole.volume, partial.volume),
        )

    def _edited(self, minutes: Minutes, now_ms: int) -> Minutes:
        """``minutes`` as the edits that count at ``now_ms`` show them; the newest edit of a minute wins."""
        for edit in self.edits:
            if edit.from_ms <= now_ms < edit.until_ms:
                minutes = _edited(minutes, edit, self.rules.price_increment)
        return minutes

    def _rows(self, minutes: Minutes, timeframe: str, length: int, start_s: int, end_s: int) -> list[list[str]]:
        traded = np.flatnonzero(minutes.volume > 0)
        if not len(traded):
            return []
        buckets = _bucket_starts(traded + minutes.first, timeframe, length)
        first = np.concatenate(([0], np.flatnonzero(np.diff(buckets)) + 1))
        last = np.append(first[1:], len(traded)) - 1
        opens, closes = minutes.open[traded][first], minutes.close[traded][last]
        highs = np.maximum.reduceat(minutes.high[traded], first)
        lows = np.minimum.reduceat(minutes.low[traded], first)
        volumes = np.add.reduceat(minutes.volume[traded], first)
        turnover = np.add.reduceat(minutes.volume[traded] * minutes.close[traded], first)
        seconds = buckets[first] * 60
        wanted = np.flatnonzero((seconds >= start_s) & (seconds < end_s))[::-1][:MAX_CANDLES]
        tick = self.rules.price_increment
        return [
            [
                str(seconds[row]),
                text(int(opens[row]) * tick),
                text(int(closes[row]) * tick),
                text(int(highs[row]) * tick),
                text(int(lows[row]) * tick),
                _volume_text(volumes[row]),
                _volume_text(turnover[row] * float(tick)),
            ]
            for row in wanted.tolist()
        ]

    def _last_day(self, now_ms: int) -> Minutes:
        """The complete minutes of the last 24 hours, read once a minute."""
        minute = now_ms // MINUTE_MS
        if self._day is None or self._day[:2] != (minute, self.timeline.version):
            start = min(max(self.timeline.first_minute, minute - DAY_MINUTES + 1), minute)
            self._day = (minute, self.timeline.version, self.timeline.minutes(start, minute))
        return self._day[2]


class Market:
    """All listed symbols. New ones start a synthetic walk unless they are given a source."""

    def __init__(
        self, *, seed: int, start_ms: int, sigma: float, slippage: Decimal, fees: tuple[Decimal, Decimal]
    ) -> None:
        self._seed = seed
        self._anchor = start_ms // MINUTE_MS
        self._sigma = sigma
        self._slippage = slippage
        self._maker_fee, self._taker_fee = fees
        self.listings: dict[str, Listing] = {}
        self.contracts: dict[str, Listing] = {}
        self.delisted: dict[str, Listing] = {}

    def add(self, symbol: str, source: Source | None = None, tick: Decimal | None = None, **rules: Any) -> Listing:
        """List ``symbol``; ``rules`` override the default ones field by field."""
        base, _, quote = symbol.partition("-")
        price = dollars(base) / dollars(quote)
        made = default_rules(symbol, price, self._maker_fee, self._taker_fee)
        if tick is not None:
            made = replace(made, price_increment=tick)
        made = replace(made, **rules)
        walk = source or Walk(self._seed, symbol, self._anchor, price, made.price_increment, self._sigma)
        listing = self.listings[symbol] = Listing(made, Timeline(walk, made.price_increment), self._slippage)
        if contract_symbol(symbol) is not None:
            contract = default_contract(made)
            self.contracts[contract.symbol] = Listing(contract, listing.timeline, self._slippage)
        return listing

    def find(self, symbol: str) -> Listing | None:
        """The symbol or contract of that name, listed or no longer."""
        return self.listings.get(symbol) or self.contracts.get(symbol) or self.delisted.get(symbol)

    def delist(self, listing: Listing) -> None:
        """Hide ``listing`` from everybody; its orders keep knowing it."""
        symbol = listing.rules.symbol
        for listed in (self.listings, self.contracts):
            listed.pop(symbol, None)
        self.delisted[symbol] = listing
        listing.is_delisted = True

    def relist(self, listing: Listing) -> None:
        symbol = listing.rules.symbol
        self.delisted.pop(symbol, None)
        listing.is_delisted = False
        (self.contracts if isinstance(listing.rules, Contract) else self.listings)[symbol] = listing

    def price_of(self, currency: str, quote: str, at_ms: int) -> Decimal:
        """What ``currency`` costs in ``quote``: on its market, where there is one."""
        listing = self.listings.get(f"{currency}-{quote}")
        return dollars(currency) / dollars(quote) if listing is None else listing.price_at(at_ms)

    def currencies(self) -> list[dict[str, Any]]:
        names = {name: None for listing in self.listings.values() for name in (listing.rules.base, listing.rules.quote)}
        return [currency_wire(name) for name in names]


def _edited(minutes: Minutes, edit: Edit, tick: Decimal) -> Minutes:
    arrays = [minutes.open, minutes.high, minutes.low, minutes.close]
    open_, high, low, close = (array.copy() for array in arrays)
    volume = minutes.volume.copy()
    if not edit.rows:
        volume[max(0, edit.start - minutes.first) : max(0, edit.stop - minutes.first)] = 0
    for row in edit.rows:
        place = row[0] // MINUTE_MS - minutes.first
        if 0 <= place < len(minutes):
            for array, price in zip((open_, high, low, close), row[1:5], strict=True):
                array[place] = to_ticks(price, tick)
            volume[place] = row[5]
    return Minutes(minutes.first, open_, high, low, close, volume)


def _bucket_starts(minutes: IntArray, timeframe: str, length: int) -> IntArray:
    if timeframe == "1month":
        months = minutes.astype("datetime64[m]").astype("datetime64[M]")
        return months.astype("datetime64[m]").astype(np.int64)
    offset = _MONDAY if timeframe == "1week" else 0
    return (minutes - offset) // length * length + offset


def _bucket_start(minute: int, timeframe: str, length: int) -> int:
    return int(_bucket_starts(np.array([minute]), timeframe, length)[0])


def _volume_text(volume: float) -> str:
    return text(Decimal(f"{volume:.8f}"))
