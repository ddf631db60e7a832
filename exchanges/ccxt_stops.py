"""Stop orders where a venue keeps those that wait for their price apart from all others.

Such a venue shows them by calls of their own, under ids of their own perhaps, makes an ordinary order of one whose price is
met, and may forget one that is cancelled. What links the two is our client order id. A row of ``exchanges.venues`` says which
venue does so; any other is given no stop orders, because they could not be looked up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import count
from typing import Any

from domain.market import OrderType, Trigger
from exchanges.ccxt_contracts import contracts_params
from exchanges.ccxt_reports import order_age, order_report, time_at
from exchanges.gateway import ExchangeUnavailable, OrderReport, OrderTicket
from exchanges.paging import Row

# By the venue's clock: for so long after its price was met the order that a stop order became may not be shown yet.
BECOMES_WITHIN = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class StopShown:
    """A stop order as it is kept: it waits, or its end without an order is known, or its price was met at ``met_at`` (the
    venue's time) and it is an order now, to be looked for among the others."""

    report: OrderReport
    met_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Stops:
    """How a venue keeps its stop orders, each call given ccxt's exchange.

    ``order_params`` says to ccxt what a ticket waits for. ``find`` looks by symbol and our client order id; None where the
    venue keeps none. ``waiting`` lists a symbol's. ``cancel`` asks by symbol and the venue's id, and tells whether the venue
    says that it is gone. ``refuses_late_requests`` as for other orders.
    """

    order_params: Callable[[OrderTicket], dict[str, Any]]
    find: Callable[[Any, str, str], StopShown | None]
    waiting: Callable[[Any, str], list[OrderReport]]
    cancel: Callable[[Any, str, str], bool]
    refuses_late_requests: bool = False


# -- lists by pages -----------------------------------------------------------------------------------------------------


def _waiting_by_page(ccxt: Any, symbol: str, size: int) -> list[OrderReport]:
    rows: dict[str, Row] = {}
    for number in count(1):
        paging = {"trigger": True, "pageSize": size, "currentPage": number}
        page = {str(row["id"]): row for row in ccxt.fetch_open_orders(symbol, None, None, paging)}
        is_last = len(page) < size or page.keys() <= rows.keys()
        rows |= page
        if is_last:
            break
    reports = [replace(order_report(row), order_type=OrderType.STOP, is_waiting=True) for row in rows.values()]
    return sorted(reports, key=order_age)


# -- KuCoin -------------------------------------------------------------------------------------------------------------

# The most that one page of its list may have.
_KUCOIN_PAGE = 500


def _kucoin_order_params(ticket: OrderTicket) -> dict[str, Any]:
    # No clientTimestamp: of a stop order the venue documents none, and a word that it may ignore must not be counted on.
    return {
        "clientOid": ticket.client_order_id,
        "triggerPrice": str(ticket.stop_price),
        "stop": "loss" if ticket.trigger is Trigger.FALLING else "entry",
    }


def _kucoin_find(ccxt: Any, symbol: str, client_order_id: str) -> StopShown | None:
    market = ccxt.market(symbol)
    answer = ccxt.privateGetStopOrderQueryOrderByClientOid({"clientOid": client_order_id, "symbol": market["id"]})
    infos = answer["data"]
    if not isinstance(infos, list):
        raise TypeError(f"wanted a list of stop orders, was {type(infos).__name__}")
    if not infos:
        return None
    info = infos[0]
    status = info["status"]
    # Its own word decides: ccxt would call one whose price was met cancelled.
    row = {**ccxt.parse_order(info, market), "status": "open" if status in ("NEW", "TRIGGERED") else "canceled"}
    report = replace(order_report(row, client_order_id), order_type=OrderType.STOP, is_waiting=status == "NEW")
    return StopShown(
        report, time_at(info.get("stopTriggerTime") or info["createdAt"]) if status == "TRIGGERED" else None
    )


def _kucoin_cancel(ccxt: Any, symbol: str, exchange_order_id: str) -> bool:
    answer = ccxt.cancel_order(exchange_order_id, symbol, {"trigger": True})
    return exchange_order_id in answer["info"]["cancelledOrderIds"]


KUCOIN_STOPS = Stops(_kucoin_order_params, _kucoin_find, partial(_waiting_by_page, size=_KUCOIN_PAGE), _kucoin_cancel)


# -- KuCoin's contracts -------------------------------------------------------------------------------------------------
#
# Documented: "up" fires at or above the stop price and "down" at or below it, "TP" watches the last traded price; nothing is
# held back for one that waits; a look-up by our id or the venue's, and a cancellation by the venue's, take it for an order
# like any other, while the list of orders at work does not show it; one that was met is among the ordinary orders; an order
# that only reduces is cut to what is held then. At most 50 may wait on a contract.
# Assumed, for it is written nowhere: what was met keeps its id and its time of making. Should it get an id of its own all the
# same, the row that waited shows neither a fill nor a cancellation: then it is called unknown, and the account's lists, which
# are read every minute, show what it became by our client order id.
# Not relied upon: whether one that was cancelled is remembered, for "not found" is counted as at the spot desk; and that the
# answer to a cancellation means that it is done, for it says only that the request has come.

_CONTRACTS_PAGE = 1000


def _contracts_order_params(ticket: OrderTicket) -> dict[str, Any]:
    return {
        **contracts_params(ticket),
        # ccxt would take the direction from the side of the order, and the mark price: what is said last counts.
        "stop": "down" if ticket.trigger is Trigger.FALLING else "up",
        "stopPrice": str(ticket.stop_price),
        "stopPriceType": "TP",
    }


def _contracts_find(ccxt: Any, symbol: str, client_order_id: str) -> StopShown:
    row = ccxt.fetch_order(None, symbol, {"clientOrderId": client_order_id})
    report, info = order_report(row, client_order_id), row["info"]
    if info.get("stop") in ("up", "down") and not info.get("stopTriggered") and not report.filled:
        return StopShown(
            replace(report, order_type=OrderType.STOP, is_waiting=report.is_open, is_canceled=not report.is_open)
        )
    if not (report.is_open or report.is_canceled or report.filled):
        raise ExchangeUnavailable("the stop price was met, and the order that came of it is not shown", is_answer=True)
    return StopShown(report)


def _contracts_cancel(ccxt: Any, symbol: str, exchange_order_id: str) -> bool:
    ccxt.cancel_order(exchange_order_id, symbol)
    return False


KUCOIN_FUTURES_STOPS = Stops(
    _contracts_order_params, _contracts_find, partial(_waiting_by_page, size=_CONTRACTS_PAGE), _contracts_cancel,
    # Signed with the time of the claim, as every order there.
    refuses_late_requests=True,
)  # fmt: skip
