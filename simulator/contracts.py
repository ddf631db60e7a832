"""Perpetual contracts: what KuCoin publishes about one, and plausible defaults for the contract on a spot symbol."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from simulator.rules import Rules, dollars

FUNDING_EVERY_MS = 8 * 3_600_000
FUNDING_OFFSET_MS = 4 * 3_600_000  # 04:00, 12:00 and 20:00 UTC
_KUCOIN_NAMES = {"BTC": "XBT"}
SETTLED_IN = ("USDT", "USDC")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract(Rules):
    """A linear perpetual: ``size`` counts contracts of ``multiplier`` of the base, settled in the quote currency."""

    underlying: str
    max_leverage: int = 100
    maintain_margin: Decimal = Decimal("0.005")
    funding_rate: Decimal = Decimal("0.0001")

    @property
    def base(self) -> str:
        base = self.underlying.partition("-")[0]
        return _KUCOIN_NAMES.get(base, base)

    @property
    def quote(self) -> str:
        return self.underlying.partition("-")[2]

    def details(self, price: Decimal, stats: dict[str, str], open_interest: Decimal, now_ms: int) -> dict[str, Any]:
        """KuCoin's row about the contract, its 24-hour figures from ``stats``."""
        due_ms = next_funding_ms(now_ms)
        index = f".K{self.symbol.removesuffix('M')}"
        return {
            "symbol": self.symbol,
            "rootSymbol": self.quote,
            "type": "FFWCSX",
            "firstOpenDate": 1_585_555_200_000,
            "expireDate": None,
            "settleDate": None,
            "baseCurrency": self.base,
            "quoteCurrency": self.quote,
            "settleCurrency": self.quote,
            "maxOrderQty": int(self.base_max_size),
            "maxPrice": 1_000_000.0,
            "lotSize": int(self.base_increment),
            "tickSize": float(self.price_increment),
            "indexPriceTickSize": float(self.price_increment),
            "multiplier": float(self.multiplier),
            "initialMargin": float(1 / Decimal(self.max_leverage)),
            "maintainMargin": float(self.maintain_margin),
            "maxRiskLimit": 1_000_000,
            "minRiskLimit": 1_000_000,
            "riskStep": 500_000,
            "makerFeeRate": float(self.maker_fee),
            "takerFeeRate": float(self.taker_fee),
            "takerFixFee": 0.0,
            "makerFixFee": 0.0,
            "settlementFee": None,
            "isDeleverage": True,
            "isQuanto": True,
            "isInverse": False,
            "markMethod": "FairPrice",
            "fairMethod": "FundingRate",
            "fundingBaseSymbol": f".{self.base}INT8H",
            "fundingQuoteSymbol": f".{self.quote}INT8H",
            "fundingRateSymbol": f".{self.symbol}FPI8H",
            "indexSymbol": index,
            "settlementSymbol": "",
            "status": "Open" if self.is_trading else "Paused",
            "fundingFeeRate": float(self.funding_rate),
            "predictedFundingFeeRate": float(self.funding_rate),
            "fundingRateGranularity": FUNDING_EVERY_MS,
            "openInterest": str(int(open_interest)),
            "turnoverOf24h": float(stats["volValue"]),
            "volumeOf24h": float(stats["vol"]),
            "markPrice": float(price),
            "indexPrice": float(price),
            "lastTradePrice": float(price),
            "nextFundingRateTime": due_ms - now_ms,
            "nextFundingRateDateTime": due_ms,
            "maxLeverage": self.max_leverage,
            "sourceExchanges": ["simulator"],
            "premiumsSymbol1M": f".{self.symbol}PI",
            "premiumsSymbol8H": f".{self.symbol}PI8H",
            "fundingBaseSymbol1M": f".{self.base}INT",
            "fundingQuoteSymbol1M": f".{self.quote}INT",
            "lowPrice": float(stats["low"]),
            "highPrice": float(stats["high"]),
            "priceChgPct": float(stats["changeRate"]),
            "priceChg": float(stats["changePrice"]),
            "supportCross": True,
        }

    def funding(self, now_ms: int) -> dict[str, Any]:
        """The rate that is in force."""
        return {
            "symbol": f".{self.symbol}FPI8H",
            "granularity": FUNDING_EVERY_MS,
            "timePoint": next_funding_ms(now_ms) - FUNDING_EVERY_MS,
            "value": float(self.funding_rate),
            "predictedValue": float(self.funding_rate),
            "dailyInterestRate": 0.0003,
            "fundingRateCap": 0.003,
            "fundingRateFloor": -0.003,
            "period": 1,
            "fundingTime": next_funding_ms(now_ms),
        }


def next_funding_ms(now_ms: int) -> int:
    """The first funding after ``now_ms``."""
    periods = (now_ms - FUNDING_OFFSET_MS) // FUNDING_EVERY_MS + 1
    return periods * FUNDING_EVERY_MS + FUNDING_OFFSET_MS


def contract_symbol(symbol: str) -> str | None:
    """KuCoin's name of the perpetual on a spot symbol; None where it has no linear one."""
    base, _, quote = symbol.partition("-")
    return f"{_KUCOIN_NAMES.get(base, base)}{quote}M" if quote in SETTLED_IN else None


def default_contract(spot: Rules) -> Contract:
    """A contract worth ten to a hundred of the quote currency, with KuCoin's fees for an ordinary account."""
    name = contract_symbol(spot.symbol)
    assert name is not None, f"{spot.symbol} has no linear contract"
    price = dollars(spot.base) / dollars(spot.quote)
    return Contract(
        symbol=name,
        underlying=spot.symbol,
        price_increment=spot.price_increment,
        base_increment=Decimal(1),
        quote_increment=Decimal("0.0001"),
        base_min_size=Decimal(1),
        base_max_size=Decimal(1_000_000),
        quote_min_size=Decimal(0),
        quote_max_size=Decimal(99_999_999),
        min_funds=Decimal(0),
        price_limit_rate=spot.price_limit_rate,
        maker_fee=Decimal("0.0002"),
        taker_fee=Decimal("0.0006"),
        multiplier=Decimal(1).scaleb(1 - math.floor(math.log10(float(price)))),
    )
