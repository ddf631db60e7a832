"""One simulated exchange: its market, its clock, its settings, and the two desks that trade there.

An exchange *is* its spot desk and has a futures desk beside it. ``advance`` brings everything up to the market clock;
``end_step`` closes a step: whoever listens (the state file, the streams) learns what changed, before anybody is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from simulator.books import Account, Books
from simulator.clock import MarketClock, wall_ms
from simulator.desk import Desk
from simulator.futures import FuturesBooks, FuturesDesk
from simulator.market import Edit, Listing, Market, Switch
from simulator.prices import MINUTE_MS, First
from simulator.replays import CandleRow, Replay
from simulator.rules import Rules
from simulator.settings import Settings


class Exchange(Desk):
    """All state of one simulated exchange."""

    def __init__(self, market: Market, clock: MarketClock, settings: Settings | None = None) -> None:
        settings = settings or Settings()
        super().__init__(Books(), settings, market.price_of)
        self.market = market
        self.clock = clock
        self.futures = FuturesDesk(FuturesBooks(), settings, market, clock.now_ms())
        self.advanced_to_ms = clock.now_ms()
        self.listeners: list[Callable[[], object]] = []  # called at the end of every step, in this order

    def end_step(self) -> None:
        """Tell the listeners what the step that ends here changed."""
        try:
            for listener in self.listeners:
                listener()
        finally:
            self.books.changed.clear()
            self.futures.books.changed.clear()

    # -- time and prices ----------------------------------------------------------------------------------------

    def advance(self) -> int:
        """Let the market reach its clock; returns the market time in ms."""
        now_ms = self.clock.now_ms()
        self.walk(now_ms)
        self.futures.walk(now_ms)
        self.advanced_to_ms = now_ms
        for account in self.books.with_dead_man:
            self._watch_dead_man(account, now_ms)
        return now_ms

    def first_met(self, levels: Mapping[Listing, tuple[Decimal | None, Decimal | None]], until_ms: int) -> int:
        """The first moment from now on, ``until_ms`` at the latest, at which the price of one of these is at the first of
        its levels or below, or at the second or above. The present is not looked at."""
        now_ms, found = self.clock.now_ms(), until_ms
        for listing, (below, above) in levels.items():
            tick = listing.rules.price_increment
            low = None if below is None else int((below / tick).to_integral_value(rounding=ROUND_FLOOR))
            high = None if above is None else int((above / tick).to_integral_value(rounding=ROUND_CEILING))
            met = listing.timeline.first_met(now_ms, found, low, high)
            found = found if met is None else met
        return found

    def pin(self, listing: Listing, price: Decimal | None) -> None:
        """Hold ``listing`` at ``price`` from now on, or (None) let it move as before; orders meet it at once."""
        self._switch(listing, Switch(listing.rules.symbol, self.advance(), price))

    def script(self, listing: Listing, rows: Sequence[CandleRow], first: First | None = None) -> None:
        """Replay ``rows`` on ``listing`` from the first one on; ValueError for rows that are no candles. ``first`` is the
        extreme that comes first inside each."""
        first_minute = Replay(rows, listing.rules.price_increment).first_minute
        self._switch(listing, Switch(listing.rules.symbol, first_minute * MINUTE_MS, rows=tuple(rows), first=first))

    def _switch(self, listing: Listing, switch: Switch) -> None:
        now_ms = self.advance()
        walkers = [desk.walker(one, now_ms) for desk, one in self._sharing(listing)]
        listing.switch(switch)
        self.books.note(switch)
        for walker in walkers:
            walker.look()

    def _sharing(self, listing: Listing) -> Iterator[tuple[Desk, Listing]]:
        """Every listing that has its price from ``listing``'s timeline, itself first, each with its desk."""
        yield self, listing
        for contract in self.market.contracts.values():
            if contract.timeline is listing.timeline:
                yield self.futures, contract

    def edit(self, listing: Listing, edit: Edit) -> None:
        """Show ``listing``'s candles otherwise than they were traded."""
        listing.edits.append(edit)
        self.books.note(edit)

    def change_rules(self, listing: Listing, rules: Rules) -> None:
        """Publish other rules; ValueError when the tick would change under live orders."""
        now_ms = self.advance()
        is_new_tick = rules.price_increment != listing.rules.price_increment
        sharing = list(self._sharing(listing)) if is_new_tick else []
        if any(desk.walker(one, now_ms).is_waiting for desk, one in sharing):
            raise ValueError(f"wanted no live orders on {rules.symbol} while its price increment changes")
        listing.change_rules(rules)
        self.books.note(listing)
        for desk, one in sharing:
            if one is not listing:
                one.rules = replace(one.rules, price_increment=rules.price_increment)
                self.books.note(one)
            desk.walker(one, now_ms).remeasure()

    def delist(self, listing: Listing) -> None:
        """Take ``listing`` off the market: nobody finds it any more and its live orders are cancelled."""
        desk: Desk = self.futures if listing.rules.symbol in self.market.contracts else self
        desk.clear(listing.rules.symbol, self.advance())
        self.market.delist(listing)
        self.books.note(listing)

    def read_back_at(self, now_ms: int) -> None:
        """Go on from books that were read back, as they were at ``now_ms``."""
        self.advanced_to_ms = now_ms
        self.wait_again(now_ms)
        self.futures.wait_again(now_ms)

    # -- the dead man's switch ----------------------------------------------------------------------------------

    def _watch_dead_man(self, account: Account, now_ms: int) -> None:
        if account.dead_man is not None and account.dead_man[0] <= wall_ms():
            for symbol in account.dead_man[1] or list(account.books):
                for order in list(account.book(symbol).active.values()):
                    self._finish_cancelled(order, now_ms)
            self.books.set_dead_man(account, None)
