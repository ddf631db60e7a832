"""The demo: a session's whole life on the simulated exchange, driven through the REST API as any client would.

It ends well only when the platform's books equal the exchange's own, order by order and to the cent. Processes may die
under it: every step asks again until the platform answers.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import aiohttp

from embedded.cli import DemoOptions
from embedded.demo_screen import Screen, screen_for
from embedded.processes import MARKET_START
from embedded.running import Platform

CASH = Decimal(10_000)
CENT = Decimal("0.01")
SYMBOL = "BTC/USDT"
VENUE_NAME = "simulator"  # and a number: each demo has an exchange of its own
# Short averages and near exits: a life that takes days at the market takes a minute here.
PARAMETERS = {"fast": 4, "slow": 12, "stop_loss_percent": "0.3", "take_profit_percent": "0.4"}
# A few minutes before a crossing that reaches its target, in the market of the usual seed; with another seed any moment is
# as good, and the demo waits for what comes.
FIRST_MINUTE = 1_711
POLL_SECONDS = 0.4
# After the first stop-loss or take-profit, how long to wait for a position that the stop can flatten.
LAST_POSITION_SECONDS = 20
STOP_ATTEMPTS = 3
ANSWER_LIMIT_SECONDS = 45
MOST_CANDLES = 1500  # what the API gives at once
STATES = {"start": "ACTIVE", "suspend": "SUSPENDED", "recovered": "ACTIVE", "stop": "STOPPING", "stopped": "STOPPED"}

Row = dict[str, Any]


class DemoFailed(Exception):
    """Something did not happen that should have; the message says what."""


class Refused(DemoFailed):
    """The platform answered, and the answer was no."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Client:
    """JSON over HTTP, patient with a server that is being restarted."""

    def __init__(self, http: aiohttp.ClientSession, base: str, token: str = "") -> None:
        self._http, self._base = http, base.rstrip("/")
        self._headers = {"Authorization": f"Token {token}"} if token else {}

    async def ask(self, method: str, path: str, body: Row | None = None, **query: Any) -> Any:
        """The answer to one request; asked again while nobody answers. Raises Refused on a 4xx."""
        deadline = time.monotonic() + ANSWER_LIMIT_SECONDS
        while True:
            try:
                url = self._base + path
                async with self._http.request(method, url, json=body, params=query, headers=self._headers) as answer:
                    text = await answer.text()
                    if answer.status < 400:
                        return json.loads(text) if text else None
                    if answer.status < 500:
                        raise Refused(answer.status, f"{method} {path}: {answer.status} {text[:300]}")
                    problem = f"{answer.status} {text[:100]}"
            except (aiohttp.ClientError, TimeoutError) as error:
                problem = type(error).__name__
            if time.monotonic() > deadline:
                raise DemoFailed(f"{method} {path} was not answered for {ANSWER_LIMIT_SECONDS} s ({problem})")
            await asyncio.sleep(0.3)

    async def rows(self, path: str, **query: Any) -> list[Row]:
        """Every row of a paged list, oldest first."""
        answer = await self.ask("GET", path, **query)
        found: list[Row] = list(answer["results"])
        while answer["next"]:
            answer = await self.ask("GET", answer["next"].removeprefix(self._base))
            found += answer["results"]
        return found[::-1]

    async def ensure(self, path: str, body: Row, **same: Any) -> Row:
        """The row that ``same`` describes, made from ``body`` if it is not there: a repeated request makes no twin."""

        async def found() -> Row | None:
            rows = await self.rows(path)
            return next((row for row in rows if all(row[name] == value for name, value in same.items())), None)

        if row := await found():
            return row
        try:
            made: Row = await self.ask("POST", path, body)
        except Refused:
            # The answer to an earlier try may have been lost on its way: then the row is there.
            if row := await found():
                return row
            raise
        return made


@dataclass
class Life:
    """What has been seen of the session's life so far."""

    session: Row
    candles: int = 0
    states: list[str] = field(default_factory=lambda: ["CREATED"])
    signals: list[Row] = field(default_factory=list)
    orders: list[Row] = field(default_factory=list)
    fills: list[Row] = field(default_factory=list)
    positions: list[Row] = field(default_factory=list)
    hops: Row = field(default_factory=dict)

    @property
    def open_position(self) -> Row | None:
        return next((position for position in self.positions if position["status"] == "OPEN"), None)

    @property
    def has_exited_by_level(self) -> bool:
        return any(
            position["status"] == "CLOSED" and position["exit_reason"] in ("STOP_LOSS", "TAKE_PROFIT")
            for position in self.positions
        )

    @property
    def was_valued_by_a_tick(self) -> bool:
        return any(position["valuations"] for position in self.positions)

    @property
    def was_flattened_by_a_stop(self) -> bool:
        return any(position["exit_reason"] == "SESSION_STOP" for position in self.positions)

    @property
    def realized_pnl(self) -> Decimal:
        return sum((Decimal(position["realized_pnl"]) for position in self.positions), Decimal(0))


