"""Futures orders, fills, positions and accounts: what they hold and how KuCoin writes them."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_UP, Decimal
from typing import Any

from domain.market import ZERO, Side
from simulator.books import Account
from simulator.contracts import Contract
from simulator.market import Listing
from simulator.orders import Fill, Order, OrderRequest, StopOrder
from simulator.rules import text

UNIT = Decimal("0.0000000001")  # what amounts that a division made are rounded to
LIQUIDATION = "liquidation"  # the remark of an order that nobody placed


@dataclass(slots=True, eq=False)
class FuturesRequest(OrderRequest):
    """An order in contracts; ``stop_price_type`` is TP, MP or IP, which are all one price here."""

    leverage: Decimal = Decimal(1)
    is_cross: bool = False
    is_reduce_only: bool = False
    is_close: bool = False
    stop_price_type: str = ""

    @property
    def rules(self) -> Contract:
        return contract_of(self.listing)


def contract_of(listing: Listing) -> Contract:
    """The contract's rules; a listing of the futures desk has no others."""
    assert isinstance(listing.rules, Contract)
    return listing.rules


class FuturesOrder(Order):
    """An order of the futures desk; one that was a stop order goes on under its id and says so."""

    __slots__ = ()

    def _made_wire(self) -> dict[str, Any]:
        done_at = None if self.is_active else self.updated_at_ms
        average = ZERO
        if self.deal_size:
            average = self.deal_funds / (self.deal_size * self.request.listing.rules.multiplier)
        stop = self.account.stops.get(self.id)
        waited = {"stop": "", "stopPriceType": "", "stopTriggered": False, "stopPrice": None}
        if stop is not None:
            waited = {name: stop.wire()[name] for name in waited}
        return {
            **_order_wire(self.request, self.id, self.created_at_ms if stop is None else stop.created_at_ms),
            "dealValue": text(self.deal_funds),
            "dealSize": int(self.deal_size),
            **waited,
            "isActive": self.is_active,
            "cancelExist": self.is_canceled,
            "updatedAt": self.updated_at_ms,
            "endAt": done_at,
            "filledValue": text(self.deal_funds),
            "filledSize": int(self.deal_size),
            "avgDealPrice": text(average.quantize(UNIT)),
            "status": "open" if self.is_active else "done",
        }


class FuturesStop(StopOrder):
    """A stop order of the futures desk: ``up`` fires on a rise, ``down`` on a fall."""

    __slots__ = ()

    def wire(self) -> dict[str, Any]:
        assert isinstance(self.request, FuturesRequest)
        return {
            **_order_wire(self.request, self.id, self.created_at_ms),
            "dealValue": "0",
            "dealSize": 0,
            "stop": "up" if self.fires_rising else "down",
            "stopPriceType": self.request.stop_price_type,
            "stopTriggered": True if self.status == "TRIGGERED" else None,
            "stopPrice": text(self.stop_price),
            "isActive": self.is_active,
            "cancelExist": self.status == "CANCELED",
            "updatedAt": self.triggered_at_ms or self.created_at_ms,
            "endAt": None,
            "filledValue": "0",
            "filledSize": 0,
            "avgDealPrice": "0",
            "status": "open" if self.is_active else "done",
        }


def _order_wire(request: OrderRequest, order_id: str, created_at_ms: int) -> dict[str, Any]:
    assert isinstance(request, FuturesRequest)
    rules = request.rules
    size, price = request.size or ZERO, request.price
    return {
        "id": order_id,
        "symbol": rules.symbol,
        "type": "limit" if request.is_limit else "market",
        "side": request.side.value.lower(),
        "price": None if price is None else text(price),
        "size": int(size),
        "value": text((price or ZERO) * size * rules.multiplier),
        "stp": "",
        "timeInForce": request.time_in_force,
        "postOnly": request.is_post_only,
        "hidden": False,
        "iceberg": False,
        "leverage": text(request.leverage),
        "forceHold": False,
        "closeOrder": request.is_close,
        "visibleSize": None,
        "clientOid": request.client_oid,
        "remark": request.remark,
        "tags": request.tags or "",
        "createdAt": created_at_ms,
        "orderTime": created_at_ms * 1_000_000,
        "settleCurrency": rules.quote,
        "marginMode": "CROSS" if request.is_cross else "ISOLATED",
        "positionSide": "BOTH",
        "reduceOnly": request.is_reduce_only,
        "tradeType": _trade_type(request),
    }


