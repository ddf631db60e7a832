"""What must hold whatever is traded: money is conserved to the last decimal, and the walk misses nothing."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.market import ZERO, Side
from simulator.accounts import account_set
from simulator.clock import wall_ms
from simulator.exchange import Exchange
from simulator.market import DEPTH_LEVELS
from simulator.orders import Order, OrderRequest
from simulator.prices import MINUTE_MS
from simulator.refusals import Refused
from tests.simulator.conftest import START_MS, made_exchange

ACCOUNTS = ("alice", "bob")
START = START_MS // MINUTE_MS

actions = st.one_of(
    st.tuples(st.just("market"), st.integers(1, 30_000), st.booleans()),
    st.tuples(st.just("funds"), st.integers(1, 5_000_000), st.booleans()),
    st.tuples(st.just("limit"), st.integers(1, 30_000), st.integers(-90, 90)),
    st.tuples(st.just("stop"), st.integers(1, 30_000), st.integers(-90, 90)),
    st.tuples(st.just("cancel"), st.integers(0, 50), st.booleans()),
    st.tuples(st.just("wait"), st.integers(1, 14_400), st.booleans()),
    st.tuples(st.just("pin"), st.integers(55_000, 65_000), st.booleans()),
)
steps = st.lists(st.tuples(st.sampled_from(ACCOUNTS), st.sampled_from(Side), actions), min_size=8, max_size=40)


def opened(exchange: Exchange, **balances: str) -> None:
    for key in ACCOUNTS:
        account_set(exchange, {"apiKey": key, "secret": "s", "passphrase": "p", "balances": balances})


def request(
    exchange: Exchange, side: Side, size: Decimal | None, price: Decimal | None, funds: Decimal | None = None
) -> OrderRequest:
    listing = exchange.market.listings["BTC-USDT"]
    return OrderRequest(listing, side, price is not None, size, funds, price, client_oid="")


def perform(exchange: Exchange, key: str, side: Side, action: tuple[str, int, int]) -> None:
    """One step of a random story; a refusal is an ordinary ending of it."""
    kind, amount, extra = action
    account, now_ms = exchange.books.accounts[key], exchange.advance()
    listing = exchange.market.listings["BTC-USDT"]
    size = Decimal(amount).scaleb(-5)
    price = listing.price_at(now_ms) + Decimal(extra)
    with contextlib.suppress(Refused):
        if kind == "market":
            exchange.place(account, request(exchange, side, size, None), now_ms, wall_ms())
        elif kind == "funds":
            funds = Decimal(amount).scaleb(-2) + Decimal("0.000001")
            exchange.place(account, request(exchange, side, None, None, funds), now_ms, wall_ms())
        elif kind == "limit":
            exchange.place(account, request(exchange, side, size, price), now_ms, wall_ms())
        elif kind == "stop":
            exchange.place_stop(account, request(exchange, side, size, None), price, extra > 0, now_ms, wall_ms())
        elif kind == "cancel":
            orders = list(account.orders.values())
            exchange.cancel(orders[amount % len(orders)] if orders else None, now_ms)
        elif kind == "wait":
            exchange.clock.jump_to(now_ms + amount * 1000)
        else:
            exchange.pin(listing, Decimal(amount))


def expected_totals(exchange: Exchange) -> dict[tuple[str, str], Decimal]:
    """What deposits and fills alone say that everybody owns."""
    totals: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for deposit in exchange.books.deposits:
        totals[deposit.account.api_key, deposit.currency] += deposit.amount
    for fill in exchange.books.fills:
        key, sign = fill.order.account.api_key, fill.order.request.side.sign
        totals[key, "BTC"] += sign * fill.size
        totals[key, "USDT"] -= sign * fill.price * fill.size + fill.fee
    return totals


def expected_holds(orders: list[Order], key: str) -> dict[str, Decimal]:
    """What live orders have to reserve."""
    holds = {"BTC": ZERO, "USDT": ZERO}
    for order in orders:
        if order.is_active and order.account.api_key == key:
            assert order.request.price is not None
            if order.request.side is Side.SELL:
                holds["BTC"] += order.remain_size
            else:
                holds["USDT"] += order.remain_size * order.request.price * Decimal("1.001")
    return holds


@settings(max_examples=150, deadline=None)
@given(story=steps)
def test_money_is_conserved_to_the_last_decimal(story: list[tuple[str, Side, tuple[str, int, int]]]) -> None:
    exchange = made_exchange("BTC-USDT")
    opened(exchange, USDT="20000", BTC="0.3")

    for key, side, action in story:
        perform(exchange, key, side, action)
    exchange.advance()

    totals = expected_totals(exchange)
    for key in ACCOUNTS:
        balances = exchange.books.accounts[key].balances
        assert {name: balance.total for name, balance in balances.items()} == {
            name: totals[key, name] for name in ("USDT", "BTC")
        }
        assert {name: balance.holds for name, balance in balances.items()} == expected_holds(exchange.books.orders, key)
        assert all(balance.available >= 0 for balance in balances.values())


@settings(max_examples=150, deadline=None)
@given(story=steps)
def test_every_order_adds_up(story: list[tuple[str, Side, tuple[str, int, int]]]) -> None:
    exchange = made_exchange("BTC-USDT")
    opened(exchange, USDT="20000", BTC="0.3")

    for key, side, action in story:
        perform(exchange, key, side, action)
    exchange.advance()

    for order in exchange.books.orders:
        fills = order.account.fills_of.get(order.id, [])
        assert order.deal_size == sum((fill.size for fill in fills), ZERO)
        assert order.deal_funds == sum((fill.price * fill.size for fill in fills), ZERO)
        assert order.fee == sum((fill.fee for fill in fills), ZERO)
        if order.request.size is not None:
            assert order.deal_size + order.cancelled_size + order.remain_size == order.request.size
            assert order.is_active or order.remain_size == 0
        elif order.request.funds is not None:
            assert order.deal_funds + order.cancelled_funds == order.request.funds
        assert order.is_canceled is bool(order.cancelled_size or order.cancelled_funds)
        times = [order.created_at_ms, *(fill.at_ms for fill in fills), order.updated_at_ms]
        assert times == sorted(times)


@settings(max_examples=60, deadline=None)
@given(
    closes=st.lists(st.integers(900, 1_100), min_size=2, max_size=60),
    limit=st.integers(900, 1_000),
    jumps=st.lists(st.integers(1, 30 * MINUTE_MS), max_size=5),
)
def test_a_limit_fills_however_the_clock_is_stepped_exactly_when_a_candle_reaches_it(
    closes: list[int], limit: int, jumps: list[int]
) -> None:
    exchange = made_exchange("BTC-USDT", slippage="0")
    opened(exchange, USDT="20000")
    listing = exchange.market.listings["BTC-USDT"]
    rows, before = [], Decimal(1_000)
    for number, close in enumerate(map(Decimal, closes)):
        extremes = max(before, close) + 1, min(before, close) - 1
        rows.append(((START + number) * MINUTE_MS, before, *extremes, close, 1.0))
        before = close
    exchange.script(listing, rows)
    alice = exchange.books.accounts["alice"]
    placed = exchange.place(alice, request(exchange, Side.BUY, Decimal(1), Decimal(limit)), START_MS, 0)

    for jump in jumps:
        exchange.clock.jump_to(exchange.clock.now_ms() + jump)
        exchange.advance()
    exchange.clock.jump_to(max(exchange.clock.now_ms(), START_MS + len(closes) * MINUTE_MS))
    exchange.advance()

    reached = [number for number, row in enumerate(rows) if row[3] <= limit]
    fills = exchange.books.fills
    assert placed is not None
    assert bool(fills) is bool(reached)
    if fills:
        first = START_MS + reached[0] * MINUTE_MS
        assert first <= fills[0].at_ms <= first + MINUTE_MS
        assert fills[0].price == limit


def test_a_month_of_quiet_minutes_is_walked_at_once_and_the_order_at_its_end_is_met() -> None:
    exchange = made_exchange("BTC-USDT")
    opened(exchange, USDT="20000")
    listing = exchange.market.listings["BTC-USDT"]
    flat = [(START_MS + number * MINUTE_MS, *(Decimal(1_000),) * 4, 1.0) for number in range(43_200)]
    dip = (START_MS + 43_200 * MINUTE_MS, Decimal(1_000), Decimal(1_000), Decimal(940), Decimal(940), 1.0)
    exchange.script(listing, [*flat, dip])
    alice = exchange.books.accounts["alice"]
    exchange.place(alice, request(exchange, Side.BUY, Decimal(1), Decimal(950)), START_MS, 0)

    exchange.clock.jump_to(START_MS + 43_201 * MINUTE_MS)
    exchange.advance()

    [fill] = exchange.books.fills
    assert (fill.price, fill.at_ms) == (Decimal(950), START_MS + 43_200 * MINUTE_MS + 15_000 + 25_000)


def test_orders_on_one_path_fill_in_the_order_in_which_it_meets_them() -> None:
    exchange = made_exchange("BTC-USDT")
    opened(exchange, USDT="20000", BTC="1")
    listing = exchange.market.listings["BTC-USDT"]
    candle = (START_MS, Decimal(1_000), Decimal(1_050), Decimal(960), Decimal(1_010), 1.0)  # low first: it rises
    exchange.script(listing, [candle])
    alice = exchange.books.accounts["alice"]
    for side, price in ((Side.SELL, 1_040), (Side.BUY, 980), (Side.SELL, 1_020), (Side.BUY, 970)):
        exchange.place(alice, request(exchange, side, Decimal("0.1"), Decimal(price)), START_MS, 0)

    exchange.clock.jump_to(START_MS + MINUTE_MS)
    exchange.advance()

    assert [int(fill.price) for fill in exchange.books.fills] == [980, 970, 1_020, 1_040]
    times = [fill.at_ms for fill in exchange.books.fills]
    assert times == sorted(times)


def test_a_stop_limit_that_fires_on_the_way_up_does_not_buy_below_before_the_price_comes_back() -> None:
    exchange = made_exchange("BTC-USDT")
    opened(exchange, USDT="20000")
    listing = exchange.market.listings["BTC-USDT"]
    candles = [
        (START_MS, Decimal(1_000), Decimal(1_060), Decimal(1_000), Decimal(1_060), 1.0),
        (START_MS + MINUTE_MS, Decimal(1_060), Decimal(1_060), Decimal(1_015), Decimal(1_015), 1.0),
    ]
    exchange.script(listing, candles)
    alice = exchange.books.accounts["alice"]
    wanted = request(exchange, Side.BUY, Decimal(1), Decimal(1_020))
    exchange.place_stop(alice, wanted, Decimal(1_030), True, START_MS, 0)

    exchange.clock.jump_to(START_MS + MINUTE_MS)
    exchange.advance()
    after_the_rise = len(exchange.books.fills)
    exchange.clock.jump_to(START_MS + 2 * MINUTE_MS)
    exchange.advance()

    assert after_the_rise == 0
    assert [fill.price for fill in exchange.books.fills] == [1_020]


def test_an_order_that_fires_and_expires_inside_one_step_of_the_clock_does_not_fill_after_its_end() -> None:
    exchange = made_exchange("BTC-USDT")
    opened(exchange, USDT="20000")
    listing = exchange.market.listings["BTC-USDT"]
    closes = [Decimal(close) for close in (1_000, 1_040, 1_040, 1_000)]
    rows = [
        (START_MS + number * MINUTE_MS, before, max(before, close), min(before, close), close, 1.0)
        for number, (before, close) in enumerate(zip([closes[0], *closes], closes, strict=False))
    ]
    exchange.script(listing, rows)
    alice = exchange.books.accounts["alice"]
    wanted = request(exchange, Side.BUY, Decimal(1), Decimal(1_020))
    wanted.time_in_force, wanted.cancel_after_s = "GTT", 60
    exchange.place_stop(alice, wanted, Decimal(1_030), True, START_MS, 0)

    exchange.clock.jump_to(START_MS + 5 * MINUTE_MS)  # it fires in the second minute; the price is back in the fourth
    exchange.advance()

    [order] = exchange.books.orders
    assert exchange.books.fills == []
    assert (order.is_canceled, order.cancelled_size) == (True, Decimal(1))


@pytest.mark.parametrize(("close", "limit", "side"), [(1_050, 1_010, Side.BUY), (950, 990, Side.SELL)])
def test_an_order_inside_the_spread_fills_at_its_own_price_though_the_price_moves_away(
    close: int, limit: int, side: Side
) -> None:
    exchange = made_exchange("BTC-USDT", slippage="0.005")
    opened(exchange, USDT="20000", BTC="1")
    listing = exchange.market.listings["BTC-USDT"]
    prices = Decimal(1_000), Decimal(max(1_000, close)), Decimal(min(1_000, close)), Decimal(close)
    exchange.script(listing, [(START_MS, *prices, 1.0)])
    alice = exchange.books.accounts["alice"]
    exchange.clock.jump_to(START_MS + 20_000)  # on the straight line from 1,000 to the close
    now_ms = exchange.advance()
    placed = exchange.place(alice, request(exchange, side, Decimal(1), Decimal(limit)), now_ms, 0)
    assert placed is not None
    was_resting = placed.is_resting

    exchange.clock.jump_to(START_MS + MINUTE_MS)
    exchange.advance()

    assert was_resting
    assert [fill.price for fill in exchange.books.fills] == [limit]


def test_the_book_gets_worse_and_never_ends() -> None:
    exchange = made_exchange("BTC-USDT")
    listing = exchange.market.listings["BTC-USDT"]

    asks, bids = (list(listing.levels(side, Decimal(60_000))) for side in Side)

    assert [price for price, _ in asks] == sorted(price for price, _ in asks)
    assert [price for price, _ in bids] == sorted((price for price, _ in bids), reverse=True)
    assert (asks[0][0], bids[0][0]) == (Decimal(60_003), Decimal(59_997))
    assert len(asks) == DEPTH_LEVELS + 1
    assert asks[-1][1] == listing.rules.base_max_size
