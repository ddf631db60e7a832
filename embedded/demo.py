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

import aiohttp

from embedded.cli import DemoOptions
from embedded.demo_client import Client, DemoFailed, Refused, Row
from embedded.demo_screen import Screen, screen_for
from embedded.processes import MARKET_START
from embedded.running import Platform

CASH = Decimal(10_000)
CENT = Decimal("0.01")
SYMBOL = "BTC/USDT"
VENUE_NAME = "simulator"  # and a number: each demo has an exchange of its own
# Short averages and near exits: a life that takes days at the market takes a minute here.
PARAMETERS = {"fast": 3, "slow": 8}
EXITS: Row = {
    "stop_loss_percent": "0.3",
    "targets": [{"percent": "0.3", "fraction": "0.5"}, {"percent": "0.6"}],
    # Left by its levels alone: a strategy that changes its mind would leave many a position before the second.
    "is_exit_signal_used": False,
}
# Of the account: a preset, but without its rest after losses, which would keep the demo waiting.
LIMITS: Row = {"preset": "BALANCED", "cooldown_losses": None}
# In the market of the usual seed, some minutes before a crossing that runs into its stop and one that reaches both targets;
# with another seed any moment is as good, and the demo waits for what comes.
FIRST_MINUTE = 2_588
# An order by hand with a slip of the finger: so many times the last price, far outside the limits' band.
SLIP = Decimal("1.2")
SLIP_QUANTITY = "0.01"
SLIP_KEY = "a slip of the finger"
ANSWERED_SECONDS = 30
POLL_SECONDS = 0.4
# After all exits were seen, how long to wait for a position that the stop can flatten.
LAST_POSITION_SECONDS = 25
STOP_ATTEMPTS = 3
MOST_CANDLES = 1500  # what the API gives at once
STATES = {"start": "ACTIVE", "suspend": "SUSPENDED", "recovered": "ACTIVE", "stop": "STOPPING", "stopped": "STOPPED"}


@dataclass(frozen=True)
class Exit:
    """One sale of a position, whole or in part; ``level`` counts its take-profits, 0 is no level."""

    order: Row
    level: int
    entered: Decimal

    @property
    def text(self) -> str:
        level = f" level {self.level} of {len(EXITS['targets'])}" if self.level else ""
        sold, price = Decimal(self.order["filled"]), Decimal(self.order["average_price"])
        return f"{self.order['reason']}{level}: sold {sold} of {self.entered} at {price:.2f}"


@dataclass(frozen=True)
class Denied:
    """An order that the account's limits kept from being sent, and where to read why."""

    order: Row
    sentences: list[str]
    why: str


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
    denied: Denied | None = None

    @property
    def open_position(self) -> Row | None:
        return next((position for position in self.positions if position["status"] == "OPEN"), None)

    @property
    def exits(self) -> list[Exit]:
        """What was sold, in its order. One position follows another, so a purchase begins the next count of levels."""
        found = []
        entered, level = Decimal(0), 0
        for order in self.orders:
            filled = Decimal(order["filled"])
            if not filled:
                continue
            if not order["is_exit"]:
                entered, level = filled, 0
                continue
            is_target = order["reason"] == "TAKE_PROFIT"
            level += is_target
            found.append(Exit(order, level if is_target else 0, entered))
        return found

    @property
    def has_seen_its_exits(self) -> bool:
        """A stop-loss, and every level of a take-profit."""
        exits = self.exits
        has_stopped = any(one.order["reason"] == "STOP_LOSS" for one in exits)
        return has_stopped and any(one.level == len(EXITS["targets"]) for one in exits)

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
    by_hand: Row  # the session that orders by hand belong to


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
    await api.ask("PATCH", f"/api/v1/accounts/{account['id']}/risk-profile", LIMITS)
    feed = {"market": market["id"], "timeframe": "1m"}
    config = await api.ensure(
        "/api/v1/configs",
        {"name": config_name, **feed, "strategy": "sma_cross", "parameters": PARAMETERS},
        name=config_name,
    )
    wish = {"account": account["id"], "config": config["id"], "exits": EXITS}
    session = await api.ensure(
        "/api/v1/sessions",
        {**wish, "sizing_method": "PERCENT_OF_EQUITY", "sizing_amount": "20"},
        account=account["id"],
        config=config["id"],
    )
    hand_name = f"by hand {name}"
    hand = await api.ensure("/api/v1/configs", {"name": hand_name, **feed, "strategy": "manual"}, name=hand_name)
    by_hand = await api.ensure(
        "/api/v1/sessions",
        {"account": account["id"], "config": hand["id"], "sizing_method": "FIXED_QUOTE", "sizing_amount": "100"},
        account=account["id"],
        config=hand["id"],
    )
    return Scene(api, venue, api_key, account, config, session, by_hand)


