"""KuCoin's private spot endpoints: account, high-frequency orders, fills, stop orders."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeVar

from domain.market import Side
from simulator.api import CLIENT_OID, GENERAL, SPOT, Call, Route, Routes, positive_field, text_field
from simulator.exchange import Exchange, Refused
from simulator.orders import Fill, Order, OrderRequest, StopOrder
from simulator.rules import text

NOT_FOUND = "order not exist."
WEEK_MS = 7 * 86_400_000
_SIDES = {"buy": Side.BUY, "sell": Side.SELL}
_TIMES_IN_FORCE = ("GTC", "GTT", "IOC", "FOK")

Row = TypeVar("Row", Order, Fill)


class TradingApi:
    """Answers to the owner of a key, about this owner's books only."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def routes(self) -> Routes:
        reads = {
            "/api/ua/v1/account/mode": self._account_mode,
            "/api/v1/hf/accounts/opened": self._hf_opened,
            "/api/v1/user/api-key": self._api_key,
            "/api/v1/trade-fees": self._trade_fees,
            "/api/v1/accounts": self._accounts,
            "/api/v1/hf/orders/": self._order,
            "/api/v1/hf/orders/client-order/": self._order_by_client_oid,
            "/api/v1/hf/orders/active": self._active,
            "/api/v1/hf/orders/active/symbols": self._active_symbols,
            "/api/v1/hf/orders/done": self._done,
            "/api/v1/hf/fills": self._fills,
            "/api/v1/stop-order": self._stops,
            "/api/v1/stop-order/": self._stop,
            "/api/v1/stop-order/queryOrderByClientOid": self._stops_by_client_oid,
        }
        places = {
            "/api/v1/hf/orders": self._place,
            "/api/v1/hf/orders/sync": self._place_sync,
            "/api/v1/hf/orders/test": self._place_test,
            "/api/v1/stop-order": self._place_stop,
        }
        cancels = {
            "/api/v1/hf/orders/": self._cancel,
            "/api/v1/hf/orders/client-order/": self._cancel_by_client_oid,
            "/api/v1/hf/orders/sync/": self._cancel_sync,
            "/api/v1/hf/orders/sync/client-order/": self._cancel_sync_by_client_oid,
            "/api/v1/hf/orders": self._cancel_symbol,
            "/api/v1/hf/orders/cancelAll": self._cancel_all,
            "/api/v1/stop-order/": self._cancel_stop,
            "/api/v1/stop-order/cancelOrderByClientOid": self._cancel_stop_by_client_oid,
            "/api/v1/stop-order/cancel": self._cancel_stops,
        }
        return {
            **{("GET", path): Route(answer, GENERAL) for path, answer in reads.items()},
            **{("POST", path): Route(answer, SPOT) for path, answer in places.items()},
            **{("DELETE", path): Route(answer, SPOT) for path, answer in cancels.items()},
        }

    # -- account ------------------------------------------------------------------------------------------------

    def _account_mode(self, call: Call) -> dict[str, Any]:
        return {"selfAccountMode": "CLASSIC", "subAccountModes": []}

    def _hf_opened(self, call: Call) -> bool:
        return True

    def _api_key(self, call: Call) -> dict[str, Any]:
        account = call.owner
        return {
            "remark": "simulated",
            "apiKey": account.api_key,
            "apiVersion": 3,
            "permission": account.permissions,
            "ipWhitelist": account.ip_whitelist,
            "createdAt": account.created_at_ms,
            "uid": account.uid,
            "isMaster": True,
        }

    def _trade_fees(self, call: Call) -> list[dict[str, str]]:
        fees = []
        for symbol in call.param("symbols").split(","):
            listing = self._exchange.market.listings.get(symbol)
            if listing is None:
                raise Refused("900001", "symbol not exists")
            taker, maker = text(listing.rules.taker_fee), text(listing.rules.maker_fee)
            fees.append({"symbol": symbol, "takerFeeRate": taker, "makerFeeRate": maker})
        return fees

    def _accounts(self, call: Call) -> list[dict[str, str]]:
        """One wallet, shown as whichever trading account was asked for; the main account is empty."""
        wanted = call.query.get("type") or "trade_hf"
        if wanted not in ("trade_hf", "trade"):
            return []
        account, currency = call.owner, call.query.get("currency")
        return [
            {"id": f"{account.uid}{number:04d}", "currency": name, "type": wanted, **balance.wire()}
            for number, (name, balance) in enumerate(account.balances.items())
            if currency in (None, "", name)
        ]

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
        request = self._request(call)
        self._exchange.place(call.owner, request, call.now_ms, call.wall_ms, is_test=True)
        return {"orderId": self._exchange.books.order_id(0), "clientOid": request.client_oid}

    def _placed(self, call: Call) -> Order:
        order = self._exchange.place(call.owner, self._request(call), call.now_ms, call.wall_ms)
        assert order is not None
        return order

    def _place_stop(self, call: Call) -> dict[str, Any]:
        request = self._request(call)
        stop_price = positive_field(call.body, "stopPrice")
        if stop_price is None:
            raise Refused("400100", "stopPrice is required")
        kind = text_field(call.body, "stop") or "loss"
        if kind not in ("loss", "entry"):
            raise Refused("400100", "stop is invalid")
        stop = self._exchange.place_stop(call.owner, request, stop_price, kind == "entry", call.now_ms, call.wall_ms)
        return {"orderId": stop.id}

    def _request(self, call: Call) -> OrderRequest:
        """The order that a body describes."""
        body = call.body
        _check_deadline(body, call.wall_ms)
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

    # -- cancelling ---------------------------------------------------------------------------------------------

    def _cancel(self, call: Call) -> dict[str, Any]:
        order = self._exchange.cancel(_own(call.owner.orders.get(call.tail), call), call.now_ms)
        return {"orderId": order.id}

    def _cancel_by_client_oid(self, call: Call) -> dict[str, Any]:
        order = self._exchange.cancel(_own(call.owner.by_client_oid.get(call.tail), call), call.now_ms)
        return {"clientOid": order.request.client_oid}

    def _cancel_sync(self, call: Call) -> dict[str, Any]:
        return _final_state(self._exchange.cancel(_own(call.owner.orders.get(call.tail), call), call.now_ms))

    def _cancel_sync_by_client_oid(self, call: Call) -> dict[str, Any]:
        order = self._exchange.cancel(_own(call.owner.by_client_oid.get(call.tail), call), call.now_ms)
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
        return _found(_own(call.owner.orders.get(call.tail), call)).wire()

    def _order_by_client_oid(self, call: Call) -> dict[str, Any]:
        return _found(_own(call.owner.by_client_oid.get(call.tail), call)).wire()

    def _active(self, call: Call) -> list[dict[str, Any]]:
        return [order.wire() for order in reversed(call.owner.book(call.param("symbol")).active.values())]

    def _active_symbols(self, call: Call) -> dict[str, list[str]]:
        return {"symbols": [symbol for symbol, book in call.owner.books.items() if book.active]}

    def _done(self, call: Call) -> dict[str, Any]:
        rows = call.owner.book(call.param("symbol")).done
        return _page(call, rows, number=lambda order: order.done_number, at_ms=lambda order: order.updated_at_ms)

    def _fills(self, call: Call) -> dict[str, Any]:
        order_id = call.query.get("orderId")
        symbol = call.param("symbol")
        rows = call.owner.fills_of.get(order_id, []) if order_id else call.owner.book(symbol).fills
        return _page(call, rows, number=lambda fill: fill.number, at_ms=lambda fill: fill.at_ms)

    def _stops(self, call: Call) -> dict[str, Any]:
        rows = [stop.wire() for stop in reversed(self._stops_of(call))]
        size = min(max(call.number("pageSize", 50) or 50, 1), 500)
        page = max(call.number("currentPage", 1) or 1, 1)
        return {
            "currentPage": page,
            "pageSize": size,
            "totalNum": len(rows),
            "totalPage": -(-len(rows) // size),
            "items": rows[(page - 1) * size : page * size],
        }

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
    """KuCoin's own protection against late requests; judged by the wall clock, like the signature's timestamp."""
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


def _found(order: Order | None) -> Order:
    if order is None:
        raise Refused("400100", NOT_FOUND)
    return order


def _final_state(order: Order) -> dict[str, Any]:
    return {
        "orderId": order.id,
        "originSize": text(order.request.size) if order.request.size is not None else "0",
        "dealSize": text(order.deal_size),
        "remainSize": text(order.remain_size),
        "canceledSize": text(order.cancelled_size),
        "status": "open" if order.is_active else "done",
    }


def _page(call: Call, rows: Sequence[Row], number: Callable[[Row], int], at_ms: Callable[[Row], int]) -> dict[str, Any]:
    """A page of at most ``limit`` rows, newest first, older than ``lastId``, inside a window of at most a week."""
    limit = call.number("limit", 20) or 20
    if not 1 <= limit <= 100:
        raise Refused("400100", "limit should be between 1 and 100")
    start, end = _window(call)
    last_id = call.number("lastId")
    until = len(rows) if not last_id else bisect_left(rows, last_id, key=number)
    first, past = bisect_left(rows, start, key=at_ms), bisect_left(rows, end + 1, key=at_ms)
    side, kind = call.query.get("side"), call.query.get("type")
    items: list[dict[str, Any]] = []
    reached = 0
    for index in range(min(until, past) - 1, first - 1, -1):
        wire = rows[index].wire()
        if side in (None, "", wire["side"]) and kind in (None, "", wire["type"]):
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
