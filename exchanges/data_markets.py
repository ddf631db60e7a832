"""Markets of which there are only candles: a stock exchange, currencies, a venue of the past.

Nobody is called for them and nobody trades there, so what a venue would say of them is not known, and is not made up beyond
what a row must have.
"""

from __future__ import annotations

import re
from decimal import Decimal

from django.db import transaction
from django.utils import timezone

from exchanges.models import Exchange, Market

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_SYMBOL = re.compile(r"([A-Z0-9.^-]{1,20})/([A-Z0-9]{1,20})(?::([A-Z0-9]{1,20}))?")
LONGEST_SYMBOL = 40  # what the column holds
# No price that a file may have is rounded by it.
FINEST = Decimal("0.00000001")


class MarketUnknown(Exception):
    """There is no such market, and none can be made."""


def market_of_data(exchange_name: str, symbol: str) -> Market:
    """The market ``symbol`` at the exchange of that name, both made where there is neither; none is made up at an exchange
    that can be called. Raises MarketUnknown."""
    if not _NAME.fullmatch(exchange_name):
        raise MarketUnknown(
            f"wanted a name of up to 40 small letters, digits, - and _ for an exchange, was {exchange_name!r}"
        )
    found = _SYMBOL.fullmatch(symbol)
    if found is None or len(symbol) > LONGEST_SYMBOL:
        raise MarketUnknown(f"wanted a symbol such as SPY/USD, was {symbol!r}")
    base, quote, settled = found.groups()
    with transaction.atomic():
        exchange, _ = Exchange.objects.get_or_create(name=exchange_name, defaults={"ccxt_id": ""})
        market = exchange.markets.filter(symbol=symbol).first()
        if market is not None:
            return market
        if not exchange.is_only_data:
            raise MarketUnknown(f"wanted a market that {exchange_name} lists, was {symbol}; are its markets read?")
        kind = Market.Kind.LINEAR_FUTURE if settled else Market.Kind.SPOT
        rules = {"base": base, "quote": quote, "kind": kind, "tick_size": FINEST, "lot_size": FINEST}
        return Market.objects.get_or_create(
            exchange=exchange, symbol=symbol, defaults={**rules, "synced_at": timezone.now()}
        )[0]
