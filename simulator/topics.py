"""What the streams say, in KuCoin's topics, subjects and units."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from domain.market import ZERO
from simulator.books import Account, Balance
from simulator.contracts import Contract
from simulator.futures_public_api import futures_ticker
from simulator.market import TIMEFRAMES, Listing
from simulator.orders import Fill, Order, StopOrder
from simulator.positions import FuturesAccount, FuturesOrder, Position
from simulator.rules import text

Message = dict[str, Any]
NS = 1_000_000

# Topic: (subject, seconds between two messages); a topic that the market makes, not the account.
SPOT_TOPICS = {
    "/market/ticker": ("trade.ticker", 0.1),
    "/market/snapshot": ("trade.snapshot", 0.5),
    "/market/candles": ("trade.candles.update", 0.5),
    "/market/match": ("trade.l3match", 0.5),
    "/market/level2": ("trade.l2update", 0.2),
    "/spotMarket/level1": ("level1", 0.1),
    "/spotMarket/level2Depth5": ("level2", 0.1),
    "/spotMarket/level2Depth50": ("level2", 0.1),
}
FUTURES_TOPICS = {
    "/contractMarket/ticker": ("ticker", 0.1),
    "/contractMarket/tickerV2": ("tickerV2", 0.1),
    "/contractMarket/limitCandle": ("candle.stick", 0.5),
    "/contractMarket/level2": ("level2", 0.2),
    "/contractMarket/execution": ("match", 0.5),
    "/contractMarket/level2Depth5": ("level2", 0.1),
    "/contractMarket/level2Depth50": ("level2", 0.1),
    "/contract/instrument": ("mark.index.price", 0.5),
}
SPOT_PRIVATE = (
    *("/spotMarket/tradeOrders", "/spotMarket/tradeOrdersV2", "/spotMarket/advancedOrders"),
    *("/account/balance", "/spot/tradeFills"),
)
FUTURES_PRIVATE = (
    *("/contractMarket/tradeOrders", "/contractMarket/advancedOrders", "/contractAccount/wallet"),
    *("/contract/position", "/contract/positionAll"),
)


def is_private(topic: str) -> bool:
    """Whether ``topic`` is about an account."""
    channel = topic.partition(":")[0]
    return channel in SPOT_PRIVATE or channel in FUTURES_PRIVATE


def market_data(listing: Listing, channel: str, argument: str, now_ms: int) -> Any:
    """The data of one message of a market topic; None when it has nothing to say. ``argument`` follows the symbol."""
    if channel in ("/market/ticker", "/spotMarket/level1"):
        return _ticker(listing, channel, now_ms)
    if channel == "/market/snapshot":
        return {"sequence": str(now_ms), "data": _snapshot(listing, now_ms)}
    if channel == "/market/match":
        trade = listing.trades(now_ms)[-1]
        ids = {"takerOrderId": trade["sequence"], "makerOrderId": trade["sequence"], "tradeId": trade["sequence"]}
        return {**trade, **ids, "type": "match", "symbol": listing.rules.symbol, "time": str(trade["time"])}
    if channel == "/contractMarket/execution":
        trade = listing.trades(now_ms)[-1]
        ids = {"takerOrderId": trade["sequence"], "makerOrderId": trade["sequence"], "tradeId": trade["sequence"]}
        return {**trade, **ids, "size": 1, "symbol": listing.rules.symbol, "ts": trade["time"]}
    if "Depth" in channel:
        depth = listing.depth(now_ms, 5 if channel.endswith("5") else 50)
        return {"asks": depth["asks"], "bids": depth["bids"], "timestamp": now_ms, "ts": now_ms}
    if "andle" in channel:
        return _candle(listing, argument, now_ms)
    if channel == "/contract/instrument":
        price = float(listing.price_at(now_ms))
        return {"symbol": listing.rules.symbol, "markPrice": price, "indexPrice": price, "timestamp": now_ms}
    return futures_ticker(listing, now_ms)


def _ticker(listing: Listing, channel: str, now_ms: int) -> Message:
    level1 = listing.level1(now_ms)
    if channel == "/spotMarket/level1":
        asks, bids = [level1["bestAsk"], level1["bestAskSize"]], [level1["bestBid"], level1["bestBidSize"]]
        return {"asks": asks, "bids": bids, "timestamp": now_ms}
    del level1["time"]
    return {**level1, "time": now_ms, "Time": now_ms}


def _snapshot(listing: Listing, now_ms: int) -> Message:
    stats = listing.stats(now_ms)
    names = ("buy", "sell", "high", "low", "vol", "volValue", "changeRate", "changePrice", "averagePrice")
    numbers = {name: float(stats[name]) for name in names}
    base, quote = listing.rules.base, listing.rules.quote
    names_of = {"symbol": listing.rules.symbol, "symbolCode": listing.rules.symbol, "baseCurrency": base}
    return {**numbers, **names_of, "quoteCurrency": quote, "lastTradedPrice": float(stats["last"]),
            "datetime": now_ms, "trading": listing.rules.is_trading}  # fmt: skip


def _candle(listing: Listing, timeframe: str, now_ms: int) -> Message | None:
    if timeframe not in TIMEFRAMES:
        return None
    rows = listing.candles(timeframe, None, None, now_ms)
    if not rows:
        return None
    row = rows[0]
    if isinstance(listing.rules, Contract):
        row = [*row[:6], row[5]]  # KuCoin's futures stream has the volume last
    return {"symbol": listing.rules.symbol, "candles": row, "time": now_ms * NS}


# -- accounts --------------------------------------------------------------------------------------------------


def order_messages(order: Order, fills: list[Fill], is_new: bool) -> Iterator[Message]:
    """What happened to ``order`` in one step: it was received, opened, matched, filled or cancelled."""
    request, done = order.request, order.deal_size - sum((fill.size for fill in fills), ZERO)
    if is_new:
        if order.request.is_limit and not isinstance(order, FuturesOrder):
            yield _order(order, "received", "new", ZERO)
        if request.is_limit:
            yield _order(order, "open", "open", ZERO)
    for fill in fills:
        done += fill.size
        yield {
            **_order(order, "match", "match", done),
            "matchPrice": text(fill.price),
            "matchSize": text(fill.size),
            "tradeId": str(fill.trade_id),
            "liquidity": "maker" if fill.is_maker else "taker",
            "feeType": "makerFee" if fill.is_maker else "takerFee",
            "ts": fill.at_ms * NS,
        }
    if not order.is_active:
        yield _order(order, "canceled" if order.is_canceled else "filled", "done", order.deal_size)


def _order(order: Order, kind: str, status: str, filled: Decimal) -> Message:
    request, size = order.request, order.request.size
    is_over = status == "done"
    shown = filled if size is None else size
    created = order.created_at_ms * (NS if isinstance(order, FuturesOrder) else 1)
    message = {
        "symbol": request.listing.rules.symbol,
        "orderType": "limit" if request.is_limit else "market",
        "side": request.side.value.lower(),
        "orderId": order.id,
        "clientOid": request.client_oid,
        "type": kind,
        "status": status,
        "orderTime": created,
        "originSize": text(size or ZERO),
        "size": text(shown),
        "filledSize": text(filled),
        "remainSize": "0" if is_over or size is None else text(size - filled),
        "canceledSize": text(order.cancelled_size) if is_over else "0",
        "price": text(request.price or ZERO),
        "ts": order.updated_at_ms * NS,
    }
    if request.funds is not None:
        message["originFunds"] = message["funds"] = text(request.funds)
    return message


def stop_message(stop: StopOrder, at_ms: int) -> Message:
    request = stop.request
    kind = {"NEW": "open", "TRIGGERED": "triggered", "CANCELED": "cancel"}[stop.status]
    return {
        "orderId": stop.id,
        "symbol": request.listing.rules.symbol,
        "type": kind,
        "orderType": "stop",
        "side": request.side.value.lower(),
        "size": text(request.size or ZERO),
        "orderPrice": text(request.price or ZERO),
        "stop": stop.wire()["stop"],
        "stopPrice": text(stop.stop_price),
        "triggerSuccess": True if kind == "triggered" else None,
        "tradeType": "TRADE",
        "createdAt": stop.created_at_ms,
        "ts": at_ms * NS,
    }


def balance_message(
    account: Account, currency: str, balance: Balance, before: tuple[Decimal, Decimal], at_ms: int
) -> Message:
    total, holds = before
    return {
        "accountId": f"{account.uid}",
        "currency": currency,
        "total": text(balance.total),
        "available": text(balance.available),
        "hold": text(balance.holds),
        "availableChange": text(balance.available - (total - holds)),
        "holdChange": text(balance.holds - holds),
        "relationContext": {},
        "relationEvent": "trade_hf.hold" if balance.holds != holds else "trade_hf.setted",
        "relationEventId": str(at_ms),
        "time": str(at_ms),
    }


def wallet_message(account: FuturesAccount, currency: str, now_ms: int) -> Message:
    available, unrealised, margin = account.funds(currency, now_ms)
    balance = account.balance(currency)
    return {
        "currency": currency,
        "walletBalance": text(balance.total),
        "availableBalance": text(available),
        "holdBalance": text(balance.holds),
        "isolatedOrderMargin": text(balance.holds),
        "isolatedPosMargin": text(margin),
        "isolatedUnPnl": text(unrealised),
        "equity": text(balance.total + unrealised),
        "totalCrossMargin": "0",
        "crossPosMargin": "0",
        "crossOrderMargin": "0",
        "crossUnPnl": "0",
        "isolatedFundingFeeMargin": "0",
        "maxWithdrawAmount": text(available),
        "version": str(now_ms),
        "timestamp": str(now_ms),
    }


def position_message(position: Position, now_ms: int) -> Message:
    wire = position.wire(position.listing.price_at(now_ms), now_ms)
    return {**wire, "changeReason": "positionChange"}
