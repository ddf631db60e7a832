"""The WebSocket side through ccxt.pro: what is watched arrives, as the books have it; and what goes wrong on request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import ccxt
import ccxt.pro
import pytest

from tests.simulator.conftest import KEY, PASSPHRASE, SECRET, START_MS, Simulator, made_exchange

BTC, SWAP = "BTC/USDT", "BTC/USDT:USDT"
PATIENCE_S = 10
Start = Callable[..., Simulator]


@pytest.fixture
def simulator(start_with: Start) -> Simulator:
    running = start_with(made_exchange("BTC-USDT", "ETH-USDT", slippage="0.0001"))
    funds = {"balances": {"USDT": "10000", "BTC": "1"}, "futures": {"USDT": "1000"}}
    running.control("accounts", apiKey=KEY, secret=SECRET, passphrase=PASSPHRASE, **funds)
    running.pin("60000")
    return running


def watching(simulator: Simulator, watch: Callable[[Any], Awaitable[Any]]) -> Any:
    """What ``watch`` returns when it is given a ccxt.pro client of the simulator."""
    plain = simulator.client()

    async def run() -> Any:
        client = ccxt.pro.kucoin(
            {
                "apiKey": KEY,
                "secret": SECRET,
                "password": PASSPHRASE,
                "urls": {"api": dict(plain.urls["api"])},
                "options": {"hf": True, "uta": False},
            }
        )
        try:
            return await asyncio.wait_for(watch(client), PATIENCE_S)
        finally:
            await client.close()

    return asyncio.run(run())


async def soon(simulator: Simulator, path: str, **body: Any) -> None:
    """A control request while something is being watched."""
    await asyncio.sleep(0.15)
    await asyncio.to_thread(simulator.control, path, **body)


async def until(watch: Callable[[], Awaitable[Any]], is_it: Callable[[Any], bool]) -> Any:
    """The first of the things that ``watch`` returns, newest of a list, that ``is_it``."""
    while True:
        seen = await watch()
        latest = seen[-1] if isinstance(seen, list) else seen
        if is_it(latest):
            return latest


def test_prices_depth_candles_and_trades_are_watched(simulator: Simulator) -> None:
    async def watch(client: Any) -> dict[str, Any]:
        return {
            "ticker": await client.watch_ticker(BTC),
            "tickers": await client.watch_tickers([BTC, "ETH/USDT"]),
            "bids_asks": await client.watch_bids_asks([BTC]),
            "candles": await client.watch_ohlcv(BTC, "1m"),
            "trades": await client.watch_trades(BTC),
            "five": await client.watch_order_book(BTC, 5, {"method": "/spotMarket/level2Depth5"}),
        }

    seen = watching(simulator, watch)

    assert seen["ticker"]["last"] == 60_000
    assert set(seen["tickers"]) <= {BTC, "ETH/USDT"}
    assert (seen["bids_asks"][BTC]["bid"], seen["bids_asks"][BTC]["ask"]) == (59_994, 60_006)
    assert seen["candles"][-1][0] == START_MS
    assert seen["candles"][-1][4] == 60_000
    assert seen["trades"][-1]["symbol"] == BTC
    assert seen["five"]["asks"][0][0] == 60_006


def test_a_depth_that_is_kept_by_changes_equals_the_one_that_rest_shows(simulator: Simulator) -> None:
    async def watch(client: Any) -> tuple[Any, Any]:
        book = await client.watch_order_book(BTC)
        await soon(simulator, "market/BTC-USDT/price", price="61000")
        while book["asks"][0][0] < 61_000:
            book = await client.watch_order_book(BTC)
        sides = [[row[:2] for row in book[side][:100]] for side in ("asks", "bids")]
        return sides, await client.fetch_order_book(BTC)

    kept, read = watching(simulator, watch)

    assert kept == [read["asks"], read["bids"]]
    assert kept[0][0][0] == 61_006.1


def test_own_orders_fills_and_balances_arrive(simulator: Simulator) -> None:
    async def watch(client: Any) -> tuple[Any, Any, Any]:
        def orders(status: str) -> Any:
            return asyncio.create_task(until(lambda: client.watch_orders(BTC), lambda order: order["status"] == status))

        def balance(used: float) -> Any:
            return asyncio.create_task(until(client.watch_balance, lambda funds: funds["USDT"]["used"] == used))

        opened, held = orders("open"), balance(590.59)
        await asyncio.sleep(1)
        await client.create_order(BTC, "limit", "buy", 0.01, 59_000, {"clientOid": "watched"})
        await asyncio.gather(opened, held)
        closed, paid = orders("closed"), balance(0)
        trades = asyncio.create_task(client.watch_my_trades(BTC))
        await soon(simulator, "market/BTC-USDT/price", price="58000")
        return await closed, (await trades)[-1], await paid

    order, fill, paid = watching(simulator, watch)

    assert (order["clientOrderId"], order["filled"], order["average"]) == ("watched", 0.01, 58_000)
    assert (fill["order"], fill["price"], fill["amount"], fill["takerOrMaker"]) == (order["id"], 58_000, 0.01, "maker")
    assert (paid["USDT"]["total"], paid["BTC"]["total"]) == (9_419.42, 1.01)


def test_stop_orders_are_watched(simulator: Simulator) -> None:
    async def watch(client: Any) -> list[str]:
        task = asyncio.create_task(client.watch_orders(BTC, params={"stop": True}))
        await asyncio.sleep(1)
        await client.create_order(BTC, "market", "sell", 0.01, params={"stopPrice": 59_000, "stop": "loss"})
        seen = [(await task)[-1]["info"]["type"]]
        task = asyncio.create_task(client.watch_orders(BTC, params={"stop": True}))
        await soon(simulator, "market/BTC-USDT/price", price="58000")
        return [*seen, (await task)[-1]["info"]["type"]]

    assert watching(simulator, watch) == ["open", "triggered"]


def test_futures_are_watched(simulator: Simulator) -> None:
    async def watch(client: Any) -> dict[str, Any]:
        await client.load_markets()
        orders = asyncio.create_task(until(lambda: client.watch_orders(SWAP), lambda order: order["filled"] == 10))
        balance = asyncio.create_task(
            until(lambda: client.watch_balance({"type": "swap"}), lambda funds: funds["USDT"]["free"] < 1000)
        )
        held = asyncio.create_task(until(lambda: client.watch_position(SWAP), lambda one: one["contracts"] == 10))
        await asyncio.sleep(1)
        ticker = await client.watch_ticker(SWAP)
        candles = await client.watch_ohlcv(SWAP, "1m")
        book = await client.watch_order_book(SWAP)
        await client.create_order(SWAP, "market", "buy", 10, None, {"leverage": 10})
        return {
            "order": (await orders)["symbol"],
            "free": (await balance)["USDT"]["free"],
            "position": ((await held)["side"], (await held)["entryPrice"]),
            "last": ticker["last"],
            "close": candles[-1][4],
            "ask": book["asks"][0][0],
        }

    seen = watching(simulator, watch)

    assert seen["order"] == SWAP
    assert seen["free"] == pytest.approx(1000 - 60.006 - 0.360036)
    assert seen["position"] == ("long", 60_006)
    assert (seen["last"], seen["close"], seen["ask"]) == (60_000, 60_000, 60_006)


def test_an_expired_token_is_renewed(simulator: Simulator) -> None:
    async def watch(client: Any) -> float:
        await client.watch_ticker(BTC)
        await soon(simulator, "stream", expireTokens=True)
        while True:
            try:
                await asyncio.sleep(0.3)
                return float((await asyncio.wait_for(client.watch_ticker(BTC), 1))["last"])
            except (TimeoutError, ccxt.NetworkError, ccxt.ExchangeError):
                continue

    assert watching(simulator, watch) == 60_000


# -- the raw protocol, and mischief ----------------------------------------------------------------------------


class Raw:
    """A connection of plain JSON messages."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def say(self, **message: Any) -> Any:
        await self.socket.send_json(message)
        return await self.hear()

    async def hear(self) -> Any:
        return json.loads((await self.socket.receive(PATIENCE_S)).data)

    async def events(self, number: int) -> list[tuple[str, str]]:
        """(client order id, type) of so many order messages."""
        messages = [await self.hear() for _ in range(number)]
        return [(message["data"]["clientOid"], message["data"]["type"]) for message in messages]