async def _live(scene: Scene, screen: Screen) -> Life:
    """Start the session, watch it trade until it has seen everything, and stop it."""
    life = Life(scene.session)
    await _command(scene, "start", done_when="ACTIVE", session=scene.by_hand)
    await _command(scene, "start", done_when="ACTIVE")
    await _watch(scene, life, screen, lambda: life.open_position is not None)
    life.denied = await _slip(scene)
    await _watch(scene, life, screen, lambda: life.has_seen_its_exits and life.was_valued_by_a_tick)
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


async def _slip(scene: Scene) -> Denied:
    """Ask by hand for what the account's limits do not allow, and read why it was denied. Raises DemoFailed."""
    [candle] = (await scene.api.ask("GET", "/api/v1/candles", feed=scene.config["feed"], limit=1))["results"]
    order = await scene.api.ask(
        "POST",
        "/api/v1/orders",
        {
            "account": scene.account["id"], "symbol": SYMBOL, "side": "BUY", "order_type": "LIMIT", "key": SLIP_KEY,
            "quantity": SLIP_QUANTITY, "price": f"{Decimal(candle['close']) * SLIP:.0f}",
        },
    )  # fmt: skip
    path = f"/api/v1/sessions/{scene.by_hand['id']}/why"
    deadline = time.monotonic() + ANSWERED_SECONDS
    while time.monotonic() < deadline:
        order = await scene.api.ask("GET", f"/api/v1/orders/{order['id']}")
        if order["status"] == "DENIED":
            # Told with the candle that was the newest when it was asked for.
            for signal in (await scene.api.rows("/api/v1/signals", config=scene.by_hand["config"]))[::-1]:
                opened = signal["candle_open_at"]
                told = await scene.api.ask("GET", path, candle=opened)
                mine = next((one for one in told["orders"] if one["id"] == order["id"]), None)
                if mine is not None:
                    # Several limits may deny it; the first of them names it.
                    limits = [check["text"] for check in mine["checks"] if check["code"] == order["reason"]]
                    sentences = [mine["verdict_text"], *(f"{limit}." for limit in limits)]
                    return Denied(order, sentences, f"{scene.api.base}{path}?candle={opened}")
        elif order["status"] != "REQUESTED":
            raise DemoFailed(f"wanted the order by hand DENIED, was {order['status']}")
        await asyncio.sleep(POLL_SECONDS)
    raise DemoFailed(f"the order by hand was not answered for {ANSWERED_SECONDS} s, is {order['status']}")


async def _command(scene: Scene, command: str, done_when: str, session: Row | None = None) -> None:
    path = f"/api/v1/sessions/{(session or scene.session)['id']}"
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
        "exit_plan": life.session["exit_plan"],
        "orders": [{name: order[name] for name in wanted} for order in life.orders],
        "exits": [
            {
                "reason": one.order["reason"],
                "level": one.level or None,
                "quantity": one.order["filled"],
                "average_price": one.order["average_price"],
            }
            for one in life.exits
        ],
        "denied": None if life.denied is None else _denied_told(life.denied),
        "fills": len(life.fills),
        "realized_pnl": str(life.realized_pnl.normalize()),
        "exchange_orders": exchange_orders,
        "hops_ms": life.hops["p50_ms"],
        "duration_s": round(seconds, 1),
    }


def _denied_told(denied: Denied) -> Row:
    return {
        "client_order_id": denied.order["client_order_id"],
        "code": denied.order["reason"],
        "sentences": denied.sentences,
        "why": denied.why,
    }
