"""KuCoin's own client, which nobody here wrote, trades on the simulator: every answer passes its typed models."""

from __future__ import annotations

import importlib
import queue
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from kucoin_universal_sdk.api import DefaultClient
from kucoin_universal_sdk.generate.account.account import GetSpotAccountListReqBuilder
from kucoin_universal_sdk.generate.futures.market import GetKlinesReqBuilder as GetContractKlinesReqBuilder
from kucoin_universal_sdk.generate.futures.market import GetSymbolReqBuilder as GetContractReqBuilder
from kucoin_universal_sdk.generate.futures.order import AddOrderReqBuilder as AddContractOrderReqBuilder
from kucoin_universal_sdk.generate.futures.order import (
    GetOrderByOrderIdReqBuilder as GetContractOrderReqBuilder,
)
from kucoin_universal_sdk.generate.futures.order import GetTradeHistoryReqBuilder as GetContractTradesReqBuilder
from kucoin_universal_sdk.generate.futures.positions import GetPositionDetailsReqBuilder
from kucoin_universal_sdk.generate.spot.market import (
    Get24hrStatsReqBuilder,
    GetKlinesReqBuilder,
    GetPartOrderBookReqBuilder,
    GetSymbolReqBuilder,
)
from kucoin_universal_sdk.generate.spot.order import (
    AddOrderReqBuilder,
    AddOrderSyncReqBuilder,
    AddStopOrderReqBuilder,
    CancelOrderByClientOidReqBuilder,
    CancelOrderByOrderIdReqBuilder,
    GetClosedOrdersReqBuilder,
    GetOpenOrdersReqBuilder,
    GetOrderByClientOidReqBuilder,
    GetStopOrdersListReqBuilder,
    GetTradeHistoryReqBuilder,
)
from kucoin_universal_sdk.model import ClientOptionBuilder, TransportOptionBuilder, WebSocketClientOptionBuilder

from tests.simulator.conftest import KEY, PASSPHRASE, SECRET, START_MS, Simulator, made_exchange

# The SDK's ways with pydantic and its docstrings are its own affair.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
BTC, CONTRACT = "BTC-USDT", "XBTUSDTM"
Start = Callable[..., Simulator]


@pytest.fixture
def simulator(start_with: Start) -> Simulator:
    running = start_with(made_exchange("BTC-USDT", "ETH-USDT", slippage="0"))
    funds = {"balances": {"USDT": "10000", "BTC": "1"}, "futures": {"USDT": "1000"}}
    running.control("accounts", apiKey=KEY, secret=SECRET, passphrase=PASSPHRASE, **funds)
    running.pin("60000")
    return running


@pytest.fixture
def client(simulator: Simulator) -> Any:
    options = (
        ClientOptionBuilder()
        .set_key(KEY)
        .set_secret(SECRET)
        .set_passphrase(PASSPHRASE)
        .set_spot_endpoint(simulator.url)
        .set_futures_endpoint(f"{simulator.url}/_futures")
        .set_broker_endpoint(simulator.url)
        .set_transport_option(TransportOptionBuilder().build())
        .set_websocket_client_option(WebSocketClientOptionBuilder().build())
        .build()
    )
    return DefaultClient(options)


@pytest.fixture
def spot(client: Any) -> Any:
    return client.rest_service().get_spot_service()


def add(spot: Any, client_oid: str, kind: str = "market", side: str = "buy", **values: str) -> Any:
    request = AddOrderReqBuilder().set_symbol(BTC).set_client_oid(client_oid).set_type(kind).set_side(side)
    for name, value in values.items():
        request = getattr(request, f"set_{name}")(value)
    return spot.get_order_api().add_order(request.build())


def by_client_oid(spot: Any, client_oid: str) -> Any:
    request = GetOrderByClientOidReqBuilder().set_symbol(BTC).set_client_oid(client_oid).build()
    return spot.get_order_api().get_order_by_client_oid(request)