def talking(simulator: Simulator, talk: Callable[[Raw], Awaitable[Any]], is_private: bool = True) -> Any:
    """What ``talk`` returns when it is given a connection."""
    plain = simulator.client()
    plain.load_markets()
    answer = plain.private_post_bullet_private() if is_private else plain.public_post_bullet_public()
    [server] = answer["data"]["instanceServers"]

    async def run() -> Any:
        async with aiohttp.ClientSession() as http:
            url = f"{server['endpoint']}?token={answer['data']['token']}&connectId=me"
            async with http.ws_connect(url) as socket:
                raw = Raw(socket)
                assert await raw.hear() == {"id": "me", "type": "welcome"}
                return await asyncio.wait_for(talk(raw), PATIENCE_S)

    return asyncio.run(run())


async def place(simulator: Simulator, *client_oids: str) -> None:
    client = simulator.client()
    for client_oid in client_oids:
        params = {"clientOid": client_oid}
        await asyncio.to_thread(client.create_order, BTC, "limit", "buy", 0.001, 50_000, params)


async def follow_orders(raw: Raw) -> None:
    answer = await raw.say(
        id="1", type="subscribe", topic="/spotMarket/tradeOrders", privateChannel=True, response=True
    )
    assert answer == {"id": "1", "type": "ack"}


