"""ccxt's unified rows as our reports: exact decimals and aware times, or an error that says that a row is none.

Whoever calls this has told ccxt to leave numbers as the text they came in.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from domain.market import MarketRules, OrderType, Side, to_decimal
from exchanges.gateway import ExchangeUnavailable, FillReport, MarketReport, OrderReport, TradeReport

# An order whose cancellation is only asked for can still trade.
_OPEN = {"open", "canceling"}
_CANCELED = {"canceled", "cancelled", "expired", "rejected"}
_DONE = {"closed"}
# What KuCoin calls the kind of an order (``tradeType``) that it made itself, because a position's margin was used up.
_LIQUIDATIONS = {"liquid", "liquidation"}


# Where ccxt keeps what it knows of markets.
MARKET_TABLES = ("markets", "markets_by_id", "currencies", "currencies_by_id")


def markets_add(venue: Any, infos: list[dict[str, Any]]) -> None:
    """Have ccxt know these markets beside those that it knows: it would read all of them again, for a thousand learned one by
    one half a million."""
    before = {name: getattr(venue, name) for name in MARKET_TABLES}
    venue.currencies = {}
    venue.set_markets(infos)
    for name, table in before.items():
        table.update({key: row for key, row in getattr(venue, name).items() if key not in table})
        setattr(venue, name, table)
    venue.symbols, venue.ids = list(venue.markets), list(venue.markets_by_id)
    venue.codes = list(venue.currencies)


def time_at(milliseconds: Any) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1000, tz=UTC)


def market_report(row: dict[str, Any], is_in_places: bool = False) -> MarketReport:
    """``is_in_places``: this exchange says its precisions in decimal places, not as the step itself."""
    precision, limits, info = row["precision"], row["limits"], row.get("info") or {}
    tick_size, lot_size = (_step(precision[name], is_in_places) for name in ("price", "amount"))
    return MarketReport(
        rules=MarketRules(
            symbol=row["symbol"],
            base=row["base"],
            quote=row["quote"],
            tick_size=tick_size,
            lot_size=lot_size,
            min_quantity=to_decimal(limits["amount"]["min"] or 0),
            max_quantity=_decimal_or_none(limits["amount"]["max"]),
            # ccxt leaves KuCoin's minFunds out of its limits; it is in the raw row.
            min_notional=max(to_decimal(limits["cost"]["min"] or 0), _min_funds(info)),
            contract_size=to_decimal(row.get("contractSize") or 1),
            maker_fee=to_decimal(row.get("maker") or 0),
            taker_fee=to_decimal(row.get("taker") or 0),
        ),
        kind="SPOT" if row.get("spot") else "LINEAR_FUTURE",
        is_active=row.get("active") is not False,
        venue_info=json.loads(json.dumps(row, default=str)),
    )


def order_report(row: dict[str, Any], client_order_id: str | None = None) -> OrderReport:
    """``client_order_id``: whose order it must be, where that is known."""
    said = str(row.get("clientOrderId") or "")
    # An empty answer looks like an order without figures; without id or a status that we know it is none.
    if not row.get("id") or row.get("status") not in _OPEN | _CANCELED | _DONE:
        raise ExchangeUnavailable("the venue answered a look-up with something that is not an order")
    if client_order_id is not None and said not in ("", client_order_id):
        raise ExchangeUnavailable("the venue answered a look-up with something that is not the order")
    return OrderReport(
        exchange_order_id=str(row["id"]),
        client_order_id=client_order_id or said,
        symbol=str(row["symbol"]),
        side=Side(str(row["side"]).upper()),
        quantity=_decimal_or_none(row.get("amount")),
        filled=to_decimal(row.get("filled") or 0),
        filled_quote=to_decimal(row.get("cost") or 0),
        is_open=row["status"] in _OPEN,
        is_canceled=row["status"] in _CANCELED,
        order_type=OrderType.LIMIT if row.get("type") == "limit" else OrderType.MARKET,
        price=_decimal_or_none(row.get("price")) if row.get("type") == "limit" else None,
        created_at=None if row.get("timestamp") is None else time_at(row["timestamp"]),
        is_liquidation=(row.get("info") or {}).get("tradeType") in _LIQUIDATIONS,
    )


def fill_report(row: dict[str, Any], symbol: str) -> FillReport:
    fee = row.get("fee") or {}
    return FillReport(
        trade_id=str(row["id"]),
        exchange_order_id=str(row.get("order") or ""),
        symbol=symbol,
        side=Side(str(row["side"]).upper()),
        quantity=to_decimal(row["amount"]),
        price=to_decimal(row["price"]),
        fee=to_decimal(fee.get("cost") or 0),
        fee_currency=str(fee.get("currency") or ""),
        filled_at=time_at(row["timestamp"]),
    )


def trade_report(row: dict[str, Any]) -> TradeReport:
    """A trade between others. KuCoin numbers those of its spot markets and calls the number a sequence."""
    return TradeReport(
        trade_id=str(row.get("id") or row["info"]["sequence"]),
        at=time_at(row["timestamp"]),
        is_buy=Side(str(row["side"]).upper()) is Side.BUY,
        price=to_decimal(row["price"]),
        quantity=to_decimal(row["amount"]),
    )


def trade_age(trade: TradeReport) -> tuple[datetime, int, str]:
    """Oldest first; numbers that count up stay in their order at one time."""
    return trade.at, len(trade.trade_id), trade.trade_id


def order_age(order: OrderReport) -> tuple[datetime, int, str]:
    """Oldest first, and always the same way where the venue gives one time to several."""
    if order.created_at is None:
        raise ValueError("wanted the time an order was made, was nothing")
    return order.created_at, len(order.exchange_order_id), order.exchange_order_id


def fill_age(fill: FillReport) -> tuple[datetime, int, str]:
    """Oldest first; numbers that count up stay in their order at one time."""
    return fill.filled_at, len(fill.trade_id), fill.trade_id


def _step(precision: Any, is_in_places: bool) -> Decimal:
    return Decimal(1).scaleb(-int(precision)) if is_in_places else to_decimal(precision)


def _min_funds(info: Any) -> Decimal:
    return to_decimal((info.get("minFunds") if isinstance(info, dict) else None) or 0)


def _decimal_or_none(value: Any) -> Decimal | None:
    return None if value is None else to_decimal(value)
