"""KuCoin's private spot endpoints of the high-frequency account: orders, fills, stop orders, the dead man's switch."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, TypeVar

from domain.market import Side
from simulator.api import (
    CLIENT_OID,
    GENERAL,
    SPOT,
    Call,
    Routes,
    numbered_page,
    positive_field,
    routes_of,
    text_field,
)
from simulator.exchange import Exchange
from simulator.orders import Fill, Order, OrderRequest, StopOrder
from simulator.refusals import Refused
from simulator.rules import text
from simulator.views import Views, Wire

NOT_FOUND = "order not exist."
WEEK_MS = 7 * 86_400_000
_SIDES = {"buy": Side.BUY, "sell": Side.SELL}
_TIMES_IN_FORCE = ("GTC", "GTT", "IOC", "FOK")

Row = TypeVar("Row", Order, Fill)


class TradingApi:
    """Answers to the owner of a key, about this owner's books only."""

    def __init__(self, exchange: Exchange, views: Views) -> None:
        self._exchange = exchange
        self._views = views

    def routes(self) -> Routes:
        reads = {
            "/api/v1/hf/orders/": (self._order, 2),
            "/api/v1/hf/orders/client-order/": (self._order_by_client_oid, 2),
            "/api/v1/hf/orders/active": (self._active, 2),
            "/api/v1/hf/orders/active/symbols": (self._active_symbols, 2),
            "/api/v1/hf/orders/done": (self._done, 2),
            "/api/v1/hf/orders/dead-cancel-all/query": (self._dead_man, 2),
            "/api/v1/hf/fills": (self._fills, 2),
            "/api/v1/stop-order": (self._stops, 8),
            "/api/v1/stop-order/": (self._stop, 3),
            "/api/v1/stop-order/queryOrderByClientOid": (self._stops_by_client_oid, 3),
        }
        places = {
            "/api/v1/hf/orders": (self._place, 1),
            "/api/v1/hf/orders/sync": (self._place_sync, 1),
            "/api/v1/hf/orders/test": (self._place_test, 1),
            "/api/v1/hf/orders/alter": (self._alter, 3),
            "/api/v1/hf/orders/dead-cancel-all": (self._set_dead_man, 2),
            "/api/v1/stop-order": (self._place_stop, 1),
        }
        cancels = {
            "/api/v1/hf/orders/": (self._cancel, 1),
            "/api/v1/hf/orders/client-order/": (self._cancel_by_client_oid, 1),
            "/api/v1/hf/orders/sync/": (self._cancel_sync, 1),
            "/api/v1/hf/orders/sync/client-order/": (self._cancel_sync_by_client_oid, 1),
            "/api/v1/hf/orders": (self._cancel_symbol, 2),
            "/api/v1/hf/orders/cancelAll": (self._cancel_all, 30),
            "/api/v1/stop-order/": (self._cancel_stop, 3),
            "/api/v1/stop-order/cancelOrderByClientOid": (self._cancel_stop_by_client_oid, 5),
            "/api/v1/stop-order/cancel": (self._cancel_stops, 3),
        }
        return {
            **routes_of("GET", reads, GENERAL, "spot"),
            **routes_of("POST", places, SPOT, "spot"),
            **routes_of("DELETE", cancels, SPOT, "spot"),
        }

    # -- placing ------------------------------------------------------------------------------------------------

    def _place(self, call: Call) -> dict[str, Any]:
        order = self._placed(call)
        return {"orderId": order.id, "clientOid": order.request.client_oid}

    def _place_sync(self, call: Call) -> dict[str, Any]:
        order = self._placed(call)
        return {
            **_final_state(order),
            "clientOid": order.request.client_oid,
            "orderTime": order.created_at_ms,
            "matchTime": order.updated_at_ms,
        }

    def _place_test(self, call: Call) -> dict[str, Any]:
        request = self.request(call)
        self._exchange.place(call.owner, request, call.now_ms, call.wall_ms, is_test=True)
        return {"orderId": self._exchange.books.order_id(0), "clientOid": request.client_oid}

    def _placed(self, call: Call) -> Order:
        order = self._exchange.place(call.owner, self.request(call), call.now_ms, call.wall_ms)
        assert order is not None
        return order

    def _place_stop(self, call: Call) -> dict[str, Any]:
        request = self.request(call)
        stop_price = positive_field(call.body, "stopPrice")
        if stop_price is None:
            raise Refused("400100", "stopPrice is required")
        kind = text_field(call.body, "stop") or "loss"
        if kind not in ("loss", "entry"):
            raise Refused("400100", "stop is invalid")
        stop = self._exchange.place_stop(call.owner, request, stop_price, kind == "entry", call.now_ms, call.wall_ms)
        return {"orderId": stop.id}

    def request(self, call: Call) -> OrderRequest:
        """The order that a body describes."""
        body = call.body
        _check_deadline(body, call.wall_ms + self._exchange.settings.clock_offset_ms)
        listing = self._exchange.market.listings.get(text_field(body, "symbol") or "")
        if listing is None:
            raise Refused("900001", "symbol not exists")
        side = _SIDES.get(text_field(body, "side") or "")
        if side is None:
            raise Refused("400100", "side is invalid")
        client_oid = text_field(body, "clientOid") or ""
        if client_oid and not CLIENT_OID.fullmatch(client_oid):
            raise Refused("400100", "clientOid is invalid")
        size, funds, price = (positive_field(body, name) for name in ("size", "funds", "price"))
        is_limit = _is_limit(body, size, funds, price)
        time_in_force, is_post_only, cancel_after_s = _lifetime(body)
        return OrderRequest(
            listing=listing,
            side=side,
            is_limit=is_limit,
            size=size,
            funds=funds,
            price=price if is_limit else None,
            client_oid=client_oid,
            time_in_force=time_in_force,
            is_post_only=is_post_only and is_limit,
            cancel_after_s=cancel_after_s if is_limit else 0,
            remark=text_field(body, "remark"),
            tags=text_field(body, "tags"),
        )

    def _alter(self, call: Call) -> dict[str, Any]:
        """Another price or size for a live order: a cancel and a new order with the same client order id."""
        owner, body = call.owner, call.body
        order_id, client_oid = text_field(body, "orderId"), text_field(body, "clientOid")
        order = owner.orders.get(order_id) if order_id else owner.by_client_oid.get(client_oid or "")
        price, size = positive_field(body, "newPrice"), positive_field(body, "newSize")
        if order is None or order.request.listing.rules.symbol != text_field(body, "symbol"):
            raise Refused("400100", NOT_FOUND)
        if not order.request.is_limit or (price is None and size is None):
            raise Refused("400100", "newPrice or newSize of a limit order is required")
        before = order.request
        self._exchange.cancel(order, call.now_ms, is_sync=True)
        changed = replace(before, price=price or before.price, size=size or before.size)
        made = self._exchange.place(owner, changed, call.now_ms, call.wall_ms)
        assert made is not None
        return {"newOrderId": made.id, "clientOid": before.client_oid}

    def _set_dead_man(self, call: Call) -> dict[str, Any]:
        """Cancel everything in ``timeout`` seconds unless asked again before; -1 calls it off."""
        timeout = call.body.get("timeout")
        if isinstance(timeout, bool) or not isinstance(timeout, int) or not (timeout == -1 or 5 <= timeout <= 86_400):
            raise Refused("400100", "timeout is invalid")
        symbols = [symbol for symbol in (text_field(call.body, "symbols") or "").split(",") if symbol]
        at_ms = call.wall_ms + timeout * 1000
        self._exchange.books.set_dead_man(call.owner, None if timeout == -1 else (at_ms, symbols))
        return {"currentTime": call.wall_ms // 1000, "triggerTime": 0 if timeout == -1 else at_ms // 1000}

    def _dead_man(self, call: Call) -> dict[str, Any] | None:
        if call.owner.dead_man is None:
            return None
        at_ms, symbols = call.owner.dead_man
        return {
            "timeout": max(0, (at_ms - call.wall_ms) // 1000),
            "symbols": ",".join(symbols),
            "currentTime": call.wall_ms // 1000,
            "triggerTime": at_ms // 1000,
        }

    # -- cancelling ---------------------------------------------------------------------------------------------

    def _cancel(self, call: Call) -> dict[str, Any]:
        order = self._exchange.cancel(_own(call.owner.orders.get(call.tail), call), call.now_ms)
        return {"orderId": order.id}

    def _cancel_by_client_oid(self, call: Call) -> dict[str, Any]:
        order = self._exchange.cancel(_own(call.owner.by_client_oid.get(call.tail), call), call.now_ms)
        return {"clientOid": order.request.client_oid}

    def _cancel_sync(self, call: Call) -> dict[str, Any]:
        order = _own(call.owner.orders.get(call.tail), call)
        return _final_state(self._exchange.cancel(order, call.now_ms, is_sync=True))

    def _cancel_sync_by_client_oid(self, call: Call) -> dict[str, Any]:
        order = _own(call.owner.by_client_oid.get(call.tail), call)
        order = self._exchange.cancel(order, call.now_ms, is_sync=True)
        return {**_final_state(order), "clientOid": order.request.client_oid}

    def _cancel_symbol(self, call: Call) -> str:
        for order in list(call.owner.book(call.param("symbol")).active.values()):
            self._exchange.cancel(order, call.now_ms)
        return "success"

    def _cancel_all(self, call: Call) -> dict[str, Any]:
        symbols = [symbol for symbol, book in call.owner.books.items() if book.active]
        for symbol in symbols:
            for order in list(call.owner.books[symbol].active.values()):
                self._exchange.cancel(order, call.now_ms)
        return {"succeedSymbols": symbols, "failedSymbols": []}

    def _cancel_stop(self, call: Call) -> dict[str, Any]:
        stop = self._exchange.cancel_stop(call.owner.stops.get(call.tail))
        return {"cancelledOrderIds": [stop.id]}

    def _cancel_stop_by_client_oid(self, call: Call) -> dict[str, Any]:
        stop = self._exchange.cancel_stop(call.owner.stop_by_client_oid.get(call.param("clientOid")))
        return {"cancelledOrderId": stop.id, "clientOid": stop.request.client_oid}

    def _cancel_stops(self, call: Call) -> dict[str, Any]:
        ids = set(filter(None, (call.query.get("orderIds") or "").split(",")))
        chosen = [stop for stop in self._stops_of(call) if not ids or stop.id in ids]
        return {"cancelledOrderIds": [self._exchange.cancel_stop(stop).id for stop in chosen]}

    # -- reading ------------------------------------------------------------------------------------------------

    def _order(self, call: Call) -> dict[str, Any]:
        return _found(self._views.order(_own(call.owner.orders.get(call.tail), call), call.now_ms))

    def _order_by_client_oid(self, call: Call) -> dict[str, Any]:
        return _found(self._views.order(_own(call.owner.by_client_oid.get(call.tail), call), call.now_ms))

    def _active(self, call: Call) -> list[dict[str, Any]]:
        return self._views.active(call.owner.book(call.param("symbol")))[::-1]

    def _active_symbols(self, call: Call) -> dict[str, list[str]]:
        return {"symbols": [symbol for symbol, book in call.owner.books.items() if book.active]}

    def _done(self, call: Call) -> dict[str, Any]:
        return _page(
            call,
            call.owner.book(call.param("symbol")).done,
            number=lambda order: order.done_number,
            at_ms=lambda order: order.updated_at_ms,
            show=lambda order: self._views.done(order, call.now_ms),
        )

    def _fills(self, call: Call) -> dict[str, Any]:
        order_id = call.query.get("orderId")
        symbol = call.param("symbol")
        rows = call.owner.fills_of.get(order_id, []) if order_id else call.owner.book(symbol).fills
        return _page(call, rows, number=lambda fill: fill.number, at_ms=lambda fill: fill.at_ms, show=self._views.fill)

    def _stops(self, call: Call) -> dict[str, Any]:
        return numbered_page(call, [stop.wire() for stop in reversed(self._stops_of(call))])

    def _stop(self, call: Call) -> dict[str, Any]:
        stop = call.owner.stops.get(call.tail)
        if stop is None or stop.status == "CANCELED":
            raise Refused("400100", NOT_FOUND)
        return stop.wire()

    def _stops_by_client_oid(self, call: Call) -> list[dict[str, Any]]:
        stop = call.owner.stop_by_client_oid.get(call.param("clientOid"))
        return [] if stop is None or stop.status == "CANCELED" else [stop.wire()]

    def _stops_of(self, call: Call) -> list[StopOrder]:
        symbol = call.query.get("symbol")
        stops = call.owner.active_stops.values()
        return [stop for stop in stops if symbol in (None, "", stop.request.listing.rules.symbol)]


def _check_deadline(body: Mapping[str, Any], wall_ms: int) -> None:
    """KuCoin's own protection against late requests; judged by the clock that judges the signature's timestamp."""
    stamped, window = positive_field(body, "clientTimestamp"), positive_field(body, "allowMaxTimeWindow")
    if stamped is not None and window is not None and stamped + window < wall_ms:
        raise Refused("400100", "The request arrived after clientTimestamp + allowMaxTimeWindow.")


def _is_limit(body: Mapping[str, Any], size: Decimal | None, funds: Decimal | None, price: Decimal | None) -> bool:
    kind = text_field(body, "type") or "limit"
    if kind not in ("limit", "market"):
        raise Refused("400100", "type is invalid")
    if kind == "limit":
        if price is None:
            raise Refused("400100", "price is required")
        if size is None:
            raise Refused("400100", "size is required")
        if funds is not None:
            raise Refused("400100", "funds is invalid")
    elif (size is None) is (funds is None):
        raise Refused("400100", "size or funds is required, not both")
    return kind == "limit"


def _lifetime(body: Mapping[str, Any]) -> tuple[str, bool, int]:
    time_in_force = text_field(body, "timeInForce") or "GTC"
    if time_in_force not in _TIMES_IN_FORCE:
        raise Refused("400100", "timeInForce is invalid")
    is_post_only = body.get("postOnly", False)
    if not isinstance(is_post_only, bool) or (is_post_only and time_in_force in ("IOC", "FOK")):
        raise Refused("400100", "postOnly is invalid")
    cancel_after = positive_field(body, "cancelAfter") if time_in_force == "GTT" else None
    if time_in_force == "GTT" and cancel_after is None:
        raise Refused("400100", "cancelAfter is required")
    return time_in_force, is_post_only, int(cancel_after or 0)


def _own(order: Order | None, call: Call) -> Order | None:
    """``order`` if it is on the symbol that the call must name."""
    symbol = call.param("symbol")
    return order if order is not None and order.request.listing.rules.symbol == symbol else None


def _found(wire: Wire | None) -> Wire:
    if wire is None:
        raise Refused("400100", NOT_FOUND)
    return wire


def _final_state(order: Order) -> dict[str, Any]:
    return {
        "orderId": order.id,
        "originSize": text(order.request.size) if order.request.size is not None else "0",
        "dealSize": text(order.deal_size),
        "remainSize": text(order.remain_size),
        "canceledSize": text(order.cancelled_size),
        "status": "open" if order.is_active else "done",
    }


def _page(
    call: Call,
    rows: Sequence[Row],
    number: Callable[[Row], int],
    at_ms: Callable[[Row], int],
    show: Callable[[Row], Wire | None],
) -> dict[str, Any]:
    """A page of at most ``limit`` rows, newest first, older than ``lastId``, inside a window of at most a week."""
    limit = call.number("limit", 20) or 20
    if not 1 <= limit <= 100:
        raise Refused("400100", "limit should be between 1 and 100")
    # What one order did is shown whenever it did it.
    start, end = (0, call.now_ms) if call.query.get("orderId") else _window(call)
    last_id = call.number("lastId")
    until = len(rows) if not last_id else bisect_left(rows, last_id, key=number)
    first, past = bisect_left(rows, start, key=at_ms), bisect_left(rows, end + 1, key=at_ms)
    side, kind = call.query.get("side"), call.query.get("type")
    items: list[dict[str, Any]] = []
    reached = 0
    for index in range(min(until, past) - 1, first - 1, -1):
        wire = show(rows[index])
        if wire is not None and side in (None, "", wire["side"]) and kind in (None, "", wire["type"]):
            items.append(wire)
            reached = number(rows[index])
            if len(items) == limit:
                break
    return {"lastId": reached, "items": items}


def _window(call: Call) -> tuple[int, int]:
    start, end = call.number("startAt"), call.number("endAt")
    if start is None:
        end = call.now_ms if end is None else end
        return end - WEEK_MS, end
    if end is None:
        end = start + WEEK_MS
    if end - start > WEEK_MS:
        raise Refused("400100", "The time range should not be more than 7 days")
    return start, end