def test_pings_are_answered_and_nonsense_is_refused(simulator: Simulator) -> None:
    async def talk(raw: Raw) -> list[Any]:
        return [
            (await raw.say(id="7", type="ping"))["type"],
            await raw.say(id="8", type="sing"),
            await raw.say(id="9", type="subscribe", topic="/market/ticker:NO-SUCH"),
            await raw.say(id="10", type="subscribe", topic="/spotMarket/tradeOrders"),
        ]

    pong, *errors = talking(simulator, talk, is_private=False)

    assert pong == "pong"
    assert [(error["id"], error["type"], error["code"]) for error in errors] == [
        ("8", "error", 415),
        ("9", "error", 404),
        ("10", "error", 403),
    ]


def test_an_unknown_token_is_expired(simulator: Simulator) -> None:
    async def run() -> Any:
        url = simulator.url.replace("http", "ws") + "/endpoint?token=stale"
        async with aiohttp.ClientSession() as http, http.ws_connect(url) as socket:
            return json.loads((await socket.receive(PATIENCE_S)).data)["data"]

    assert asyncio.run(run()) == "token is expired"


def test_nobody_hears_of_anothers_orders(simulator: Simulator) -> None:
    simulator.open_account("key-of-bob", USDT="10000")

    async def talk(raw: Raw) -> list[tuple[str, str]]:
        await follow_orders(raw)
        bob = simulator.client("key-of-bob")
        await asyncio.to_thread(bob.create_order, BTC, "limit", "buy", 0.001, 50_000, {"clientOid": "bobs"})
        await place(simulator, "mine")
        return await raw.events(2)

    assert talking(simulator, talk) == [("mine", "received"), ("mine", "open")]


@pytest.mark.parametrize(
    ("trouble", "expected"),
    [
        ({"lose": 1}, [("a", "open"), ("bb", "received"), ("bb", "open")]),
        ({"duplicate": 1}, [("a", "received"), ("a", "received"), ("a", "open"), ("bb", "received"), ("bb", "open")]),
        ({"reorder": 1}, [("a", "open"), ("a", "received"), ("bb", "received"), ("bb", "open")]),
        ({"delayMs": 50}, [("a", "received"), ("a", "open"), ("bb", "received"), ("bb", "open")]),
        ({"lose": 9, "topic": "/account/*"}, [("a", "received"), ("a", "open"), ("bb", "received"), ("bb", "open")]),
    ],
)
def test_messages_are_lost_doubled_overtaken_and_late(
    simulator: Simulator, trouble: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    async def talk(raw: Raw) -> list[tuple[str, str]]:
        await follow_orders(raw)
        await asyncio.to_thread(simulator.control, "stream", **trouble)
        await place(simulator, "a", "bb")
        return await raw.events(len(expected))

    assert talking(simulator, talk) == expected


def test_a_muted_stream_is_alive_and_says_nothing(simulator: Simulator) -> None:
    async def talk(raw: Raw) -> Any:
        await follow_orders(raw)
        await asyncio.to_thread(simulator.control, "stream", muteS=30)
        await place(simulator, "unheard")
        return await raw.say(id="5", type="ping")

    assert talking(simulator, talk)["type"] == "pong"


def test_everybody_is_cut_off_on_request(simulator: Simulator) -> None:
    async def talk(raw: Raw) -> Any:
        await follow_orders(raw)
        connected = simulator.get("/_sim/stream")["connections"]
        await asyncio.to_thread(simulator.control, "stream", drop=True)
        received = await raw.socket.receive(PATIENCE_S)
        return connected, received.type

    connected, kind = talking(simulator, talk)

    assert [(one["apiKey"], one["topics"]) for one in connected] == [(KEY, ["/spotMarket/tradeOrders"])]
    assert kind in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR, aiohttp.WSMsgType.CLOSE)