def _trade_type(request: OrderRequest) -> str:
    return "liquid" if request.remark == LIQUIDATION else "trade"


@dataclass(frozen=True, slots=True, eq=False)
class FuturesFill(Fill):
    """A fill of the futures desk; ``realised`` is the profit that it took on what it closed."""

    def wire(self) -> dict[str, Any]:
        request = self.order.request
        assert isinstance(request, FuturesRequest)
        return {
            "symbol": request.rules.symbol,
            "tradeId": str(self.trade_id),
            "orderId": self.order.id,
            "side": request.side.value.lower(),
            "liquidity": "maker" if self.is_maker else "taker",
            "forceTaker": False,
            "price": text(self.price),
            "size": int(self.size),
            "value": text(self.funds),
            "feeRate": text(self.fee_rate),
            "fixFee": "0",
            "feeCurrency": self.fee_currency,
            "stop": "",
            "fee": text(self.fee),
            "openFeePay": text(ZERO if self.realised else self.fee),
            "closeFeePay": text(self.fee if self.realised else ZERO),
            "orderType": "limit" if request.is_limit else "market",
            "tradeType": _trade_type(request),
            "subTradeType": None,
            "displayType": "limit" if request.is_limit else "market",
            "marginMode": "CROSS" if request.is_cross else "ISOLATED",
            "settleCurrency": request.rules.quote,
            "tradeTime": self.at_ms * 1_000_000,
            "createdAt": self.at_ms,
        }


class Position:
    """One account's contracts on one symbol, in one direction at a time (KuCoin's one-way mode).

    ``quantity`` is negative for a short; ``cost`` is what the open contracts were opened for; ``margin`` is what they
    reserve of the wallet.
    """

    def __init__(self, number: int, account: FuturesAccount, listing: Listing) -> None:
        self.number = number
        self.account = account
        self.listing = listing
        self.quantity = ZERO
        self.cost = ZERO
        self.margin = ZERO
        self.leverage = Decimal(1)
        self.is_cross = False
        self.realised = ZERO
        self.commission = ZERO
        self.funding = ZERO
        self.opened_at_ms = 0

    @property
    def rules(self) -> Contract:
        return contract_of(self.listing)

    def unrealised(self, price: Decimal) -> Decimal:
        value = self.quantity * price * self.rules.multiplier
        return value - (self.cost if self.quantity > 0 else -self.cost)

    def maintenance(self, price: Decimal) -> Decimal:
        return abs(self.quantity) * price * self.rules.multiplier * self.rules.maintain_margin

    def reducible_by(self, side: Side) -> Decimal:
        """How many contracts an order on ``side`` can close."""
        return abs(self.quantity) if self.quantity * side.sign < 0 else ZERO

    def liquidation_price(self) -> Decimal | None:
        """Where an isolated position's margin has shrunk to the maintenance margin, on a tick on the safe side."""
        rate = self.rules.maintain_margin
        return self._on_tick(1 - rate, 1 + rate)

    def bankruptcy_price(self) -> Decimal | None:
        """Where its margin is gone altogether."""
        return self._on_tick(Decimal(1), Decimal(1))

    def _on_tick(self, long_factor: Decimal, short_factor: Decimal) -> Decimal | None:
        units, tick = abs(self.quantity) * self.rules.multiplier, self.rules.price_increment
        if not units:
            return None
        if self.quantity > 0:
            exact, rounding = (self.cost - self.margin) / (units * long_factor), ROUND_CEILING
        else:
            exact, rounding = (self.cost + self.margin) / (units * short_factor), ROUND_FLOOR
        price = (exact / tick).to_integral_value(rounding=rounding) * tick
        return price if price > 0 else None

    def wire(self, price: Decimal, now_ms: int) -> dict[str, Any]:
        """KuCoin's row, at mark price ``price``."""
        rules, units = self.rules, abs(self.quantity) * self.rules.multiplier
        unrealised, value = self.unrealised(price), self.quantity * price * rules.multiplier
        signed_cost = self.cost if self.quantity >= 0 else -self.cost
        liquidation, bankruptcy = (ZERO, ZERO) if self.is_cross else (self.liquidation_price(), self.bankruptcy_price())
        maintenance = self.maintenance(price)
        return {
            "id": f"{self.number:024x}",
            "symbol": rules.symbol,
            "autoDeposit": False,
            "crossMode": self.is_cross,
            "marginMode": "CROSS" if self.is_cross else "ISOLATED",
            "positionSide": "BOTH",
            "maintMarginReq": float(rules.maintain_margin),
            "riskLimit": 1_000_000,
            "realLeverage": float(self.leverage),
            "leverage": float(self.leverage),
            "delevPercentage": 0.0,
            "openingTimestamp": self.opened_at_ms,
            "currentTimestamp": now_ms,
            "currentQty": int(self.quantity),
            "currentCost": float(signed_cost),
            "currentComm": float(self.commission),
            "unrealisedCost": float(signed_cost),
            "realisedGrossCost": float(-self.realised),
            "realisedCost": float(self.commission - self.realised - self.funding),
            "isOpen": bool(self.quantity),
            "markPrice": float(price),
            "markValue": float(value),
            "posCost": float(signed_cost),
            "posCross": 0.0,
            "posCrossMargin": 0,
            "posInit": float(self.margin),
            "posComm": 0.0,
            "posCommCommon": 0.0,
            "posLoss": 0.0,
            "posFunding": float(self.funding),
            "posMargin": float(self.margin),
            "posMaint": float(maintenance),
            "maintMargin": float(self.margin + unrealised),
            "maintainMargin": float(rules.maintain_margin),
            "realisedGrossPnl": float(self.realised),
            "realisedPnl": float(self.realised - self.commission + self.funding),
            "unrealisedPnl": float(unrealised),
            "unrealisedPnlPcnt": float(round(unrealised / self.cost, 4)) if self.cost else 0.0,
            "unrealisedRoePcnt": float(round(unrealised / self.margin, 4)) if self.margin else 0.0,
            "avgEntryPrice": float(round(self.cost / units, 10)) if units else 0.0,
            "liquidationPrice": float(liquidation or 0),
            "bankruptPrice": float(bankruptcy or 0),
            "settleCurrency": rules.quote,
            "isInverse": False,
        }


