"""KuCoin's private futures endpoints: wallet, positions, orders, fills. The futures host is the prefix /_futures here."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from domain.market import Side
from simulator.api import (
    CLIENT_OID,
    FUTURES,
    GENERAL,
    Call,
    Routes,
    numbered_page,
    positive_field,
    routes_of,
    text_field,
)
from simulator.exchange import Exchange
from simulator.futures_public_api import listed
from simulator.market import Listing
from simulator.orders import Order, StopOrder
from simulator.positions import FuturesAccount, FuturesRequest, Position, contract_of
from simulator.refusals import Refused
from simulator.rules import text
from simulator.views import Views, Wire

NOT_FOUND = "error.getOrder.orderNotExist"
_SIDES = {"buy": Side.BUY, "sell": Side.SELL}
_TIMES_IN_FORCE = ("GTC", "IOC", "FOK")


class FuturesApi:
    """Answers to the owner of a key, about its futures account only."""

    def __init__(self, exchange: Exchange, views: Views) -> None:
        self._exchange = exchange
        self._desk = exchange.futures
        self._market = exchange.market
        self._views = views

    def routes(self) -> Routes:
        reads = {
            "/api/v1/account-overview": (self._overview, 5),
            "/api/v1/trade-fees": (self._trade_fees, 3),
            "/api/v1/orders": (self._orders, 2),
            "/api/v1/orders/": (self._order, 5),
            "/api/v1/orders/byClientOid": (self._order_by_client_oid, 5),
            "/api/v1/recentDoneOrders": (self._recent_done, 5),
            "/api/v1/stopOrders": (self._stop_orders, 6),
            "/api/v1/fills": (self._fills, 5),
            "/api/v1/recentFills": (self._recent_fills, 3),
            "/api/v1/position": (self._position, 2),
            "/api/v1/positions": (self._positions, 2),
            "/api/v1/funding-history": (self._funding_history, 5),
            "/api/v2/position/getMarginMode": (self._margin_mode, 2),
            "/api/v2/getCrossUserLeverage": (self._cross_leverage, 2),
        }
        writes = {
            "/api/v1/orders": (self._place, 2),
            "/api/v1/orders/test": (self._place_test, 2),
            "/api/v1/st-orders": (self._place_with_exits, 2),
            "/api/v2/position/changeMarginMode": (self._change_margin_mode, 2),
            "/api/v2/changeCrossUserLeverage": (self._change_cross_leverage, 2),
        }
        cancels = {
            "/api/v1/orders/": (self._cancel, 1),
            "/api/v1/orders/client-order/": (self._cancel_by_client_oid, 1),
            "/api/v1/orders": (self._cancel_all, 200),
            "/api/v3/orders": (self._cancel_all, 10),
            "/api/v1/stopOrders": (self._cancel_stops, 15),
        }
        return {
            **routes_of("GET", reads, GENERAL, "futures"),
            **routes_of("POST", writes, FUTURES, "futures"),
            **routes_of("DELETE", cancels, FUTURES, "futures"),
        }

    # -- the account --------------------------------------------------------------------------------------------

    def _owner(self, call: Call) -> FuturesAccount:
        return self._desk.books.account_of(call.owner)

    def _overview(self, call: Call) -> Wire:
        return overview(self._owner(call), call.query.get("currency") or "USDT", call.now_ms)

    def _trade_fees(self, call: Call) -> Wire:
        rules = listed(self._market, call.param("symbol")).rules
        return {"symbol": rules.symbol, "takerFeeRate": text(rules.taker_fee), "makerFeeRate": text(rules.maker_fee)}

    def _position(self, call: Call) -> Wire:
        listing = listed(self._market, call.param("symbol"))
        position = self._owner(call).positions.get(listing.rules.symbol) or Position(0, self._owner(call), listing)
        return position.wire(listing.price_at(call.now_ms), call.now_ms)

    def _positions(self, call: Call) -> list[Wire]:
        held = self._owner(call).open_positions(call.query.get("currency") or None)
        return [position.wire(position.listing.price_at(call.now_ms), call.now_ms) for position in held]

    def _funding_history(self, call: Call) -> dict[str, Any]:
        symbol, key = call.param("symbol"), call.owner.api_key
        since, until = call.number("startAt", 0) or 0, call.number("endAt", call.now_ms) or call.now_ms
        mine = [one for one in self._desk.books.funding if one.symbol == symbol and one.account.api_key == key]
        rows = [one for one in mine if since <= one.at_ms <= until]
        most = min(max(call.number("maxCount", 10) or 10, 1), 100)
        return {"dataList": [one.wire() for one in rows[: -most - 1 : -1]], "hasMore": len(rows) > most}

    def _margin_mode(self, call: Call) -> Wire:
        symbol = listed(self._market, call.param("symbol")).rules.symbol
        return {"symbol": symbol, "marginMode": _mode(self._owner(call).is_cross_on.get(symbol, False))}

    def _change_margin_mode(self, call: Call) -> Wire:
        owner, symbol = self._owner(call), listed(self._market, text_field(call.body, "symbol") or "").rules.symbol
        mode = text_field(call.body, "marginMode")
        if mode not in ("CROSS", "ISOLATED"):
            raise Refused("100001", "marginMode is invalid")
        position = owner.positions.get(symbol)
        if owner.book(symbol).active or (position is not None and position.quantity):
            raise Refused("330006", "The margin mode cannot be switched with open orders or positions.")
        owner.is_cross_on[symbol] = mode == "CROSS"
        self._desk.books.note(owner)
        return {"symbol": symbol, "marginMode": mode}

    def _cross_leverage(self, call: Call) -> Wire:
        symbol = listed(self._market, call.param("symbol")).rules.symbol
        return {"symbol": symbol, "leverage": text(self._owner(call).cross_leverage.get(symbol, Decimal(3)))}

    def _change_cross_leverage(self, call: Call) -> bool:
        listing = listed(self._market, text_field(call.body, "symbol") or "")
        leverage = positive_field(call.body, "leverage")
        if leverage is None or not 1 <= leverage <= contract_of(listing).max_leverage:
            raise Refused("100001", "leverage is invalid")
        owner = self._owner(call)
        owner.cross_leverage[listing.rules.symbol] = leverage
        self._desk.books.note(owner)
        return True

    # -- placing ------------------------------------------------------------------------------------------------

    def _place(self, call: Call) -> Wire:
        return self._placed(call, is_test=False)

    def _place_test(self, call: Call) -> Wire:
        return self._placed(call, is_test=True)

    def _placed(self, call: Call, is_test: bool) -> Wire:
        owner, request = self._owner(call), self._request(call)
        stop_price = positive_field(call.body, "stopPrice")
        answer = {"orderId": self._desk.books.order_id(0), "clientOid": request.client_oid}
        if stop_price is not None and not is_test:
            stop = text_field(call.body, "stop")
            if stop not in ("up", "down"):
                raise Refused("100001", "stop is invalid")
            answer["orderId"] = self._desk.place_stop(
                owner, request, stop_price, stop == "up", call.now_ms, call.wall_ms
            ).id
        else:
            order = self._desk.place(owner, request, call.now_ms, call.wall_ms, is_test=is_test)
            answer["orderId"] = answer["orderId"] if order is None else order.id
        return answer

    def _place_with_exits(self, call: Call) -> Wire:
        """An order, with a stop above and a stop below the market that close what it opened."""
        request = self._request(call)
        prices = {name: positive_field(call.body, name) for name in ("triggerStopUpPrice", "triggerStopDownPrice")}
        owner = self._owner(call)
        order = self._desk.place(owner, request, call.now_ms, call.wall_ms)
        assert order is not None
        assert request.size is not None
        for name, price in prices.items():
            if price is not None:
                closing = FuturesRequest(
                    request.listing,
                    request.side.opposite,
                    False,
                    request.size,
                    None,
                    None,
                    "",
                    leverage=request.leverage,
                    is_cross=request.is_cross,
                    is_reduce_only=True,
                    stop_price_type=request.stop_price_type or "TP",
                )
                is_up = name == "triggerStopUpPrice"
                self._desk.place_stop(owner, closing, price, is_up, call.now_ms, call.wall_ms)
        return {"orderId": order.id, "clientOid": request.client_oid}

    def _request(self, call: Call) -> FuturesRequest:
        """The order that a body describes."""
        body = call.body
        listing = listed(self._market, text_field(body, "symbol") or "")
        symbol, owner = listing.rules.symbol, self._owner(call)
        client_oid = text_field(body, "clientOid") or ""
        if client_oid and not CLIENT_OID.fullmatch(client_oid):
            raise Refused("100001", "clientOid is invalid")
        is_cross = _is_cross(body)
        leverage = positive_field(body, "leverage")
        if is_cross:
            leverage = owner.cross_leverage.get(symbol, Decimal(3))
        if body.get("closeOrder") is True:
            return self._closing_request(call, listing, client_oid, is_cross)
        side, kind = _SIDES.get(text_field(body, "side") or ""), text_field(body, "type") or "limit"
        if side is None or kind not in ("limit", "market"):
            raise Refused("100001", "side or type is invalid")
        size, price = _contracts_of(body, listing, positive_field(body, "price")), positive_field(body, "price")
        if kind == "limit" and price is None:
            raise Refused("100001", "price is required")
        time_in_force = text_field(body, "timeInForce") or "GTC"
        if time_in_force not in _TIMES_IN_FORCE:
            raise Refused("100001", "timeInForce is invalid")
        return FuturesRequest(
            listing,
            side,
            kind == "limit",
            size,
            None,
            price if kind == "limit" else None,
            client_oid,
            time_in_force=time_in_force,
            is_post_only=body.get("postOnly") is True and kind == "limit",
            remark=text_field(body, "remark"),
            leverage=leverage or Decimal(1),
            is_cross=is_cross,
            is_reduce_only=body.get("reduceOnly") is True,
            stop_price_type=text_field(body, "stopPriceType") or "",
        )

    def _closing_request(self, call: Call, listing: Listing, client_oid: str, is_cross: bool) -> FuturesRequest:
        position = self._owner(call).positions.get(listing.rules.symbol)
        if position is None or not position.quantity:
            raise Refused("300009", "No open positions to close.")
        price = positive_field(call.body, "price")
        is_limit = text_field(call.body, "type") == "limit" and price is not None
        return FuturesRequest(
            listing,
            Side.SELL if position.quantity > 0 else Side.BUY,
            is_limit,
            abs(position.quantity),
            None,
            price if is_limit else None,
            client_oid,
            leverage=position.leverage,
            is_cross=is_cross,
            is_reduce_only=True,
            is_close=True,
            stop_price_type=text_field(call.body, "stopPriceType") or "",
        )

    # -- cancelling ---------------------------------------------------------------------------------------------

    def _cancel(self, call: Call) -> Wire:
        owner = self._owner(call)
        stop = owner.stops.get(call.tail)
        if stop is not None and stop.is_active:
            return {"cancelledOrderIds": [self._desk.cancel_stop(stop).id]}
        return {"cancelledOrderIds": [self._cancelled(owner.orders.get(call.tail), call).id]}

    def _cancel_by_client_oid(self, call: Call) -> Wire:
        order = self._owner(call).by_client_oid.get(call.tail)
        if order is not None and order.request.listing.rules.symbol != call.param("symbol"):
            order = None
        return {"clientOid": self._cancelled(order, call).request.client_oid}

    def _cancelled(self, order: Order | None, call: Call) -> Order:
        if order is None:
            raise Refused("100001", NOT_FOUND)
        if not order.is_active:
            raise Refused("100004", "The order cannot be canceled.")
        return self._desk.cancel(order, call.now_ms)

    def _cancel_all(self, call: Call) -> Wire:
        symbol = call.query.get("symbol")
        books = [book for name, book in self._owner(call).books.items() if symbol in (None, "", name)]
        live = [order for book in books for order in book.active.values()]
        return {"cancelledOrderIds": [self._desk.cancel(order, call.now_ms).id for order in live]}

    def _cancel_stops(self, call: Call) -> Wire:
        return {"cancelledOrderIds": [self._desk.cancel_stop(stop).id for stop in self._stops_of(call)]}

    # -- reading ------------------------------------------------------------------------------------------------

    def _order(self, call: Call) -> Wire:
        owner = self._owner(call)
        return self._shown(owner.orders.get(call.tail), owner.stops.get(call.tail), call)

    def _order_by_client_oid(self, call: Call) -> Wire:
        owner, client_oid = self._owner(call), call.param("clientOid")
        return self._shown(owner.by_client_oid.get(client_oid), owner.stop_by_client_oid.get(client_oid), call)

    def _shown(self, order: Order | None, stop: StopOrder | None, call: Call) -> Wire:
        wire = self._views.order(order, call.now_ms)
        if wire is None and order is None and stop is not None:
            wire = stop.wire()
        if wire is None:
            raise Refused("100001", NOT_FOUND)
        return wire

    def _orders(self, call: Call) -> dict[str, Any]:
        symbol = call.query.get("symbol")
        books = [book for name, book in self._owner(call).books.items() if symbol in (None, "", name)]
        if call.query.get("status") == "active":
            wires = [wire for book in books for wire in self._views.active(book)]
        else:
            done = [self._views.done(order, call.now_ms) for book in books for order in book.done]
            wires = [wire for wire in done if wire is not None]
        wires.sort(key=lambda wire: (wire["createdAt"], wire["id"]), reverse=True)
        return numbered_page(call, [wire for wire in wires if _is_wanted(call, wire)])

    def _recent_done(self, call: Call) -> list[Wire]:
        done = [order for book in self._owner(call).books.values() for order in book.done]
        recent = sorted(done, key=lambda order: order.done_number)[:-1001:-1]
        return [wire for order in recent if (wire := self._views.done(order, call.now_ms)) is not None]

    def _stop_orders(self, call: Call) -> dict[str, Any]:
        return numbered_page(call, [stop.wire() for stop in reversed(self._stops_of(call))])

    def _stops_of(self, call: Call) -> list[StopOrder]:
        symbol = call.query.get("symbol")
        stops = list(self._owner(call).active_stops.values())
        return [stop for stop in stops if symbol in (None, "", stop.request.listing.rules.symbol)]

    def _fills(self, call: Call) -> dict[str, Any]:
        return numbered_page(call, [wire for wire in self._all_fills(call) if _is_wanted(call, wire)])

    def _recent_fills(self, call: Call) -> list[Wire]:
        return self._all_fills(call)[:1000]

    def _all_fills(self, call: Call) -> list[Wire]:
        owner, symbol, order_id = self._owner(call), call.query.get("symbol"), call.query.get("orderId")
        fills = [fill for name, book in owner.books.items() if symbol in (None, "", name) for fill in book.fills]
        wanted = [fill for fill in fills if order_id in (None, "", fill.order.id)]
        newest = sorted(wanted, key=lambda fill: fill.number, reverse=True)
        return [wire for fill in newest if (wire := self._views.fill(fill)) is not None]


def overview(owner: FuturesAccount, currency: str, now_ms: int) -> Wire:
    """A futures wallet as KuCoin shows it."""
    available, unrealised, margin = owner.funds(currency, now_ms)
    balance = owner.balance(currency)
    return {
        "currency": currency,
        "accountEquity": float(balance.total + unrealised),
        "unrealisedPNL": float(unrealised),
        "marginBalance": float(balance.total),
        "positionMargin": float(margin),
        "orderMargin": float(balance.holds),
        "frozenFunds": 0.0,
        "availableBalance": float(available),
        "riskRatio": 0.0,
        "maxWithdrawAmount": float(available),
        "availableMargin": float(available),
    }


def _contracts_of(body: Mapping[str, Any], listing: Listing, price: Decimal | None) -> Decimal:
    """The size in contracts: ``size``, or ``qty`` in the base currency, or ``valueQty`` in the quote currency."""
    size, quantity, value = (positive_field(body, name) for name in ("size", "qty", "valueQty"))
    if size is None and quantity is not None:
        size = quantity // listing.rules.multiplier
    if size is None and value is not None and price is not None:
        size = value // (price * listing.rules.multiplier)
    if size is None or size % 1 or not size:
        raise Refused("100001", "Quantity parameter must be a positive whole number of contracts.")
    return size


def _is_cross(body: Mapping[str, Any]) -> bool:
    mode = text_field(body, "marginMode") or "ISOLATED"
    if mode not in ("CROSS", "ISOLATED"):
        raise Refused("100001", "marginMode is invalid")
    return mode == "CROSS"


def _mode(is_cross: bool) -> str:
    return "CROSS" if is_cross else "ISOLATED"


def _is_wanted(call: Call, wire: Wire) -> bool:
    start, end = call.number("startAt"), call.number("endAt")
    return (
        call.query.get("side") in (None, "", wire["side"])
        and (start is None or wire["createdAt"] >= start)
        and (end is None or wire["createdAt"] <= end)
    )