def test_it_reads_the_market(simulator: Simulator, spot: Any) -> None:
    market = spot.get_market_api()

    symbol = market.get_symbol(GetSymbolReqBuilder().set_symbol(BTC).build())
    stats = market.get24hr_stats(Get24hrStatsReqBuilder().set_symbol(BTC).build())
    request = GetKlinesReqBuilder().set_symbol(BTC).set_type("1min")
    candles = market.get_klines(request.set_start_at(START_MS // 1000 - 300).set_end_at(START_MS // 1000).build())
    book = market.get_part_order_book(GetPartOrderBookReqBuilder().set_symbol(BTC).set_size("20").build())

    assert market.get_server_time().data == START_MS
    assert (symbol.price_increment, symbol.enable_trading) == ("0.1", True)
    assert stats.last == "60000"
    assert [row[0] for row in candles.data] == [str(START_MS // 1000 - 60 * n) for n in (1, 2, 3, 4, 5)]
    assert book.asks[0][0] == "60000"
    assert candles.common_response.rate_limit.limit == 2000


def test_it_reads_the_account(client: Any) -> None:
    account = client.rest_service().get_account_service().get_account_api()

    wallets = account.get_spot_account_list(GetSpotAccountListReqBuilder().set_type("trade").build())
    key = account.get_apikey_info()

    assert {row.currency: row.balance for row in wallets.data} == {"USDT": "10000", "BTC": "1"}
    assert (key.api_key, key.permission) == (KEY, "General,Spot,Futures")


def test_it_trades_on_the_spot_market(simulator: Simulator, spot: Any) -> None:
    orders = spot.get_order_api()

    bought = add(spot, "sdk-1", size="0.01")
    add(spot, "sdk-2", "limit", size="0.01", price="59000")
    waiting = by_client_oid(spot, "sdk-2")
    listed = orders.get_open_orders(GetOpenOrdersReqBuilder().set_symbol(BTC).build())
    request = CancelOrderByClientOidReqBuilder().set_symbol(BTC).set_client_oid("sdk-2")
    cancelled = orders.cancel_order_by_client_oid(request.build())
    closed = orders.get_closed_orders(GetClosedOrdersReqBuilder().set_symbol(BTC).build())
    fills = orders.get_trade_history(GetTradeHistoryReqBuilder().set_symbol(BTC).build())

    assert (waiting.active, waiting.price, waiting.in_order_book) == (True, "59000", True)
    assert [row.client_oid for row in listed.data] == ["sdk-2"]
    assert cancelled.client_oid == "sdk-2"
    assert [(row.client_oid, row.cancel_exist, row.deal_size) for row in closed.items] == [
        ("sdk-2", True, "0"),
        ("sdk-1", False, "0.01"),
    ]
    assert [(row.order_id, row.price, row.fee) for row in fills.items] == [(bought.order_id, "60000", "0.6")]
    assert [order["clientOid"] for order in simulator.oracle()["orders"]] == ["sdk-1", "sdk-2"]


def test_it_learns_the_outcome_at_once_from_the_synchronous_endpoint(spot: Any) -> None:
    request = AddOrderSyncReqBuilder().set_symbol(BTC).set_type("limit").set_side("buy").set_client_oid("sdk-sync")

    done = spot.get_order_api().add_order_sync(request.set_size("0.01").set_price("60000").build())

    assert (done.status.value, done.origin_size, done.deal_size, done.remain_size) == ("done", "0.01", "0.01", "0")


def test_it_places_a_stop_order(simulator: Simulator, spot: Any) -> None:
    request = AddStopOrderReqBuilder().set_symbol(BTC).set_type("market").set_side("sell").set_client_oid("sdk-stop")

    placed = spot.get_order_api().add_stop_order(request.set_size("0.01").set_stop_price("59000").build())

    listed = spot.get_order_api().get_stop_orders_list(GetStopOrdersListReqBuilder().set_symbol(BTC).build())
    simulator.pin("58000")
    assert [row.id for row in listed.items] == [placed.order_id]
    assert by_client_oid(spot, "sdk-stop").deal_funds == "580"


def test_refusals_reach_it_with_their_codes(spot: Any) -> None:
    request = CancelOrderByOrderIdReqBuilder().set_symbol(BTC).set_order_id("none").build()

    with pytest.raises(Exception, match="400100"):
        spot.get_order_api().cancel_order_by_order_id(request)
    with pytest.raises(Exception, match="200004"):
        add(spot, "sdk-rich", size="100")


def test_it_trades_futures(simulator: Simulator, client: Any) -> None:
    futures = client.rest_service().get_futures_service()
    orders, positions, market = futures.get_order_api(), futures.get_positions_api(), futures.get_market_api()
    request = AddContractOrderReqBuilder().set_symbol(CONTRACT).set_type("market").set_side("buy").set_leverage(10)

    placed = orders.add_order(request.set_client_oid("sdk-f").set_size(10).build())

    order = orders.get_order_by_order_id(GetContractOrderReqBuilder().set_order_id(placed.order_id).build())
    held = positions.get_position_details(GetPositionDetailsReqBuilder().set_symbol(CONTRACT).build())
    contract = market.get_symbol(GetContractReqBuilder().set_symbol(CONTRACT).build())
    window = GetContractKlinesReqBuilder().set_symbol(CONTRACT).set_granularity(1)
    candles = market.get_klines(window.set_from_(START_MS - 120_000).set_to(START_MS).build())
    fills = orders.get_trade_history(GetContractTradesReqBuilder().set_symbol(CONTRACT).build())
    assert (order.status.value, order.filled_size, order.leverage) == ("done", 10, "10")
    assert (held.current_qty, held.avg_entry_price, held.pos_init) == (10, 60_000, 60)
    assert (contract.multiplier, contract.mark_price) == (0.001, 60_000)
    assert [row[0] for row in candles.data] == [START_MS - 120_000, START_MS - 60_000]
    assert [(row.size, row.fee) for row in fills.items] == [(10, "0.36")]
    assert Decimal(simulator.oracle()["futures"]["balances"][KEY]["USDT"]["balance"]) == Decimal("999.64")


@pytest.fixture
def private_stream(client: Any) -> Iterator[Any]:
    stream = client.ws_service().new_spot_private_ws()
    stream.start()
    yield stream
    threading.Thread(target=stream.stop, daemon=True).start()  # it joins a thread that sleeps for ten seconds


def test_it_hears_of_its_orders(spot: Any, private_stream: Any) -> None:
    heard: queue.Queue[Any] = queue.Queue()
    private_stream.order_v2(lambda _topic, _subject, event: heard.put(event))

    add(spot, "sdk-ws", size="0.01")

    events = [heard.get(timeout=5) for _ in range(2)]
    assert [(event.client_oid, event.type.value) for event in events] == [("sdk-ws", "match"), ("sdk-ws", "filled")]
    assert (events[0].match_price, events[0].match_size) == ("60000", "0.01")


FIELDS_OF = {
    # what we answer to ccxt's raw call: the SDK's model of it, by module and class
    "privateGetHfOrdersDone": "spot.order.model_get_closed_orders_items.GetClosedOrdersItems",
    "privateGetHfOrdersActive": "spot.order.model_get_open_orders_data.GetOpenOrdersData",
    "privateGetHfFills": "spot.order.model_get_trade_history_items.GetTradeHistoryItems",
    "privateGetStopOrder": "spot.order.model_get_stop_orders_list_items.GetStopOrdersListItems",
    "privateGetFills": "spot.order.model_get_trade_history_old_items.GetTradeHistoryOldItems",
    "privateGetOrders": "spot.order.model_get_orders_list_old_items.GetOrdersListOldItems",
    "publicGetSymbols": "spot.market.model_get_all_symbols_data.GetAllSymbolsData",
    "publicGetMarketAllTickers": "spot.market.model_get_all_tickers_ticker.GetAllTickersTicker",
    "futuresPrivateGetOrders": "futures.order.model_get_order_list_items.GetOrderListItems",
    "futuresPrivateGetFills": "futures.order.model_get_trade_history_items.GetTradeHistoryItems",
    "futuresPublicGetContractsActive": "futures.market.model_get_all_symbols_data.GetAllSymbolsData",
}
# Risk parameters that change with the size of a position, price bands and taxes, about which it has nothing to say.
NOT_TOLD = {"f", "k", "m", "mmrLimit", "mmrLevConstant", "buyLimit", "sellLimit", "openFeeTaxPay", "closeFeeTaxPay"}


@pytest.mark.parametrize("call", FIELDS_OF)
def test_every_documented_field_is_answered(simulator: Simulator, call: str) -> None:
    module, _, name = FIELDS_OF[call].rpartition(".")
    model = getattr(importlib.import_module(f"kucoin_universal_sdk.generate.{module}"), name)
    client = simulator.client()
    client.create_order("BTC/USDT", "market", "buy", 0.01)
    client.create_order("BTC/USDT", "limit", "buy", 0.01, 50_000)
    client.create_order("BTC/USDT", "market", "sell", 0.01, params={"stopPrice": 50_000, "stop": "loss"})
    client.create_order("BTC/USDT:USDT", "market", "buy", 1, None, {"leverage": 10})
    params = {"symbol": CONTRACT if call.startswith("futures") else BTC}

    data = getattr(client, call)(params if "Private" in call or "privateGet" in call else {})["data"]

    rows = data if isinstance(data, list) else data.get("items") or data["ticker"]
    documented = set(getattr(model, f"_{name}__properties"))
    assert documented - set(rows[0]) <= NOT_TOLD
