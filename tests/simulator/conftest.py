"""A simulator of its own for every test: in this process on a free port, its market clock stopped at a round moment."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import ccxt
import pytest
import requests
from aiohttp import web

from simulator.app import Server
from simulator.clock import MarketClock
from simulator.exchange import Exchange
from simulator.market import Market
from simulator.settings import DuplicatePolicy, Settings

START_MS = 1_714_560_000_000  # 2024-05-01 10:40:00 UTC, a whole minute
KEY, SECRET, PASSPHRASE = "key-of-alice", "canary-secret-of-alice", "canary-passphrase-of-alice"


def made_exchange(
    *symbols: str, slippage: str = "0.00005", duplicates: DuplicatePolicy = DuplicatePolicy.ACTIVE
) -> Exchange:
    """An exchange whose clock stands still at START_MS."""
    market = Market(
        seed=7, start_ms=START_MS, sigma=0.001, slippage=Decimal(slippage), fees=(Decimal("0.001"), Decimal("0.001"))
    )
    for symbol in symbols or ("BTC-USDT", "ETH-USDT"):
        market.add(symbol)
    return Exchange(market, MarketClock(START_MS, 0), Settings(duplicates=duplicates))


class Simulator:
    """A running simulator as its users see it: over HTTP."""

    def __init__(self, exchange: Exchange, token: str | None = None) -> None:
        self.exchange = exchange
        self._token = token
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.url = ""

    def __enter__(self) -> Simulator:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        runner = web.AppRunner(Server(self.exchange, self._token).app, access_log=None, shutdown_timeout=0.1)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0).start())
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    def get(self, path: str, **query: Any) -> Any:
        return requests.get(self.url + path, params=query, timeout=10).json()

    def control(self, path: str, /, **body: Any) -> dict[str, Any]:
        """POST to the control API; must succeed."""
        response = requests.post(f"{self.url}/_sim/{path}", json=body, timeout=10)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def oracle(self, **query: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.get("/_sim/oracle", **query)
        return answer

    def open_account(self, key: str = KEY, **balances: str) -> None:
        funds = balances or {"USDT": "10000"}
        self.control("accounts", apiKey=key, secret=SECRET, passphrase=PASSPHRASE, balances=funds)

    def pin(self, price: str | None, symbol: str = "BTC-USDT") -> None:
        self.control(f"market/{symbol}/price", price=price)

    def client(self, key: str = KEY, secret: str = SECRET, password: str = PASSPHRASE, **config: Any) -> ccxt.kucoin:
        """ccxt's own KuCoin class, pointed here by urls alone."""
        names = ("public", "private", "uta", "utaV2", "utaPrivate", "earn", "broker", "webExchange")
        api = {**dict.fromkeys(names, self.url), "futuresPublic": f"{self.url}/_futures"}
        api["futuresPrivate"] = api["futuresPublic"]
        return ccxt.kucoin(
            {
                "apiKey": key,
                "secret": secret,
                "password": password,
                "enableRateLimit": False,
                "timeout": 5_000,
                "urls": {"api": api},
                "options": {"hf": True, "uta": False},
                **config,
            }
        )


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(made_exchange()) as running:
        yield running


@pytest.fixture
def alice(simulator: Simulator) -> ccxt.kucoin:
    """A client with 10,000 USDT and 1 BTC, markets loaded, BTC at exactly 60,000."""
    simulator.open_account(USDT="10000", BTC="1")
    simulator.pin("60000")
    client = simulator.client()
    client.load_markets()
    return client


@pytest.fixture
def start_with() -> Iterator[Callable[..., Simulator]]:
    """Starts simulators with options of the test's own."""
    running: list[Simulator] = []

    def start(exchange: Exchange, token: str | None = None) -> Simulator:
        running.append(Simulator(exchange, token).__enter__())
        return running[-1]

    yield start
    for one in running:
        one.__exit__()
