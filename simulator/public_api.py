"""KuCoin's public endpoints, and the few private ones that only list what exists."""

from __future__ import annotations

from typing import Any

from simulator.api import GENERAL, Call, Routes, routes_of
from simulator.exchange import Exchange
from simulator.market import DEPTH_LEVELS, TIMEFRAMES, Listing
from simulator.refusals import Refused


class PublicApi:
    """Answers about the market at the market time."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._market = exchange.market

    def routes(self) -> Routes:
        public = {
            "/api/v1/timestamp": (self._timestamp, 3),
            "/api/v1/status": (self._status, 3),
            "/api/v3/currencies": (self._currencies, 3),
            "/api/v2/symbols": (self._symbols, 4),
            "/api/v2/symbols/": (self._symbol, 4),
            "/api/v1/market/allTickers": (self._all_tickers, 15),
            "/api/v1/market/stats": (self._stats, 15),
            "/api/v1/market/orderbook/level1": (self._level1, 2),
            "/api/v1/market/orderbook/level2_20": (self._level2_20, 2),
            "/api/v1/market/orderbook/level2_100": (self._level2_full, 4),
            "/api/v1/market/candles": (self._candles, 3),
            "/api/v1/market/histories": (self._histories, 3),
        }
        private = {
            "/api/v3/market/orderbook/level2": (self._level2_full, 3),
            "/api/v3/margin/symbols": (self._margin_symbols, 3),
            "/api/v1/isolated/symbols": (self._isolated_symbols, 3),
        }
        return {**routes_of("GET", public, None, "public"), **routes_of("GET", private, GENERAL, "spot")}

    def _listing(self, call: Call) -> Listing:
        listing = self._market.listings.get(call.param("symbol"))
        if listing is None:
            raise Refused("400100", "Unsupported trading pair.")
        return listing

    def _timestamp(self, call: Call) -> int:
        return call.now_ms

    def _status(self, call: Call) -> dict[str, str]:
        settings = self._exchange.settings
        return {"status": settings.status.value, "msg": settings.status_message}

    def _currencies(self, call: Call) -> list[dict[str, Any]]:
        return self._market.currencies()

    def _symbols(self, call: Call) -> list[dict[str, Any]]:
        return [listing.rules.wire() for listing in self._market.listings.values()]

    def _symbol(self, call: Call) -> dict[str, Any]:
        listing = self._market.listings.get(call.tail)
        if listing is None:
            raise Refused("900001", "symbol not exists")
        return listing.rules.wire()

    def _all_tickers(self, call: Call) -> dict[str, Any]:
        tickers = [listing.ticker(call.now_ms) for listing in self._market.listings.values()]
        return {"time": call.now_ms, "ticker": tickers}

    def _stats(self, call: Call) -> dict[str, Any]:
        return self._listing(call).stats(call.now_ms)

    def _level1(self, call: Call) -> dict[str, Any]:
        return self._listing(call).level1(call.now_ms)

    def _level2_20(self, call: Call) -> dict[str, Any]:
        return self._listing(call).depth(call.now_ms, 20)

    def _level2_full(self, call: Call) -> dict[str, Any]:
        return self._listing(call).depth(call.now_ms, DEPTH_LEVELS)

    def _candles(self, call: Call) -> list[list[str]]:
        timeframe = call.param("type")
        if timeframe not in TIMEFRAMES:
            raise Refused("400100", "This type of Candlestick is currently not provided.")
        start, end = call.number("startAt"), call.number("endAt")
        seen_ms = call.now_ms - self._exchange.settings.candle_lag_ms
        return self._listing(call).candles(timeframe, start or None, end or None, seen_ms)

    def _histories(self, call: Call) -> list[dict[str, Any]]:
        return self._listing(call).trades(call.now_ms)

    def _margin_symbols(self, call: Call) -> dict[str, Any]:
        return {"timestamp": call.now_ms, "items": []}

    def _isolated_symbols(self, call: Call) -> list[dict[str, Any]]:
        return []
