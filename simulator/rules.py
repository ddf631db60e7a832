"""What KuCoin publishes about a symbol and its currencies, plausible defaults for it, and how numbers are written."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

SYMBOL_PATTERN = re.compile(r"[A-Z0-9]{1,12}-[A-Z0-9]{1,12}")

# About what a coin costs in dollars, where the synthetic market starts.
_DOLLARS = {
    "BTC": "60000",
    "ETH": "3000",
    "BNB": "600",
    "SOL": "150",
    "LTC": "80",
    "KCS": "10",
    "LINK": "15",
    "XRP": "0.5",
    "ADA": "0.4",
    "DOGE": "0.1",
    "USDT": "1",
    "USDC": "1",
}

_CURRENCY_PRECISION = 8


def text(number: Decimal) -> str:
    """A number as KuCoin writes it: no exponent, no trailing zeros."""
    written = format(number, "f")
    return written.rstrip("0").rstrip(".") if "." in written else written


@dataclass(frozen=True, slots=True)
class Rules:
    """What KuCoin publishes about a symbol and enforces on its orders."""

    symbol: str
    price_increment: Decimal
    base_increment: Decimal
    quote_increment: Decimal
    base_min_size: Decimal
    base_max_size: Decimal
    quote_min_size: Decimal
    quote_max_size: Decimal
    min_funds: Decimal
    price_limit_rate: Decimal
    maker_fee: Decimal
    taker_fee: Decimal
    is_trading: bool = True
    multiplier: Decimal = Decimal(1)  # what one unit of size is of the base currency; only a contract's is not 1

    @property
    def base(self) -> str:
        return self.symbol.partition("-")[0]

    @property
    def quote(self) -> str:
        return self.symbol.partition("-")[2]

    def wire(self) -> dict[str, Any]:
        return {
            "symbol": self.symbol,
            "name": self.symbol,
            "baseCurrency": self.base,
            "quoteCurrency": self.quote,
            "feeCurrency": self.quote,
            "market": "USDS" if self.quote in ("USDT", "USDC") else self.quote,
            "baseMinSize": text(self.base_min_size),
            "quoteMinSize": text(self.quote_min_size),
            "baseMaxSize": text(self.base_max_size),
            "quoteMaxSize": text(self.quote_max_size),
            "baseIncrement": text(self.base_increment),
            "quoteIncrement": text(self.quote_increment),
            "priceIncrement": text(self.price_increment),
            "priceLimitRate": text(self.price_limit_rate),
            "minFunds": text(self.min_funds),
            "isMarginEnabled": False,
            "enableTrading": self.is_trading,
            "feeCategory": 1,
            "makerFeeCoefficient": "1.00",
            "takerFeeCoefficient": "1.00",
            "st": False,
            "callauctionIsEnabled": False,
            "callauctionPriceFloor": None,
            "callauctionPriceCeiling": None,
            "callauctionFirstStageStartTime": None,
            "callauctionSecondStageStartTime": None,
            "callauctionThirdStageStartTime": None,
            "tradingStartTime": None,
        }


def dollars(currency: str) -> Decimal:
    """About what one unit costs where the synthetic market starts; 10 for a coin nobody named."""
    return Decimal(_DOLLARS.get(currency, "10"))


def default_rules(symbol: str, price: Decimal, maker_fee: Decimal, taker_fee: Decimal) -> Rules:
    """Plausible rules: a price of six digits, a lot worth about a tenth of a cent, orders from ten cents."""
    magnitude = math.floor(math.log10(float(price)))
    worth = math.floor(math.log10(float(dollars(symbol.partition("-")[0]))))
    cent = math.floor(math.log10(float(dollars(symbol.partition("-")[2]))))
    lot = Decimal(1).scaleb(min(0, -worth - 4))
    least = Decimal(1).scaleb(-1 - cent)
    return Rules(
        symbol=symbol,
        price_increment=Decimal(1).scaleb(magnitude - 5),
        base_increment=lot,
        quote_increment=Decimal(1).scaleb(-6 - cent),
        base_min_size=lot * 1000,
        base_max_size=Decimal(10_000_000_000),
        quote_min_size=least,
        quote_max_size=Decimal(99_999_999),
        min_funds=least,
        price_limit_rate=Decimal("0.1"),
        maker_fee=maker_fee,
        taker_fee=taker_fee,
    )


def currency_wire(name: str) -> dict[str, Any]:
    chain = {
        "chainName": name,
        "chainId": name.lower(),
        "withdrawalMinSize": "0.001",
        "depositMinSize": "0.001",
        "withdrawFeeRate": "0",
        "withdrawalMinFee": "0.0005",
        "isWithdrawEnabled": False,
        "isDepositEnabled": False,
        "confirms": 1,
        "preConfirms": 1,
        "contractAddress": "",
        "withdrawPrecision": _CURRENCY_PRECISION,
        "maxWithdraw": None,
        "maxDeposit": None,
        "needTag": False,
    }
    return {
        "currency": name,
        "name": name,
        "fullName": name,
        "precision": _CURRENCY_PRECISION,
        "confirms": None,
        "contractAddress": None,
        "isMarginEnabled": False,
        "isDebitEnabled": False,
        "chains": [chain],
    }
