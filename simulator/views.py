"""What reads of orders and fills show: the books as they were ``readLagMs`` ago, without what was forgotten since.

A real exchange answers reads from elsewhere than it matches, a little later, and forgets finished orders after days.
"""

from __future__ import annotations

from typing import Any

from simulator.books import Account, SymbolBook
from simulator.clock import wall_ms
from simulator.exchange import Exchange
from simulator.orders import Fill, Order

MOST_VERSIONS = 200

Wire = dict[str, Any]


class Views:
    """Reads of one exchange's books, spot and futures."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._settings = exchange.settings
        exchange.listeners.append(self._remember)

    def order(self, order: Order | None, now_ms: int) -> Wire | None:
        """``order`` as a read shows it; None when the read does not find it."""
        if order is None or not self._is_kept(order, now_ms):
            return None
        return self._as_of(order, self._cut()) if self._settings.read_lag_ms else order.wire()

    def active(self, book: SymbolBook) -> list[Wire]:
        """The live orders, oldest first."""
        if not self._settings.read_lag_ms:
            return [order.wire() for order in book.active.values()]
        cut = self._cut()
        orders = list(book.active.values())
        for order in reversed(book.done):  # what was live at the cut and is not any more
            if not order.versions or order.versions[-1][0] <= cut:
                break
            orders.append(order)
        found = [self._as_of(order, cut) for order in sorted(orders, key=lambda order: order.number)]
        return [wire for wire in found if wire is not None and is_active(wire)]

    def done(self, order: Order, now_ms: int) -> Wire | None:
        """``order`` for a list of finished ones."""
        wire = self.order(order, now_ms)
        return None if wire is None or is_active(wire) else wire

    def fill(self, fill: Fill) -> Wire | None:
        is_hidden = self._settings.read_lag_ms and fill.arrived_at_ms > self._cut()
        return None if is_hidden else fill.wire()

    def begin_lag(self) -> None:
        """Remember how live orders are now: from here on reads may want to know."""
        for books in (self._exchange.books, self._exchange.futures.books):
            for account in books.accounts.values():
                self._remember_live(account)

    def _remember_live(self, account: Account) -> None:
        for book in account.books.values():
            for order in book.active.values():
                order.versions = [(0, order.wire())]

    def _remember(self) -> None:
        if not self._settings.read_lag_ms:
            return
        at_ms = wall_ms()
        for books in (self._exchange.books, self._exchange.futures.books):
            for row in books.changed:
                if isinstance(row, Order):
                    row.versions.append((at_ms, row.wire()))
                    del row.versions[:-MOST_VERSIONS]

    def _cut(self) -> int:
        return wall_ms() - self._settings.read_lag_ms

    def _as_of(self, order: Order, cut: int) -> Wire | None:
        if not order.versions:
            return order.wire()
        return next((wire for at_ms, wire in reversed(order.versions) if at_ms <= cut), None)

    def _is_kept(self, order: Order, now_ms: int) -> bool:
        kept_s = self._settings.keep_canceled_s if order.is_canceled else self._settings.keep_filled_s
        return order.is_active or kept_s is None or order.updated_at_ms >= now_ms - kept_s * 1000


def is_active(wire: Wire) -> bool:
    """Whether an order's wire is a live one's: ``active`` at the spot desk, ``isActive`` elsewhere."""
    return bool(wire["active"] if "active" in wire else wire["isActive"])
