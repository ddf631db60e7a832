"""ccxt's rows about markets of contracts as our reports: what is held, what funding was paid; and what an order there says.

Quantities are contracts, never negative; whoever calls this has told ccxt to leave numbers as the text they came in.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from domain.market import ZERO, MarginMode, PositionSide, to_decimal
from exchanges.ccxt_reports import time_at
from exchanges.gateway import FundingRateReport, FundingReport, OrderRejected, OrderTicket, PositionReport


def contracts_params(ticket: OrderTicket) -> dict[str, Any]:
    """What KuCoin's futures desk is told of any order, beside what every venue is."""
    leverage = ticket.leverage
    return {
        "clientOid": ticket.client_order_id,
        "leverage": int(leverage) if leverage == leverage.to_integral_value() else str(leverage),
        "marginMode": ticket.margin_mode.value,
        "reduceOnly": ticket.is_reduce_only,
    }


def contracts_margin(ccxt: Any, symbol: str, mode: MarginMode, leverage: Decimal) -> None:
    """Bring margin mode and cross leverage of a market at KuCoin's futures desk to these. It refuses another mode itself
    while anything is held or open there; another leverage it would give to what is held."""
    if str(ccxt.fetch_margin_mode(symbol)["marginMode"]).upper() != mode:
        ccxt.set_margin_mode(mode.value.lower(), symbol)
    if mode is not MarginMode.CROSS:
        return  # every order brings its own
    market = {"symbol": ccxt.market(symbol)["id"]}
    has = to_decimal(ccxt.futuresPrivateGetGetCrossUserLeverage(market)["data"]["leverage"])
    if has == leverage:
        return
    if ccxt.futuresPrivateGetPosition(market)["data"]["isOpen"]:
        raise OrderRejected(f"wanted a leverage of {leverage}, what is held there has {has}", code="LEVERAGE")
    ccxt.set_leverage(leverage, symbol, {"marginMode": "cross"})


def position_report(row: dict[str, Any]) -> PositionReport | None:
    """None for a row of a position that is closed: venues go on listing it for a while."""
    quantity = to_decimal(row.get("contracts") or 0)
    if not quantity:
        return None
    liquidation = to_decimal(row.get("liquidationPrice") or 0)
    return PositionReport(
        symbol=str(row["symbol"]),
        side=PositionSide(str(row["side"]).upper()),
        quantity=abs(quantity),
        entry_price=to_decimal(row["entryPrice"]),
        leverage=to_decimal(row.get("leverage") or 1),
        margin_mode=MarginMode(str(row.get("marginMode") or MarginMode.ISOLATED).upper()),
        # A position that the whole account stands for has none of its own; venues say 0 then.
        liquidation_price=liquidation if liquidation > ZERO else None,
    )


def funding_report(row: dict[str, Any]) -> FundingReport:
    return FundingReport(
        funding_id=str(row["id"]),
        symbol=str(row["symbol"]),
        amount=to_decimal(row["amount"]),
        currency=str(row["code"]),
        paid_at=time_at(row["timestamp"]),
    )


def funding_rate_report(row: dict[str, Any]) -> FundingRateReport:
    return FundingRateReport(at=time_at(row["timestamp"]), rate=to_decimal(row["fundingRate"]))


def funding_rates(venue: Any, symbol: str, since_ms: int, limit: int, until_ms: int) -> list[FundingRateReport]:
    """All rates from ``since_ms`` to ``until_ms``, oldest first, ``limit`` a page. Some venues give the newest of a span,
    some the oldest: back from the oldest seen until there is no news."""
    rates: dict[int, FundingRateReport] = {}
    while True:
        page = venue.fetch_funding_rate_history(symbol, since_ms, limit, {"until": until_ms})
        fresh = {int(row["timestamp"]): funding_rate_report(row) for row in page}
        is_news = not fresh.keys() <= rates.keys()
        rates |= fresh
        if not is_news or min(fresh) <= since_ms:
            return [rates[at] for at in sorted(rates)]
        until_ms = min(fresh) - 1


def funding_age(one: FundingReport) -> tuple[Any, int, str]:
    """Oldest first; numbers that count up stay in their order at one time."""
    return one.paid_at, len(one.funding_id), one.funding_id
