"""What an order, a waiting stop order and a fill are, and how KuCoin writes them."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from domain.market import ZERO, Side
from simulator.market import Listing
from simulator.rules import text

if TYPE_CHECKING:  # an account lists its orders and an order names its account
    from simulator.books import Account


@dataclass(slots=True, eq=False)
class OrderRequest:
    """An order as its sender described it, checked and in decimals; ``size`` and ``funds`` exclude each other."""

    listing: Listing
    side: Side
    is_limit: bool
    size: Decimal | None
    funds: Decimal | None
    price: Decimal | None
    client_oid: str
    time_in_force: str = "GTC"
    is_post_only: bool = False
    cancel_after_s: int = 0
    remark: str | None = None
    tags: str | None = None


class Order:
    """An accepted order. ``wire`` is its answer to every read, made once and again after a change."""

    __slots__ = (
        "account",
        "arrived_at_ms",
        "cancel_at_ms",
        "cancelled_funds",
        "cancelled_size",
        "created_at_ms",
        "deal_funds",
        "deal_size",
        "done_number",
        "fee",
        "fee_currency",
        "hold",
        "id",
        "is_active",
        "is_canceled",
        "is_resting",
        "number",
        "paused_until_ms",
        "request",
        "updated_at_ms",
        "versions",
        "_wire",
    )

    def __init__(
        self, number: int, order_id: str, account: Account, request: OrderRequest, at_ms: int, wall: int
    ) -> None:
        self.number = number
        self.id = order_id
        self.account = account
        self.request = request
        self.created_at_ms = at_ms
        self.updated_at_ms = at_ms
        self.arrived_at_ms = wall
        self.deal_size = ZERO
        self.deal_funds = ZERO
        self.cancelled_size = ZERO
        self.cancelled_funds = ZERO
        self.fee = ZERO
        self.fee_currency = request.listing.rules.quote
        self.hold = ZERO
        self.is_active = True
        self.is_canceled = False
        self.is_resting = False
        self.done_number = 0
        self.cancel_at_ms: int | None = None  # wall clock: when a cancel that was accepted takes effect
        self.paused_until_ms = 0  # market time: after a partial fill, its next chance
        self.versions: list[tuple[int, dict[str, Any]]] = []  # (wall ms, wire), kept while reads lag behind
        self._wire: dict[str, Any] | None = None

    @property
    def expires_at_ms(self) -> int | None:
        seconds = self.request.cancel_after_s
        return self.created_at_ms + seconds * 1000 if seconds else None

    @property
    def remain_size(self) -> Decimal:
        """What may still be filled; 0 for an order by funds, whose size is not known."""
        size = self.request.size
        return ZERO if size is None else size - self.deal_size - self.cancelled_size

    def touch(self, at_ms: int) -> None:
        self.updated_at_ms = at_ms
        self._wire = None

    def wire(self) -> dict[str, Any]:
        if self._wire is None:
            self._wire = self._made_wire()
        return self._wire

    def _made_wire(self) -> dict[str, Any]:
        request, rules = self.request, self.request.listing.rules
        funds = self._funds()
        remain_funds = ZERO if funds is None else funds - self.deal_funds - self.cancelled_funds
        return {
            "id": self.id,
            "clientOid": request.client_oid,
            "symbol": rules.symbol,
            "opType": "DEAL",
            "type": "limit" if request.is_limit else "market",
            "side": request.side.value.lower(),
            "price": text(request.price or ZERO),
            "size": text(request.size or ZERO),
            "funds": text(funds or ZERO),
            "dealSize": text(self.deal_size),
            "dealFunds": text(self.deal_funds),
            "remainSize": text(self.remain_size),
            "remainFunds": text(remain_funds),
            "cancelledSize": text(self.cancelled_size),
            "cancelledFunds": text(self.cancelled_funds),
            "fee": text(self.fee),
            "feeCurrency": self.fee_currency,
            "stp": None,
            "timeInForce": request.time_in_force,
            "postOnly": request.is_post_only,
            "hidden": False,
            "iceberg": False,
            "visibleSize": "0",
            "cancelAfter": request.cancel_after_s,
            "channel": "API",
            "remark": request.remark,
            "tags": request.tags,
            "cancelExist": self.is_canceled,
            "tradeType": "TRADE",
            "inOrderBook": self.is_resting and self.is_active,
            "active": self.is_active,
            "tax": "0",
            "createdAt": self.created_at_ms,
            "lastUpdatedAt": self.updated_at_ms,
        }

    def _funds(self) -> Decimal | None:
        """The quote amount that the order is about: given, or for a limit order size times price."""
        request = self.request
        if request.is_limit and request.price is not None and request.size is not None:
            return request.size * request.price
        return request.funds


class StopOrder:
    """An order that waits for its stop price; it reserves nothing until it becomes an ordinary order."""

    __slots__ = (
        "account",
        "arrived_at_ms",
        "created_at_ms",
        "fires_rising",
        "id",
        "is_active",
        "number",
        "order",
        "request",
        "status",
        "stop_price",
        "triggered_at_ms",
    )

    def __init__(
        self,
        number: int,
        order_id: str,
        account: Account,
        request: OrderRequest,
        stop_price: Decimal,
        fires_rising: bool,
        at_ms: int,
        wall: int,
    ) -> None:
        self.number = number
        self.id = order_id
        self.account = account
        self.request = request
        self.stop_price = stop_price
        self.fires_rising = fires_rising
        self.created_at_ms = at_ms
        self.arrived_at_ms = wall
        self.is_active = True
        self.status = "NEW"
        self.triggered_at_ms: int | None = None
        self.order: Order | None = None

    def wire(self) -> dict[str, Any]:
        request, rules = self.request, self.request.listing.rules
        return {
            "id": self.id,
            "symbol": rules.symbol,
            "userId": str(self.account.uid),
            "status": self.status,
            "type": "limit" if request.is_limit else "market",
            "side": request.side.value.lower(),
            "price": None if request.price is None else text(request.price),
            "size": None if request.size is None else text(request.size),
            "funds": None if request.funds is None else text(request.funds),
            "stp": None,
            "timeInForce": request.time_in_force,
            "cancelAfter": request.cancel_after_s or -1,
            "postOnly": request.is_post_only,
            "hidden": False,
            "iceberg": False,
            "visibleSize": None,
            "channel": "API",
            "clientOid": request.client_oid,
            "remark": request.remark,
            "tags": request.tags,
            "orderTime": self.created_at_ms * 1_000_000,
            "domainId": "kucoin",
            "tradeSource": "USER",
            "tradeType": "TRADE",
            "feeCurrency": rules.quote,
            "takerFeeRate": text(rules.taker_fee),
            "makerFeeRate": text(rules.maker_fee),
            "createdAt": self.created_at_ms,
            "stop": "entry" if self.fires_rising else "loss",
            "limitPrice": None,
            "pop": None,
            "activateCondition": None,
            "relatedNo": None,
            "stopTriggerTime": self.triggered_at_ms,
            "stopPrice": text(self.stop_price),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Fill:
    """One execution. ``trade_id`` is unique within its symbol only, as at KuCoin; ``number`` everywhere."""

    number: int
    trade_id: int
    order: Order
    is_maker: bool
    price: Decimal
    size: Decimal
    funds: Decimal
    fee: Decimal
    fee_currency: str
    fee_rate: Decimal
    at_ms: int
    arrived_at_ms: int  # wall clock
    realised: Decimal  # by a futures position; a spot fill realises nothing

    def wire(self) -> dict[str, Any]:
        request = self.order.request
        return {
            "id": self.number,
            "symbol": request.listing.rules.symbol,
            "tradeId": self.trade_id,
            "orderId": self.order.id,
            "counterOrderId": f"{self.number:024x}",
            "side": request.side.value.lower(),
            "liquidity": "maker" if self.is_maker else "taker",
            "forceTaker": False,
            "price": text(self.price),
            "size": text(self.size),
            "funds": text(self.funds),
            "fee": text(self.fee),
            "feeRate": text(self.fee_rate),
            "feeCurrency": self.fee_currency,
            "stop": "",
            "tradeType": "TRADE",
            "type": "limit" if request.is_limit else "market",
            "createdAt": self.at_ms,
            "tax": "0",
            "taxRate": "0",
        }
