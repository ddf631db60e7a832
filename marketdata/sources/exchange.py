"""The exchange of a market itself, through its gateway: rate budget, circuit breaker and clock are those of its orders."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from exchanges.gateway import CandleReport, ExchangeUnavailable
from exchanges.models import Market
from exchanges.services import gateway_for
from marketdata.sources import SourceFailed


class ExchangeSource:
    """Candles of ``market`` as its exchange tells them, over REST. What it tells as they happen rings for these."""

    def __init__(self, market: Market, timeframe: str) -> None:
        self._market = market
        self._timeframe = timeframe

    def candles(self, since: datetime, limit: int) -> Sequence[CandleReport]:
        exchange = self._market.exchange
        if not exchange.ccxt_id:
            raise SourceFailed(f"wanted an exchange that can be called, {exchange.name} is only data", is_final=True)
        try:
            gateway = gateway_for(exchange, markets=[self._market])
            return gateway.candles(self._market.symbol, self._timeframe, since, limit)
        except ExchangeUnavailable as error:
            raise SourceFailed(str(error), retry_after=error.retry_after) from error