@dataclass(frozen=True)
class Scene:
    """The demo's cast: clients of the platform and of the exchange, and the rows made for this run."""

    api: Client
    venue: Client
    api_key: str
    account: Row
    config: Row
    session: Row


async def run(platform: Platform, options: DemoOptions) -> int:
    """Play the life of one session; 0 when the books of platform and exchange are equal, else 1."""
    began = time.monotonic()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as http:
        with screen_for(is_json=options.is_json) as screen:
            try:
                scene = await _set_the_scene(platform, options, http, screen)
                life = await _live(scene, screen)
                exchange_orders = await _compare_books(scene, life)
            except DemoFailed as failure:
                screen.fail(str(failure))
                return 1
            screen.done(life, exchange_orders)
        if options.is_json:
            print(json.dumps(_as_json(life, exchange_orders, time.monotonic() - began)))
            sys.stdout.flush()
        if not options.is_once:
            await _go_on(scene, screen)
    return 0


async def _set_the_scene(
    platform: Platform, options: DemoOptions, http: aiohttp.ClientSession, screen: Screen
) -> Scene:
    """An account at the exchange, and everything a trader would make to trade on it."""
    token = (await asyncio.to_thread(platform.manage, "token", "admin", "--days", "1")).strip()
    api = Client(http, platform.urls["dashboard"], token)
    venue = Client(http, platform.urls["simulator"])
    api_key, secret, passphrase = (secrets.token_hex(12) for _ in range(3))
    keys = {"apiKey": api_key, "secret": secret, "passphrase": passphrase}
    await venue.ask("POST", "/_sim/accounts", {**keys, "balances": {"USDT": str(CASH)}})
    screen.step("an exchange, its markets and its clock")
    # An earlier demo's exchange is gone, and its account with it: nothing more is asked of it.
    earlier = [row for row in await api.rows("/api/v1/exchanges") if row["name"].startswith(VENUE_NAME)]
    for old in earlier:
        await api.ask("PATCH", f"/api/v1/exchanges/{old['id']}", {"is_enabled": False})
    first = datetime.fromisoformat(MARKET_START) + timedelta(minutes=FIRST_MINUTE)
    await venue.ask("POST", "/_sim/clock", {"now_ms": int(first.timestamp() * 1000)})
    name, config_name = f"{VENUE_NAME}{len(earlier) + 1}", f"SmaCross{len(earlier) + 1}"
    exchange = await api.ensure(
        "/api/v1/exchanges",
        {"name": name, "ccxt_id": "kucoin", "base_url": platform.urls["simulator"], "clock_speed": options.speed},
        name=name,
    )
    await api.ask("POST", f"/api/v1/exchanges/{exchange['id']}/sync")
    [market] = await api.rows("/api/v1/markets", exchange=exchange["id"], symbol=SYMBOL)
    screen.step("an account with its keys, a strategy, a session")
    signing = {"api_key": api_key, "secret": secret, "passphrase": passphrase}
    account = await api.ensure(
        "/api/v1/accounts", {"exchange": exchange["id"], "name": name, "currency": "USDT", **signing}, name=name
    )
    config = await api.ensure(
        "/api/v1/configs",
        {
            "name": config_name,
            "market": market["id"],
            "timeframe": "1m",
            "strategy": "sma_cross",
            "parameters": PARAMETERS,
        },
        name=config_name,
    )
    session = await api.ensure(
        "/api/v1/sessions",
        {"account": account["id"], "config": config["id"], "sizing_method": "PERCENT_OF_EQUITY", "sizing_amount": "20"},
        account=account["id"],
    )
    return Scene(api, venue, api_key, account, config, session)


async def _live(scene: Scene, screen: Screen) -> Life:
    """Start the session, watch it trade until it has seen everything, and stop it."""
    life = Life(scene.session)
    await _command(scene, "start", done_when="ACTIVE")
    await _watch(scene, life, screen, lambda: life.has_exited_by_level and life.was_valued_by_a_tick)
    for attempt in range(STOP_ATTEMPTS):
        if attempt:
            # The strategy left its position in the moment of the stop: another run, for a stop that has something to do.
            await _command(scene, "start", done_when="ACTIVE")
        await _watch(scene, life, screen, lambda: life.open_position is not None, patience=LAST_POSITION_SECONDS)
        await _command(scene, "stop", done_when="STOPPING")
        await _watch(scene, life, screen, lambda: life.session["status"] == "STOPPED")
        if life.was_flattened_by_a_stop:
            break
    return life


