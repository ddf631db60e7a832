"""The venue closes, drops a market, or its clock goes wrong: held or refused with a reason, and well again by itself."""

from __future__ import annotations

from chaos.scenarios import scenario
from chaos.scenarios.acts import leave, let_go_by
from chaos.scenarios.exchange_life import resting_order
from chaos.world import World
from domain.orders import Denial, OrderStatus
from exchanges.models import Market
from exchanges.services import exchange_sync, quotes_refresh
from sessions.models import SessionStatus

S = OrderStatus


@scenario("maintenance", rows=(44,), needs_stage=False)
def maintenance(stage: World) -> None:
    """The venue takes cancellations only, then nothing: what is open is cancelled, nothing is sent twice, and it goes on."""
    resting = resting_order(stage)
    stage.settings(status="cancelonly", statusMessage="maintenance")
    refused = stage.ready_order()
    stage.submit(refused)
    leave(stage, stage.position_of(resting).session)
    stage.expect_order(resting, S.CANCELED, accepted=1, sent=1)
    stage.settings(status="close", statusMessage="maintenance")
    let_go_by(stage, 0.3)
    stage.heal()
    after = stage.ready_order()
    stage.submit(after)
    stage.wait_order(after, S.CLOSED)
    stage.expect_order(after, S.CLOSED, accepted=1, sent=1)
    stage.wait_order(refused, S.REJECTED, S.NOT_PLACED, S.CLOSED, S.CANCELED)
    there = len(stage.orders_there(refused.account, clientOid=refused.client_order_id))
    refused.refresh_from_db()
    stage.expect(
        there == (refused.status == S.CLOSED), f"wanted {refused.status} to be true at the venue, were {there} orders"
    )


@scenario("market-delisted", rows=(45,), needs_stage=False)
def market_delisted(stage: World) -> None:
    """A market is no longer traded: orders on it are refused with a reason, and others do not mind."""
    stage.sim("symbols", symbol="OLD-USDT")
    exchange_sync(stage.exchange.pk)
    quotes_refresh(stage.exchange.pk, ["OLD/USDT"])
    config = stage.config(stage.feed("OLD/USDT"))
    quantity = stage.market().min_quantity * 1000
    order = stage.ready_order(session=stage.session(config=config, status=SessionStatus.ACTIVE), quantity=quantity)
    other = stage.ready_order()
    stage.sim("symbols", symbol="OLD-USDT", isDelisted=True)
    stage.count("exchange")
    stage.submit(order, other)
    stage.wait_order(other, S.CLOSED)
    stage.wait_order(order, S.REJECTED, S.NOT_PLACED)
    exchange_sync(stage.exchange.pk)
    market = Market.objects.get(exchange=stage.exchange, symbol="OLD/USDT")
    stage.expect(not market.is_active, "wanted the market inactive, was active")
    late = stage.ready_order(
        session=stage.session(config=config, status=SessionStatus.ACTIVE),
        status=S.REQUESTED, quantity=None, valued_at=None,
    )  # fmt: skip
    stage.ring("money.value", order_ids=[late.pk])
    stage.wait_order(late, S.DENIED)
    late.refresh_from_db()
    stage.expect(late.reason == Denial.MARKET_NOT_TRADABLE, f"wanted MARKET_NOT_TRADABLE, was {late.reason}")


@scenario("clock-skew", rows=(48,), needs_stage=False)
def clock_skew(stage: World) -> None:
    """The venue's clock is twenty seconds off, then twenty the other way: its refusal tells by how much, and orders go."""
    orders = [stage.ready_order() for _ in range(2)]
    for order, offset in zip(orders, (20_000, -20_000), strict=True):
        stage.settings(clockOffsetMs=offset)
        stage.submit(order)
        stage.wait_order(order, S.CLOSED)
        stage.expect_order(order, S.CLOSED, accepted=1)
