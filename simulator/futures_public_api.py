"""KuCoin's public futures endpoints: contracts, tickers, depth, candles, funding rates."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from simulator.api import Call, Routes, routes_of
from simulator.exchange import Exchange
from simulator.market import DEPTH_LEVELS, TIMEFRAMES, Listing, Market
from simulator.positions import FuturesAccount, contract_of
from simulator.refusals import Refused

MOST_CANDLES = 500
_GRANULARITIES = {str(minutes): name for name, minutes in TIMEFRAMES.items() if name not in ("3min", "6hour", "1month")}

Wire = dict[str, Any]


class FuturesPublicApi:
    """Answers about contracts at the market time."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._market = exchange.market

    def routes(self) -> Routes:
        public = {
            "/api/v1/timestamp": (self._timestamp, 2),
            "/api/v1/status": (self._status, 4),
            "/api/v1/contracts/active": (self._contracts, 3),
            "/api/v1/contracts/": (self._contract, 3),
            "/api/v1/contracts/risk-limit/": (self._risk_limit, 5),
            "/api/v1/ticker": (self._ticker, 2),
            "/api/v1/allTickers": (self._tickers, 5),
            "/api/v1/level2/snapshot": (self._depth, 3),
            "/api/v1/level2/depth20": (self._depth20, 5),
            "/api/v1/level2/depth100": (self._depth, 10),
            "/api/v1/kline/query": (self._candles, 3),
            "/api/v1/trade/history": (self._trades, 5),
            "/api/v1/contract/funding-rates": (self._funding_rates, 5),
            "/api/v1/mark-price/*/current": (self._mark_price, 3),
            "/api/v1/funding-rate/*/current": (self._funding_rate, 2),
        }
        return routes_of("GET", public, None, "public")

    def _timestamp(self, call: Call) -> int:
        return call.now_ms

    def _status(self, call: Call) -> dict[str, str]:
        settings = self._exchange.settings
        return {"status": settings.status.value, "msg": settings.status_message}

    def _contracts(self, call: Call) -> list[Wire]:
        return [self._details(listing, call.now_ms) for listing in self._market.contracts.values()]

    def _contract(self, call: Call) -> Wire:
        return self._details(listed(self._market, call.tail), call.now_ms)

    def _details(self, listing: Listing, now_ms: int) -> Wire:
        held = [
            account.positions[listing.rules.symbol].quantity
            for account in self._exchange.futures.books.accounts.values()
            if isinstance(account, FuturesAccount) and listing.rules.symbol in account.positions
        ]
        interest = sum((abs(quantity) for quantity in held), Decimal(0))
        return contract_of(listing).details(listing.price_at(now_ms), listing.stats(now_ms), interest, now_ms)

    def _risk_limit(self, call: Call) -> list[Wire]:
        rules = contract_of(listed(self._market, call.tail))
        return [
            {
                "symbol": rules.symbol,
                "level": 1,
                "maxRiskLimit": 1_000_000,
                "minRiskLimit": 0,
                "maxLeverage": rules.max_leverage,
                "initialMargin": float(1 / Decimal(rules.max_leverage)),
                "maintainMargin": float(rules.maintain_margin),
            }
        ]

    def _ticker(self, call: Call) -> Wire:
        return futures_ticker(listed(self._market, call.param("symbol")), call.now_ms)

    def _tickers(self, call: Call) -> list[Wire]:
        return [futures_ticker(listing, call.now_ms) for listing in self._market.contracts.values()]

    def _depth(self, call: Call) -> Wire:
        return self._book(call, DEPTH_LEVELS)

    def _depth20(self, call: Call) -> Wire:
        return self._book(call, 20)

    def _book(self, call: Call, levels: int) -> Wire:
        listing = listed(self._market, call.param("symbol"))
        depth = listing.depth(call.now_ms, levels)
        sides = {side: [[float(price), int(size)] for price, size in depth[side]] for side in ("bids", "asks")}
        return {
            "sequence": int(depth["sequence"]),
            "symbol": listing.rules.symbol,
            **sides,
            "ts": depth["time"] * 1_000_000,
        }

    def _candles(self, call: Call) -> list[list[float]]:
        listing = listed(self._market, call.param("symbol"))
        timeframe = _GRANULARITIES.get(call.param("granularity"))
        if timeframe is None:
            raise Refused("100001", "granularity is invalid")
        start, end = call.number("from"), call.number("to")
        start_s, end_s = (None if at_ms is None else -(-at_ms // 1000) for at_ms in (start, end))
        seen_ms = call.now_ms - self._exchange.settings.candle_lag_ms
        rows = listing.candles(timeframe, start_s, end_s, seen_ms)[:MOST_CANDLES]
        return [
            [int(at) * 1000, float(open_), float(high), float(low), float(close), float(volume)]
            for at, open_, close, high, low, volume, _ in reversed(rows)
        ]

    def _trades(self, call: Call) -> list[Wire]:
        return [
            {
                "sequence": int(trade["sequence"]),
                "tradeId": trade["sequence"],
                "takerOrderId": trade["sequence"],
                "makerOrderId": trade["sequence"],
                "side": trade["side"],
                "size": 1,
                "price": trade["price"],
                "ts": trade["time"],
            }
            for trade in listed(self._market, call.param("symbol")).trades(call.now_ms)
        ]

    def _mark_price(self, call: Call) -> Wire:
        listing = listed(self._market, call.tail)
        price = float(listing.price_at(call.now_ms))
        at = {"symbol": listing.rules.symbol, "granularity": 1000, "timePoint": call.now_ms}
        return {**at, "value": price, "indexPrice": price}

    def _funding_rate(self, call: Call) -> Wire:
        return contract_of(listed(self._market, call.tail)).funding(call.now_ms)

    def _funding_rates(self, call: Call) -> list[Wire]:
        rules = contract_of(listed(self._market, call.param("symbol")))
        start, end = call.number("from", 0) or 0, call.number("to", call.now_ms) or call.now_ms
        rates: list[Wire] = []
        at_ms = rules.funding(min(end, call.now_ms))["timePoint"]
        while at_ms >= start and len(rates) < 100:
            rates.append({"symbol": rules.symbol, "fundingRate": float(rules.funding_rate), "timepoint": at_ms})
            at_ms -= rules.funding(at_ms)["granularity"]
        return rates


def listed(market: Market, symbol: str) -> Listing:
    """The contract of that name; Refused when there is none."""
    listing = market.contracts.get(symbol)
    if listing is None:
        raise Refused("100001", f"Contract parameter invalid: symbol {symbol}")
    return listing


def futures_ticker(listing: Listing, now_ms: int) -> Wire:
    level1 = listing.level1(now_ms)
    return {
        "sequence": now_ms,
        "symbol": listing.rules.symbol,
        "side": "buy",
        "size": 1,
        "tradeId": str(now_ms),
        "price": level1["price"],
        "bestBidPrice": level1["bestBid"],
        "bestBidSize": int(Decimal(level1["bestBidSize"])),
        "bestAskPrice": level1["bestAsk"],
        "bestAskSize": int(Decimal(level1["bestAskSize"])),
        "ts": now_ms * 1_000_000,
    }