async def _command(scene: Scene, command: str, done_when: str) -> None:
    path = f"/api/v1/sessions/{scene.session['id']}"
    try:
        await scene.api.ask("POST", f"{path}/{command}")
    except Refused:
        # The answer to an earlier try may have been lost: what counts is where the session stands.
        status = (await scene.api.ask("GET", path))["status"]
        if status not in (done_when, "STOPPED"):
            raise


async def _watch(
    scene: Scene, life: Life, screen: Screen, is_over: Callable[[], bool], patience: float = float("inf")
) -> None:
    """Look and show until ``is_over``, or until ``patience`` seconds have passed. Raises DemoFailed."""
    deadline = time.monotonic() + patience
    while True:
        await _look(scene, life)
        screen.show(life)
        if life.session["status"] == "HALTED":
            raise DemoFailed(f"the session was halted: {life.session['status_reason']}")
        if is_over() or time.monotonic() > deadline:
            return
        await asyncio.sleep(POLL_SECONDS)


async def _look(scene: Scene, life: Life) -> None:
    number = scene.session["id"]
    life.session = await scene.api.ask("GET", f"/api/v1/sessions/{number}")
    life.signals = [
        signal
        for kind in ("ENTER_LONG", "EXIT_LONG")
        for signal in await scene.api.rows("/api/v1/signals", config=scene.config["id"], kind=kind)
    ]
    life.signals.sort(key=lambda signal: int(signal["id"]))
    life.orders = await scene.api.rows("/api/v1/orders", session=number)
    life.fills = await scene.api.rows("/api/v1/fills", session=number)
    life.positions = await scene.api.rows("/api/v1/positions", session=number)
    life.hops = await scene.api.ask("GET", f"/api/v1/sessions/{number}/hops")
    candles = await scene.api.ask("GET", "/api/v1/candles", feed=scene.config["feed"], limit=MOST_CANDLES)
    life.candles = len(candles["results"])
    events = await scene.api.rows("/api/v1/events", topic="command", key=number)
    life.states = [
        "CREATED",
        *(STATES[event["data"]["command"]] for event in events if event["data"]["command"] in STATES),
    ]


async def _compare_books(scene: Scene, life: Life) -> int:
    """Hold the platform's books against the exchange's; how many orders the exchange has of us. Raises DemoFailed."""
    oracle = await scene.venue.ask("GET", "/_sim/oracle", apiKey=scene.api_key)
    ours = {order["client_order_id"]: order for order in life.orders if order["exchange_order_id"]}
    theirs = {order["clientOid"]: order for order in oracle["orders"]}
    if ours.keys() != theirs.keys():
        only_ours, only_theirs = sorted(ours.keys() - theirs.keys()), sorted(theirs.keys() - ours.keys())
        raise DemoFailed(f"the orders differ: only here {only_ours}, only there {only_theirs}")
    for client_order_id, order in ours.items():
        there = theirs[client_order_id]["dealSize"]
        if Decimal(order["filled"]) != Decimal(there):
            raise DemoFailed(f"{client_order_id}: filled {order['filled']} here, {there} there")
    if len(life.fills) != len(oracle["fills"]):
        raise DemoFailed(f"the fills differ: {len(life.fills)} here, {len(oracle['fills'])} there")
    balances = oracle["balances"][scene.api_key]
    cash = Decimal(balances["USDT"]["balance"])
    if abs(CASH + life.realized_pnl - cash) >= CENT:
        raise DemoFailed(f"the money differs: {CASH + life.realized_pnl} USDT here, {cash} there")
    coins = Decimal(balances.get("BTC", {"balance": 0})["balance"])
    if coins:
        raise DemoFailed(f"the stop left {coins} BTC at the exchange")
    return len(theirs)


async def _go_on(scene: Scene, screen: Screen) -> None:
    """Keep a session trading for the browser."""
    await scene.api.ask("POST", f"/api/v1/sessions/{scene.session['id']}/start")
    screen.step("the session trades on for your browser; Ctrl-C stops everything")


def _as_json(life: Life, exchange_orders: int, seconds: float) -> Row:
    wanted = ("client_order_id", "side", "status", "execution", "quantity", "average_price", "reason")
    return {
        "session": life.session["name"],
        "states": life.states,
        "candles": life.candles,
        "signals": len(life.signals),
        "orders": [{name: order[name] for name in wanted} for order in life.orders],
        "fills": len(life.fills),
        "realized_pnl": str(life.realized_pnl.normalize()),
        "exchange_orders": exchange_orders,
        "hops_ms": life.hops["p50_ms"],
        "duration_s": round(seconds, 1),
    }
