"""KuCoin's older spot endpoints, deprecated and still there: /api/v1/orders and what goes with it.

Their look-up by client order id knows live orders only: a filled order "does not exist". Clients have placed orders
twice because of it, so it is kept here as it is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from simulator.api import GENERAL, SPOT, Call, Routes, numbered_page, routes_of
from simulator.books import SymbolBook
from simulator.exchange import Exchange
from simulator.orders import Order
from simulator.refusals import Refused
from simulator.trading_api import NOT_FOUND, TradingApi
from simulator.views import Views, Wire, is_active

_ONLY_HF = ("inOrderBook", "active", "lastUpdatedAt", "cancelledSize", "cancelledFunds", "remainSize", "remainFunds")


class ClassicApi:
    """Answers of the older endpoints, from the same books as the newer ones."""

    def __init__(self, exchange: Exchange, views: Views, trading: TradingApi) -> None:
        self._exchange = exchange
        self._views = views
        self._trading = trading

    def routes(self) -> Routes:
        reads = {
            "/api/v1/orders": (self._orders, 2),
            "/api/v1/orders/": (self._order, 2),
            "/api/v1/order/client-order/": (self._order_by_client_oid, 3),
            "/api/v1/fills": (self._fills, 10),
            "/api/v1/limit/orders": (self._recent_orders, 3),
            "/api/v1/limit/fills": (self._recent_fills, 20),
        }
        places = {"/api/v1/orders": (self._place, 2), "/api/v1/orders/test": (self._place_test, 1)}
        cancels = {
            "/api/v1/orders": (self._cancel_all, 20),
            "/api/v1/orders/": (self._cancel, 3),
            "/api/v1/order/client-order/": (self._cancel_by_client_oid, 5),
        }
        return {
            **routes_of("GET", reads, GENERAL, "spot"),
            **routes_of("POST", places, SPOT, "spot"),
            **routes_of("DELETE", cancels, SPOT, "spot"),
        }

    def _place(self, call: Call) -> dict[str, Any]:
        order = self._exchange.place(call.owner, self._trading.request(call), call.now_ms, call.wall_ms)
        assert order is not None
        return {"orderId": order.id}

    def _place_test(self, call: Call) -> dict[str, Any]:
        self._exchange.place(call.owner, self._trading.request(call), call.now_ms, call.wall_ms, is_test=True)
        return {"orderId": self._exchange.books.order_id(0)}

    # -- cancelling ---------------------------------------------------------------------------------------------

    def _cancel(self, call: Call) -> dict[str, Any]:
        order = self._exchange.cancel(call.owner.orders.get(call.tail), call.now_ms)
        return {"cancelledOrderIds": [order.id]}

    def _cancel_by_client_oid(self, call: Call) -> dict[str, Any]:
        order = self._exchange.cancel(call.owner.by_client_oid.get(call.tail), call.now_ms)
        return {"cancelledOrderId": order.id, "clientOid": order.request.client_oid, "cancelledOcoOrderIds": None}

    def _cancel_all(self, call: Call) -> dict[str, Any]:
        live = [order for book in self._books(call) for order in book.active.values()]
        return {"cancelledOrderIds": [self._exchange.cancel(order, call.now_ms).id for order in live]}

    # -- reading ------------------------------------------------------------------------------------------------

    def _order(self, call: Call) -> Wire:
        wire = self._views.order(call.owner.orders.get(call.tail), call.now_ms)
        if wire is None:
            raise Refused("400100", NOT_FOUND)
        return _classic(wire)

    def _order_by_client_oid(self, call: Call) -> Wire:
        wire = self._views.order(call.owner.by_client_oid.get(call.tail), call.now_ms)
        if wire is None or not is_active(wire):
            raise Refused("400100", NOT_FOUND)
        return _classic(wire)

    def _orders(self, call: Call) -> dict[str, Any]:
        """Live orders with status=active, finished ones otherwise; newest first."""
        if call.query.get("status") == "active":
            wires = [wire for book in self._books(call) for wire in self._views.active(book)]
        else:
            wires = [wire for order in self._done(call) if (wire := self._views.done(order, call.now_ms)) is not None]
        wires.sort(key=lambda wire: wire["id"], reverse=True)
        return numbered_page(call, [_classic(wire) for wire in wires if _is_wanted(call, wire)])

    def _recent_orders(self, call: Call) -> list[Wire]:
        """At most a thousand of the last 24 hours."""
        recent = [order for order in call.owner.orders.values() if order.created_at_ms >= call.now_ms - 86_400_000]
        wires = [wire for order in recent if (wire := self._views.order(order, call.now_ms)) is not None]
        return [_classic(wire) for wire in wires[:-1001:-1]]

    def _fills(self, call: Call) -> dict[str, Any]:
        order_id = call.query.get("orderId")
        if order_id:
            fills = call.owner.fills_of.get(order_id, [])
        else:
            fills = [fill for book in self._books(call) for fill in book.fills]
        fills = sorted(fills, key=lambda fill: fill.number, reverse=True)
        wires = [wire for fill in fills if (wire := self._views.fill(fill)) is not None]
        return numbered_page(call, [_classic_fill(wire) for wire in wires if _is_wanted(call, wire)])

    def _recent_fills(self, call: Call) -> list[Wire]:
        fills = [fill for book in call.owner.books.values() for fill in book.fills]
        recent = sorted(
            (fill for fill in fills if fill.at_ms >= call.now_ms - 86_400_000), key=lambda fill: fill.number
        )
        return [_classic_fill(wire) for fill in recent[:-1001:-1] if (wire := self._views.fill(fill)) is not None]

    def _books(self, call: Call) -> list[SymbolBook]:
        symbol = call.query.get("symbol")
        return [book for name, book in call.owner.books.items() if symbol in (None, "", name)]

    def _done(self, call: Call) -> Iterator[Order]:
        for book in self._books(call):
            yield from book.done
            if self._exchange.settings.read_lag_ms:
                yield from book.active.values()


def _is_wanted(call: Call, wire: Wire) -> bool:
    start, end = call.number("startAt"), call.number("endAt")
    return (
        call.query.get("side") in (None, "", wire["side"])
        and call.query.get("type") in (None, "", wire["type"])
        and (start is None or wire["createdAt"] >= start)
        and (end is None or wire["createdAt"] <= end)
    )


def _classic_fill(wire: Wire) -> Wire:
    """A fill in the older shape."""
    return {name: value for name, value in wire.items() if name not in ("id", "tax", "taxRate")}


def _classic(wire: Wire) -> Wire:
    """An order in the older shape."""
    kept = {name: value for name, value in wire.items() if name not in _ONLY_HF}
    older = {"stop": "", "stopTriggered": False, "stopPrice": "0", "taxRate": "0", "taxCurrency": wire["feeCurrency"]}
    return {**kept, **older, "isActive": wire["active"]}
