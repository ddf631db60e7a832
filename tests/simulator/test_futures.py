"""Perpetual contracts through ccxt: margin, leverage, reduce-only, stops, funding, liquidation; the wallet balances."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import ccxt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.market import ZERO, Side
from simulator.accounts import account_set
from simulator.exchange import Exchange
from simulator.positions import FuturesAccount, FuturesRequest
from simulator.refusals import Refused
from tests.simulator.conftest import KEY, PASSPHRASE, SECRET, START_MS, Simulator, made_exchange

BTC = "BTC/USDT:USDT"  # a contract is 0.001 BTC: 60 USDT at 60,000
Start = Callable[..., Simulator]


@pytest.fixture
def simulator(start_with: Start) -> Simulator:
    """Without slippage, the price at 60,000."""
    running = start_with(made_exchange("BTC-USDT", "ETH-USDT", slippage="0"))
    running.pin("60000")
    return running


@pytest.fixture
def alice(simulator: Simulator) -> ccxt.kucoin:
    """1,000 USDT in the futures wallet."""
    simulator.control("accounts", apiKey=KEY, secret=SECRET, passphrase=PASSPHRASE, futures={"USDT": "1000"})
    client = simulator.client()
    client.load_markets()
    return client


def wallet(simulator: Simulator) -> Decimal:
    return Decimal(simulator.oracle()["futures"]["balances"][KEY]["USDT"]["balance"])


def market(client: ccxt.kucoin, side: str, contracts: int, **params: Any) -> dict[str, Any]:
    params.setdefault("leverage", 10)
    order: dict[str, Any] = client.create_order(BTC, "market", side, contracts, None, params)
    return order


def position(client: ccxt.kucoin) -> dict[str, Any]:
    found: dict[str, Any] = client.fetch_position(BTC)
    return found


def is_balanced(oracle: dict[str, Any]) -> bool:
    """Whether the wallet is deposits + realised - fees + funding."""
    futures = oracle["futures"]
    total = sum((Decimal(row["amount"]) for row in futures["deposits"]), ZERO)
    total += sum((Decimal(row["realised"]) - Decimal(row["fee"]) for row in futures["fills"]), ZERO)
    total += sum((Decimal(row["funding"]) for row in futures["funding"]), ZERO)
    return total == Decimal(futures["balances"][KEY]["USDT"]["balance"])


def test_ccxt_lists_the_contracts_with_their_rules(alice: ccxt.kucoin) -> None:
    market = alice.market(BTC)

    assert (market["id"], market["swap"], market["linear"], market["contractSize"]) == ("XBTUSDTM", True, True, 0.001)
    assert (market["precision"]["price"], market["limits"]["leverage"]["max"]) == (0.1, 100)
    assert (market["maker"], market["taker"]) == (0.0002, 0.0006)
    assert alice.fetch_ticker(BTC)["last"] == 60_000
    assert alice.fetch_order_book(BTC, 20)["asks"][0][0] == 60_000
    assert alice.fetch_mark_price(BTC)["markPrice"] == 60_000
    candles = alice.fetch_ohlcv(BTC, "1m", START_MS - 300_000, 5)
    assert [row[0] for row in candles] == [START_MS - n * 60_000 for n in (5, 4, 3, 2, 1)]


def test_a_position_is_opened_reduced_and_closed_for_its_profit(simulator: Simulator, alice: ccxt.kucoin) -> None:
    placed = market(alice, "buy", 10, clientOid="open")
    opened, funds = position(alice), alice.fetch_balance({"type": "swap"})["USDT"]
    simulator.pin("61000")
    gained = position(alice)["unrealizedPnl"]
    market(alice, "sell", 4)
    market(alice, "sell", 6)

    oracle = simulator.oracle()
    assert (opened["side"], opened["contracts"], opened["entryPrice"]) == ("long", 10, 60_000)
    assert (opened["leverage"], opened["initialMargin"]) == (10, 60)
    assert (funds["free"], funds["total"]) == (939.64, 999.64)
    assert gained == 10
    assert wallet(simulator) == 1000 - Decimal("0.36") - Decimal("0.366") + 10
    assert [fill["realised"] for fill in oracle["futures"]["fills"]] == ["0", "4", "6"]
    assert is_balanced(oracle)
    assert alice.fetch_positions() == []
    order = alice.fetch_order(placed["id"], BTC)
    assert (order["status"], order["filled"], order["average"], order["cost"]) == ("closed", 10, 60_000, 600)
    assert alice.fetch_order(None, BTC, {"clientOrderId": "open"})["id"] == placed["id"]
    trades = alice.fetch_my_trades(BTC)
    assert [(trade["side"], trade["amount"], trade["fee"]["cost"]) for trade in trades] == [
        ("buy", 10, 0.36),
        ("sell", 4, 0.1464),
        ("sell", 6, 0.2196),
    ]


def test_an_order_beyond_the_position_turns_it_around(simulator: Simulator, alice: ccxt.kucoin) -> None:
    market(alice, "buy", 4)
    simulator.pin("61000")

    market(alice, "sell", 10)

    turned = position(alice)
    assert (turned["side"], turned["contracts"], turned["entryPrice"]) == ("short", 6, 61_000)
    assert is_balanced(simulator.oracle())


def test_leverage_limits_what_can_be_opened(simulator: Simulator, alice: ccxt.kucoin) -> None:
    with pytest.raises(ccxt.InsufficientFunds, match="300003"):
        market(alice, "buy", 170, leverage=10)
    market(alice, "buy", 160, leverage=10)

    with pytest.raises(ccxt.ExchangeError, match="100001"):
        market(alice, "buy", 1, leverage=101)

    assert position(alice)["initialMargin"] == 960
    assert len(simulator.oracle()["futures"]["orders"]) == 1


def test_reduce_only_never_opens(simulator: Simulator, alice: ccxt.kucoin) -> None:
    with pytest.raises(ccxt.ExchangeError, match="300009"):
        market(alice, "sell", 1, reduceOnly=True)
    market(alice, "buy", 5)

    closing = market(alice, "sell", 50, reduceOnly=True)

    order = alice.fetch_order(closing["id"], BTC)
    assert (order["filled"], order["status"], order["reduceOnly"]) == (5, "canceled", True)
    assert alice.fetch_positions() == []


def test_a_resting_reduce_only_order_fills_no_more_than_the_position(simulator: Simulator, alice: ccxt.kucoin) -> None:
    market(alice, "buy", 5)
    target = alice.create_order(BTC, "limit", "sell", 5, 61_000, {"leverage": 10, "reduceOnly": True})
    market(alice, "sell", 3)

    simulator.pin("61000")

    order = alice.fetch_order(target["id"], BTC)
    assert (order["filled"], order["status"]) == (2, "canceled")
    assert alice.fetch_positions() == []
    assert is_balanced(simulator.oracle())


def test_a_limit_order_reserves_margin_and_gives_it_back(simulator: Simulator, alice: ccxt.kucoin) -> None:
    placed = alice.create_order(BTC, "limit", "buy", 10, 50_000, {"leverage": 5, "clientOid": "rests"})
    reserved = alice.fetch_balance({"type": "swap"})["USDT"]["free"]
    open_orders = alice.fetch_open_orders(BTC)

    alice.cancel_order(placed["id"], BTC)

    assert reserved == pytest.approx(1000 - 100 - 0.3)
    assert [order["clientOrderId"] for order in open_orders] == ["rests"]
    assert alice.fetch_balance({"type": "swap"})["USDT"]["free"] == 1000
    assert [order["id"] for order in alice.fetch_closed_orders(BTC)] == [placed["id"]]
    with pytest.raises(ccxt.BadRequest, match="100004"):
        alice.cancel_order(placed["id"], BTC)
    with pytest.raises(ccxt.OrderNotFound):
        alice.fetch_order("0123", BTC)


def test_a_stop_closes_the_position_when_the_price_reaches_it(simulator: Simulator, alice: ccxt.kucoin) -> None:
    market(alice, "buy", 10)
    stop = market(alice, "sell", 10, stopLossPrice=59_000)
    waiting = alice.fetch_open_orders(BTC, params={"stop": True})
    simulator.pin("59500")
    before = alice.fetch_positions()

    simulator.pin("58900")

    assert [order["id"] for order in waiting] == [stop["id"]]
    assert len(before) == 1
    assert alice.fetch_positions() == []
    order = alice.fetch_order(stop["id"], BTC)
    assert (order["status"], order["average"]) == ("closed", 58_900)
    assert wallet(simulator) == 1000 - 11 - Decimal("0.36") - Decimal("0.3534")


def test_an_order_brings_its_exits_along(simulator: Simulator, alice: ccxt.kucoin) -> None:
    exits = {"stopLoss": {"triggerPrice": 59_000}, "takeProfit": {"triggerPrice": 62_000}}
    alice.create_order(BTC, "market", "buy", 10, None, {"leverage": 10, **exits})

    simulator.pin("62000")

    assert alice.fetch_positions() == []
    assert wallet(simulator) == 1000 + 20 - Decimal("0.36") - Decimal("0.372")
    assert [stop["stop"] for stop in simulator.oracle()["futures"]["stopOrders"]] == ["up", "down"]


def test_close_order_needs_neither_side_nor_size(simulator: Simulator, alice: ccxt.kucoin) -> None:
    market(alice, "sell", 7)

    alice.futuresPrivatePostOrders({"clientOid": "close", "symbol": "XBTUSDTM", "type": "market", "closeOrder": True})

    assert alice.fetch_positions() == []
    assert alice.fetch_order(None, BTC, {"clientOrderId": "close"})["side"] == "buy"


def test_a_long_pays_a_short_every_eight_hours(simulator: Simulator, alice: ccxt.kucoin) -> None:
    simulator.control("symbols", symbol="XBTUSDTM", fundingRate="0.0005")
    market(alice, "buy", 10)
    rate = alice.fetch_funding_rate(BTC)

    simulator.control("clock", advance_s=86_400)

    history = alice.fetch_funding_history(BTC)
    assert rate["fundingRate"] == 0.0005
    assert [row["amount"] for row in history] == [-0.3, -0.3, -0.3]
    assert [row["datetime"][11:16] for row in history] == ["04:00", "20:00", "12:00"]
    assert wallet(simulator) == 1000 - Decimal("0.36") - Decimal("0.9")
    assert is_balanced(simulator.oracle())


@pytest.mark.parametrize(
    ("side", "at", "safe", "fatal"), [("buy", 54_271.4, "54271.5", "54271.4"), ("sell", 65_671.6, "65671.5", "65671.6")]
)
def test_a_position_is_liquidated_where_its_margin_is_used_up(
    simulator: Simulator, alice: ccxt.kucoin, side: str, at: float, safe: str, fatal: str
) -> None:
    market(alice, side, 100)
    announced = position(alice)["liquidationPrice"]
    simulator.pin(safe)
    before = alice.fetch_positions()

    simulator.pin(fatal)

    oracle = simulator.oracle()
    assert announced == pytest.approx(at, abs=0.2)
    assert len(before) == 1
    assert alice.fetch_positions() == []
    [_, forced] = oracle["futures"]["orders"]
    assert (forced["remark"], forced["side"]) == ("liquidation", "sell" if side == "buy" else "buy")
    assert is_balanced(oracle)


def test_a_gap_beyond_bankruptcy_costs_no_more_than_the_margin(simulator: Simulator, alice: ccxt.kucoin) -> None:
    market(alice, "buy", 100)

    simulator.pin("40000")

    fees = sum(Decimal(fill["fee"]) for fill in simulator.oracle()["futures"]["fills"])
    assert wallet(simulator) == 1000 - 600 - fees


def test_cross_positions_share_the_whole_wallet(simulator: Simulator, alice: ccxt.kucoin) -> None:
    alice.set_margin_mode("cross", BTC)
    alice.set_leverage(10, BTC)
    with pytest.raises(ccxt.ExchangeError, match="330005"):
        market(alice, "buy", 100)
    market(alice, "buy", 100, marginMode="cross")
    simulator.pin("54000")
    survived = position(alice)

    simulator.pin("50200")

    assert (survived["marginMode"], survived["contracts"], survived["leverage"]) == ("cross", 100, 10)
    assert alice.fetch_positions() == []
    assert is_balanced(simulator.oracle())


def test_money_moves_between_the_wallets(simulator: Simulator, alice: ccxt.kucoin) -> None:
    permissions = "General,Spot,Futures,InnerTransfer"
    simulator.control("accounts", apiKey=KEY, permissions=permissions, balances={"USDT": "50"})

    alice.transfer("USDT", 30, "hf", "swap")
    with pytest.raises(ccxt.InsufficientFunds):
        alice.transfer("USDT", 30, "hf", "swap")

    assert alice.fetch_balance()["USDT"]["total"] == 20
    assert alice.fetch_balance({"type": "swap"})["USDT"]["total"] == 1030
    assert is_balanced(simulator.oracle())


def test_a_key_without_the_permission_trades_no_futures(simulator: Simulator, alice: ccxt.kucoin) -> None:
    simulator.control("accounts", apiKey=KEY, permissions="General,Spot")

    with pytest.raises(ccxt.AuthenticationError, match="400007"):
        market(alice, "buy", 1)

    assert alice.fetch_positions() == []


action = st.tuples(
    st.sampled_from(["market", "limit", "reduce", "cancel", "wait", "move"]),
    st.sampled_from([Side.BUY, Side.SELL]),
    st.integers(1, 60),
    st.integers(-30, 30),
)


def act(exchange: Exchange, account: FuturesAccount, kind: str, side: Side, amount: int, offset: int) -> None:
    listing, now_ms = exchange.market.contracts["XBTUSDTM"], exchange.advance()
    price = listing.price_at(now_ms)
    near = price + offset * 50
    if kind == "wait":
        exchange.clock.jump_to(now_ms + amount * 3_600_000)
    elif kind == "move":
        exchange.pin(exchange.market.listings["BTC-USDT"], Decimal(50_000 + amount * 300))
    elif kind == "cancel":
        orders = list(account.orders.values())
        exchange.futures.cancel(orders[amount % len(orders)] if orders else None, now_ms)
    else:
        is_limit = kind == "limit"
        wanted = FuturesRequest(
            listing,
            side,
            is_limit,
            Decimal(amount),
            None,
            near if is_limit else None,
            "",
            leverage=Decimal(20),
            is_reduce_only=kind == "reduce",
        )
        exchange.futures.place(account, wanted, now_ms, 0)


@settings(max_examples=60, deadline=None)
@given(st.lists(action, max_size=25))
def test_the_wallet_is_what_deposits_fills_and_funding_say(steps: list[tuple[str, Side, int, int]]) -> None:
    exchange = made_exchange("BTC-USDT", slippage="0.0005")
    owner = account_set(
        exchange, {"apiKey": KEY, "secret": SECRET, "passphrase": PASSPHRASE, "futures": {"USDT": "1000"}}
    )
    books = exchange.futures.books
    account = books.account_of(owner)

    for kind, side, amount, offset in steps:
        with contextlib.suppress(Refused):
            act(exchange, account, kind, side, amount, offset)
        exchange.advance()
        exchange.end_step()

    made = sum((fill.realised - fill.fee for fill in books.fills), ZERO)
    paid = sum((one.amount for one in books.funding), ZERO)
    held = sum((order.hold for order in books.orders), ZERO)
    contracts = sum((fill.size * fill.order.request.side.sign for fill in books.fills), ZERO)
    assert account.balance("USDT").total == 1000 + made + paid
    assert account.balance("USDT").holds == held
    assert contracts == sum((one.quantity for one in account.positions.values()), ZERO)
    assert all(one.quantity or one.cost == one.margin == 0 for one in account.positions.values())
