"""A connection to a venue: exact events, as many topics as fit, and a new connection for whatever goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from exchanges import streaming
from exchanges.gateway import QuoteReport
from exchanges.streaming import CandleSeen, Event, OrderSeen, QuoteSeen, Topics, VenueStream
from tests.exchanges.conftest import CREDENTIALS
from tests.simulator.conftest import KEY, PASSPHRASE, SECRET, START_MS, Simulator, simulator

BTC, ETH = "BTC/USDT", "ETH/USDT"
START_AT = datetime.fromtimestamp(START_MS / 1000, tz=UTC)
BTC_CANDLES, BTC_PRICES, ETH_PRICES = (
    "/market/candles:BTC-USDT_1min",
    "/market/ticker:BTC-USDT",
    "/market/ticker:ETH-USDT",
)


class Listener:
    """A stream of the simulator, and what it told."""

    def __init__(self, simulator: Simulator) -> None:
        simulator.open_account()
        client = simulator.client()
        client.load_markets()
        self.simulator = simulator
        self.infos = {symbol: client.market(symbol) for symbol in (BTC, ETH)}
        self.events: list[Event] = []
        self.stream = VenueStream("venue", "kucoin", simulator.url, self.events.append, CREDENTIALS)

    def want(self, prices: Iterable[str] = (), candles: Iterable[tuple[str, str]] = ()) -> None:
        self.stream.want(Topics(frozenset(candles), frozenset(prices)), self.infos)

    async def until(self, is_so: Callable[[], Any], what: str) -> None:
        async with asyncio.timeout(15):
            while not await asyncio.to_thread(is_so):
                await asyncio.sleep(0.05)
        assert is_so(), what

    def connections(self) -> list[set[str]]:
        return [set(one["topics"]) for one in self.simulator.get("/_sim/stream")["connections"]]

    def run(self, scene: Callable[[], Awaitable[None]]) -> None:
        async def play() -> None:
            running = asyncio.create_task(self.stream.run())
            try:
                await scene()
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

        asyncio.run(play())


def test_what_a_venue_says_arrives_as_exact_events(simulator: Simulator) -> None:
    listener = Listener(simulator)
    simulator.pin("50000.1")

    async def scene() -> None:
        listener.stream.want(Topics(frozenset({(BTC, "1m")}), frozenset({BTC}), has_orders=True), listener.infos)
        await listener.until(
            lambda: {"/spotMarket/tradeOrders", BTC_PRICES} <= set().union(*listener.connections()), "all"
        )
        params = {"clientOid": "watched"}
        await asyncio.to_thread(simulator.client().create_order, BTC, "limit", "buy", 0.001, 40_000, params)
        await listener.until(
            lambda: {type(one) for one in listener.events} == {CandleSeen, QuoteSeen, OrderSeen}, "all"
        )

    listener.run(scene)

    price = next(one for one in listener.events if isinstance(one, QuoteSeen))
    assert price == QuoteSeen(QuoteReport(BTC, Decimal("49997.5"), Decimal("50002.7"), Decimal("50000.1")), START_AT)
    assert all(isinstance(value, Decimal) for value in (price.report.bid, price.report.ask, price.report.last))
    assert CandleSeen(BTC, "1m", START_AT) in listener.events
    assert OrderSeen("watched") in listener.events


def test_what_a_venue_of_contracts_says_arrives_the_same_way(simulator: Simulator) -> None:
    listener, symbol = Listener(simulator), "BTC/USDT:USDT"
    simulator.control(
        "accounts", apiKey=KEY, secret=SECRET, passphrase=PASSPHRASE, futures={"USDT": "1000"},
        permissions="General,Spot,Futures",
    )  # fmt: skip
    simulator.pin("50000.1")
    client = simulator.client()
    infos = {symbol: client.load_markets()[symbol]}
    listener.stream = VenueStream("venue", "kucoinfutures", simulator.url, listener.events.append, CREDENTIALS)

    async def scene() -> None:
        listener.stream.want(Topics(frozenset({(symbol, "1m")}), frozenset({symbol}), has_orders=True), infos)
        await listener.until(
            lambda: any(
                topic.startswith("/contractMarket/tradeOrders") for one in listener.connections() for topic in one
            ),
            "the orders",
        )
        params = {"clientOid": "watched", "leverage": 5}
        await asyncio.to_thread(client.create_order, symbol, "limit", "buy", 1, 40_000, params)
        await listener.until(
            lambda: {type(one) for one in listener.events} == {CandleSeen, QuoteSeen, OrderSeen}, "all"
        )

    listener.run(scene)

    price = next(one for one in listener.events if isinstance(one, QuoteSeen))
    assert (price.report.symbol, price.report.last) == (symbol, Decimal("50000.1"))
    assert CandleSeen(symbol, "1m", START_AT) in listener.events
    assert OrderSeen("watched") in listener.events


def test_topics_that_are_added_are_asked_for_on_the_same_connection(simulator: Simulator) -> None:
    listener = Listener(simulator)

    async def scene() -> None:
        listener.want(prices={BTC})
        await listener.until(lambda: listener.connections() == [{BTC_PRICES}], "one topic")
        listener.want(prices={BTC, ETH}, candles={(BTC, "1m")})
        await listener.until(lambda: listener.connections() == [{BTC_PRICES, ETH_PRICES, BTC_CANDLES}], "three topics")

    listener.run(scene)


def test_topics_that_nobody_wants_any_more_are_not_told_of_and_too_many_renew_the_connection(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "MOST_LEFT", 1)
    listener = Listener(simulator)

    def told_of() -> set[str]:
        return {one.report.symbol for one in listener.events if isinstance(one, QuoteSeen)}

    async def scene() -> None:
        listener.want(prices={BTC, ETH}, candles={(BTC, "1m")})
        await listener.until(lambda: told_of() == {BTC, ETH}, "both prices")
        listener.want(prices={BTC}, candles={(BTC, "1m")})
        listener.events.clear()
        await listener.until(lambda: len(listener.events) > 4, "news of the rest")
        assert told_of() == {BTC}
        assert listener.connections() == [{BTC_PRICES, ETH_PRICES, BTC_CANDLES}]
        listener.want(prices={BTC})
        await listener.until(lambda: listener.connections() == [{BTC_PRICES}], "a new connection")

    listener.run(scene)


def test_a_connection_on_which_nothing_is_heard_not_even_a_pong_is_given_up(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "SILENCE", 1.0)
    listener = Listener(simulator)

    async def scene() -> None:
        listener.want(prices={BTC})
        await listener.until(lambda: listener.stream.is_alive, "alive")
        await asyncio.to_thread(simulator.control, "stream", muteS=60)
        await listener.until(lambda: listener.stream.trouble == "no word for 1 s", "given up")

    listener.run(scene)


def test_a_topic_that_the_venue_refuses_ends_the_connection_at_once(simulator: Simulator) -> None:
    listener = Listener(simulator)
    gone = "GONE/USDT"
    listener.infos[gone] = {**listener.infos[BTC], "id": "GONE-USDT", "symbol": gone, "base": "GONE"}

    async def scene() -> None:
        listener.want(prices={gone})
        await listener.until(lambda: listener.stream.trouble, "the refusal")

    listener.run(scene)

    assert "GONE-USDT" in listener.stream.trouble


def test_no_token_or_key_is_in_what_is_said_of_trouble(simulator: Simulator, caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener(simulator)

    async def scene() -> None:
        listener.want(prices={BTC})
        await listener.until(lambda: listener.stream.is_alive, "alive")
        await asyncio.to_thread(simulator.control, "stream", drop=True)
        await listener.until(lambda: "stream broke" in caplog.text, "the break")

    listener.run(scene)

    assert "token=" not in caplog.text
    assert "canary" not in caplog.text
    assert "canary" not in repr(listener.stream)


def test_prices_come_first_when_not_all_topics_fit() -> None:
    candles = frozenset((f"C{number:03}/USDT", "1m") for number in range(300))
    prices = frozenset(f"P{number:03}/USDT" for number in range(150))

    topics = Topics(candles, prices, has_orders=True).cut()

    assert len(topics) == 400
    assert (topics.prices, len(topics.candles), topics.has_orders) == (prices, 249, True)
    assert Topics(candles).cut() == Topics(candles)


def test_prices_are_asked_for_by_the_hundred() -> None:
    symbols = [f"S{number:03}" for number in range(250)]

    assert [len(chunk) for chunk in streaming._chunks(iter(symbols))] == [100, 100, 50]


__all__ = ["simulator"]