class FuturesAccount(Account):
    """The futures side of an API key: its own wallet, orders and positions. ``balance().total`` is the wallet."""

    def __init__(self, owner: Account) -> None:
        super().__init__(
            owner.uid, owner.api_key, owner.credentials, owner.permissions, owner.ip_whitelist, owner.created_at_ms
        )
        self.positions: dict[str, Position] = {}
        self.is_cross_on: dict[str, bool] = {}  # margin mode by symbol, where it was ever chosen
        self.cross_leverage: dict[str, Decimal] = {}

    def open_positions(self, currency: str | None = None) -> list[Position]:
        return [one for one in self.positions.values() if one.quantity and currency in (None, one.listing.rules.quote)]

    def funds(self, currency: str, now_ms: int) -> tuple[Decimal, Decimal, Decimal]:
        """(available, unrealised profit, margin of positions): a loss of cross positions lessens what is available."""
        margin = unrealised = cross = ZERO
        for position in self.open_positions(currency):
            gain = position.unrealised(position.listing.price_at(now_ms))
            margin += position.margin
            unrealised += gain
            cross += gain if position.is_cross else ZERO
        return self.balance(currency).available - margin + min(cross, ZERO), unrealised, margin


@dataclass(frozen=True, slots=True, eq=False)
class Funding:
    """What a position paid (or, positive, got) when funding fell due."""

    number: int
    account: FuturesAccount
    symbol: str
    at_ms: int
    rate: Decimal
    quantity: Decimal
    price: Decimal
    cost: Decimal
    amount: Decimal
    currency: str

    def wire(self) -> dict[str, Any]:
        return {
            "id": self.number,
            "symbol": self.symbol,
            "timePoint": self.at_ms,
            "fundingRate": float(self.rate),
            "markPrice": float(self.price),
            "positionQty": int(self.quantity),
            "positionCost": float(self.cost),
            "funding": float(self.amount),
            "settleCurrency": self.currency,
            "context": "",
            "marginMode": "ISOLATED",
        }


def margin_for(value: Decimal, leverage: Decimal) -> Decimal:
    """What opening contracts worth ``value`` reserves."""
    return (value / leverage).quantize(UNIT, rounding=ROUND_UP)
