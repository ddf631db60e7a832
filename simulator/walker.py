"""Walks each symbol's price path and fires the orders that it meets, in the order in which it meets them.

A minute's path is legs of straight lines, on which every order is met at its own price. A jump (between two minutes, or
when the price is set by hand) is a candle that opens past whatever it jumped over; ``domain/matching.py`` says where
that fills: a stop at the worse price, a limit at the better.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from decimal import Decimal
from itertools import count

import numpy as np

from domain.market import Side
from domain.matching import limit_fill_price, stop_fill_price
from simulator.market import Listing
from simulator.orders import Order, StopOrder
from simulator.prices import MINUTE_MS

Waiting = Order | StopOrder
Entry = tuple[int, int, Waiting]  # (price in ticks, or its negative; order of arrival; who waits)
Fire = Callable[[Waiting, Decimal, int], None]
Expire = Callable[[Order, int], None]

_sequence = count()


class PathWalker:
    """The waiting orders of one symbol and how far the price path has been walked.

    ``fire(order, price, at_ms)`` is called when the path meets an order; it may add orders while the walk goes on.
    """

    def __init__(self, listing: Listing, now_ms: int, fire: Fire, expire: Expire) -> None:
        self.listing = listing
        self.cursor_ms = now_ms
        self.ticks = listing.timeline.price_at(now_ms)
        self._fire = fire
        self._expire = expire
        self._rising: list[Entry] = []  # fires when the price rises to it
        self._falling: list[Entry] = []  # fires when it falls to it; ticks negated
        self._expiries: list[tuple[int, int, Order]] = []
        self._pauses: list[tuple[int, int, Order]] = []

    def add(self, waiting: Waiting) -> None:
        """Wait for ``waiting``'s price from where the walk is now."""
        if isinstance(waiting, Order):
            self.expire(waiting)
        self._wait(waiting)

    def expire(self, order: Order) -> None:
        """Mind ``order``'s expiry, if it has one."""
        if order.expires_at_ms is not None:
            heapq.heappush(self._expiries, (order.expires_at_ms, next(_sequence), order))

    def _wait(self, waiting: Waiting) -> None:
        tick = self.listing.rules.price_increment
        if isinstance(waiting, StopOrder):
            rising, ticks = waiting.fires_rising, int(waiting.stop_price / tick)
        else:
            assert waiting.request.price is not None
            rising, ticks = waiting.request.side is Side.SELL, int(waiting.request.price / tick)
        if rising:
            heapq.heappush(self._rising, (ticks, next(_sequence), waiting))
        else:
            heapq.heappush(self._falling, (-ticks, next(_sequence), waiting))

    def add_at(self, at_ms: int, order: Order) -> None:
        """Wait for ``order``'s price from ``at_ms`` on."""
        heapq.heappush(self._pauses, (at_ms, next(_sequence), order))

    @property
    def is_waiting(self) -> bool:
        """Whether anything waits; finished orders at the top are forgotten on the way."""
        _drop_finished(self._rising)
        _drop_finished(self._falling)
        while self._pauses and not self._pauses[0][2].is_active:
            heapq.heappop(self._pauses)
        return bool(self._rising or self._falling or self._pauses)

    def remeasure(self) -> None:
        """Take over prices in ticks of another size; only when nothing waits."""
        assert not self.is_waiting
        self.ticks = self.listing.timeline.price_at(self.cursor_ms)

    def advance(self, to_ms: int) -> None:
        """Walk on to ``to_ms``."""
        while True:
            while (due := self._next_due(to_ms)) is not None:
                at_ms, _, order = heapq.heappop(due)
                if order.is_active:
                    self._walk(max(at_ms, self.cursor_ms))
                    if order.is_active and due is self._expiries:
                        self._expire(order, self.cursor_ms)
                    elif order.is_active:
                        self._wait(order)
                        self._leg(self.cursor_ms, self.ticks)  # its price may be met where the walk is
            if self.cursor_ms >= to_ms:
                return
            self._walk(to_ms)

    def _next_due(self, to_ms: int) -> list[tuple[int, int, Order]] | None:
        """The timers of which the first is due next, by ``to_ms``."""
        heaps = [heap for heap in (self._expiries, self._pauses) if heap and heap[0][0] <= to_ms]
        return min(heaps, key=lambda heap: heap[0][0]) if heaps else None

    def look(self) -> None:
        """Meet a price that was set by hand at the moment where the walk is."""
        self._jump_if_moved()

    def _walk(self, to_ms: int) -> None:
        while self.cursor_ms < to_ms:
            if not self.is_waiting:
                self.cursor_ms, self.ticks = to_ms, self.listing.timeline.price_at(to_ms)
                return
            if self.cursor_ms % MINUTE_MS == 0:
                self._skip_quiet_minutes(to_ms)
            self._walk_minute(min(to_ms, (self.cursor_ms // MINUTE_MS + 1) * MINUTE_MS))

    def _skip_quiet_minutes(self, to_ms: int) -> None:
        """Pass over whole minutes whose extremes meet nobody."""
        start, stop = self.cursor_ms // MINUTE_MS, to_ms // MINUTE_MS
        if stop - start < 2:
            return
        stop = min(stop, start + 10_000)
        minutes = self.listing.timeline.minutes(start, stop)
        met = np.zeros(stop - start, bool)
        if self._rising:
            met |= minutes.high >= self._rising[0][0]
        if self._falling:
            met |= minutes.low <= -self._falling[0][0]
        quiet = int(np.argmax(met)) if met.any() else stop - start - 1  # the last one is walked, to end on its close
        if quiet:
            self.cursor_ms = (start + quiet) * MINUTE_MS
            self.ticks = int(minutes.close[quiet - 1])

    def _walk_minute(self, to_ms: int) -> None:
        self._jump_if_moved()
        for at_ms, ticks in self.listing.timeline.path(self.cursor_ms // MINUTE_MS):
            if self.cursor_ms < at_ms <= to_ms:
                self._leg(at_ms, ticks)
        if self.cursor_ms < to_ms:
            self._leg(to_ms, self.listing.timeline.price_at(to_ms))

    def _jump_if_moved(self) -> None:
        ticks = self.listing.timeline.price_at(self.cursor_ms)
        if ticks != self.ticks:
            self.ticks = ticks
            self._meet(self._rising, ticks, lambda _: self.cursor_ms, jumped_to=ticks)
            self._meet(self._falling, -ticks, lambda _: self.cursor_ms, jumped_to=ticks)

    def _leg(self, to_ms: int, to_ticks: int) -> None:
        """Go straight to ``to_ticks``: meet what is already due at the start, then what lies on the way."""
        from_ms, from_ticks = self.cursor_ms, self.ticks
        span, rise = to_ms - from_ms, to_ticks - from_ticks

        def reached_at(ticks: int) -> int:
            if (ticks - from_ticks) * rise <= 0:
                return from_ms
            return min(to_ms, from_ms - (-span * (ticks - from_ticks) // rise))

        if rise > 0:
            self._meet(self._falling, -from_ticks, reached_at)
            self._meet(self._rising, to_ticks, reached_at)
        else:
            self._meet(self._rising, from_ticks, reached_at)
            self._meet(self._falling, -to_ticks, reached_at)
        self.cursor_ms, self.ticks = to_ms, to_ticks

    def _meet(
        self, heap: list[Entry], reach: int, reached_at: Callable[[int], int], jumped_to: int | None = None
    ) -> None:
        """Fire what waits up to ``reach``, nearest first."""
        while heap and heap[0][0] <= reach:
            key, _, waiting = heapq.heappop(heap)
            if waiting.is_active:
                ticks = key if heap is self._rising else -key
                at_ms = reached_at(ticks)
                # Without a jump the price passes through every tick, so the order is met exactly at its own price.
                self._fire(waiting, self._price_of(waiting, ticks if jumped_to is None else jumped_to), at_ms)

    def _price_of(self, waiting: Waiting, first_seen: int) -> Decimal:
        """Where ``waiting`` fills when ``first_seen`` is the first price at or past its own."""
        open_ = first_seen * self.listing.rules.price_increment
        side = waiting.request.side
        if not isinstance(waiting, StopOrder):
            assert waiting.request.price is not None
            price = limit_fill_price(side, waiting.request.price, open_, open_, open_)
        elif waiting.fires_rising is (side is Side.BUY):
            price = stop_fill_price(side, waiting.stop_price, open_, open_, open_)
        else:  # a sell above the market or a buy below it: a target, not a stop
            price = limit_fill_price(side, waiting.stop_price, open_, open_, open_)
        assert price is not None, "an order was fired by a price that does not reach it"
        return price


def _drop_finished(heap: list[Entry]) -> None:
    while heap and not heap[0][2].is_active:
        heapq.heappop(heap)
