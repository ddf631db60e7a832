"""The WebSocket side: tokens, connections, subscriptions, and what is told to whom; with faults of its own.

What happens to accounts is told at the end of the step in which it happened; what the market does is told by a clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from time import monotonic
from typing import Any

from aiohttp import WSMsgType, web

from simulator import topics
from simulator.api import GENERAL, Call, Routes, routes_of
from simulator.books import Account
from simulator.clock import wall_ms
from simulator.control_fields import Body, number_of, only, truth_of
from simulator.exchange import Exchange
from simulator.refusals import Refused
from simulator.stream_accounts import AccountNews
from simulator.stream_market import MarketNews

PING_INTERVAL_MS, PING_TIMEOUT_MS = 18_000, 10_000
TICK_S = 0.05
log = logging.getLogger("simulator")
MOST_WAITING = 20_000  # messages for a client that does not read; then it is cut off
_encode = json.JSONEncoder(check_circular=False, separators=(",", ":")).encode


@dataclass(eq=False)
class Connection:
    """One client that is connected."""

    account: Account | None
    topics: set[str] = field(default_factory=set)
    waiting: asyncio.Queue[str] = field(default_factory=lambda: asyncio.Queue(MOST_WAITING))
    sent: int = 0
    is_over: bool = False

    def say(self, message: Mapping[str, Any]) -> None:
        try:
            self.waiting.put_nowait(_encode(message))
            self.sent += 1
        except asyncio.QueueFull:
            self.is_over = True


@dataclass
class Mischief:
    """What goes wrong with messages whose topic matches; counts run down."""

    topic: str = "*"
    mute_until: float = 0.0  # by the monotonic clock
    lose: int = 0
    duplicate: int = 0
    reorder: int = 0
    delay_s: float = 0.0


class Stream:
    """All connections of one exchange."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._tokens: dict[str, Account | None] = {}
        self._connections: list[Connection] = []
        self._mischief = Mischief()
        self._held: tuple[Connection, Mapping[str, Any]] | None = None  # a message that waits to be overtaken
        self._market = MarketNews(exchange)
        self._accounts = AccountNews(exchange)
        self._ticking: asyncio.Task[None] | None = None
        exchange.listeners.append(self._tell_accounts)

    # -- tokens -------------------------------------------------------------------------------------------------

    def routes(self, is_futures: bool) -> Routes:
        def public(call: Call) -> dict[str, Any]:
            return self._token(None, call)

        def private(call: Call) -> dict[str, Any]:
            return self._token(call.owner, call)

        pool = "futures" if is_futures else "spot"
        return {
            **routes_of("POST", {"/api/v1/bullet-public": (public, 10)}, None, "public"),
            **routes_of("POST", {"/api/v1/bullet-private": (private, 10)}, GENERAL, pool),
        }

    def _token(self, account: Account | None, call: Call) -> dict[str, Any]:
        token = secrets.token_urlsafe(24)
        self._tokens[token] = account
        server = {
            "endpoint": f"ws://{call.host}/endpoint",
            "encrypt": False,
            "protocol": "websocket",
            "pingInterval": PING_INTERVAL_MS,
            "pingTimeout": PING_TIMEOUT_MS,
        }
        return {"token": token, "instanceServers": [server]}

    # -- connections --------------------------------------------------------------------------------------------

    async def start(self, app: web.Application) -> None:
        self._ticking = asyncio.get_running_loop().create_task(self._tick())

    async def stop(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
        for connection in self._connections:
            connection.is_over = True
        await asyncio.sleep(0)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """One connection, from its greeting to its end."""
        socket = web.WebSocketResponse(heartbeat=None, autoping=True)
        await socket.prepare(request)
        token = request.query.get("token", "")
        connect_id = request.query.get("connectId") or secrets.token_hex(8)
        if token not in self._tokens:
            expired = {"id": connect_id, "type": "error", "code": 401, "data": "token is expired"}
            await socket.send_str(_encode(expired))
            await socket.close()
            return socket
        connection = Connection(self._tokens[token])
        self._connections.append(connection)
        connection.say({"id": connect_id, "type": "welcome"})
        writer = asyncio.get_running_loop().create_task(self._write(connection, socket, request))
        try:
            await self._read(connection, socket)
        finally:
            connection.is_over = True
            self._connections.remove(connection)
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writer
        return socket

    async def _read(self, connection: Connection, socket: web.WebSocketResponse) -> None:
        while not connection.is_over:
            try:
                received = await socket.receive(timeout=(PING_INTERVAL_MS + PING_TIMEOUT_MS) / 1000)
            except TimeoutError:
                await socket.close()
                return
            if received.type is not WSMsgType.TEXT:
                return
            try:
                message = json.loads(received.data)
            except ValueError:
                message = None
            self._hear(connection, message if isinstance(message, dict) else {})

    async def _write(self, connection: Connection, socket: web.WebSocketResponse, request: web.Request) -> None:
        while not connection.is_over:
            with contextlib.suppress(TimeoutError):
                line = await asyncio.wait_for(connection.waiting.get(), 0.2)
                try:
                    await socket.send_str(line)
                except ConnectionError:
                    connection.is_over = True
        if request.transport is not None:
            request.transport.abort()

    def _hear(self, connection: Connection, message: dict[str, Any]) -> None:
        """Answer what a client said."""
        number, kind = str(message.get("id", "")), message.get("type")
        if kind == "ping":
            connection.say({"id": number, "type": "pong", "timestamp": wall_ms()})
            return
        if kind not in ("subscribe", "unsubscribe"):
            connection.say({"id": number, "type": "error", "code": 415, "data": "type is not supported"})
            return
        try:
            wanted = self._wanted(connection, str(message.get("topic", "")))
        except Refused as refused:
            connection.say({"id": number, "type": "error", "code": int(refused.code), "data": refused.message})
            return
        if kind == "subscribe":
            connection.topics |= wanted
            if connection.account is not None:
                self._accounts.follow(connection.account)
        else:
            connection.topics -= wanted
        if message.get("response") is not False:
            connection.say({"id": number, "type": "ack"})

    def _wanted(self, connection: Connection, topic: str) -> set[str]:
        """The topics that ``topic``, which may list several symbols, is about."""
        channel, _, arguments = topic.partition(":")
        if channel in topics.SPOT_PRIVATE or channel in topics.FUTURES_PRIVATE:
            if connection.account is None:
                raise Refused("403", f"topic {topic} needs a private connection")
            return {f"{channel}:{name}" for name in arguments.split(",")} if arguments else {channel}
        names, market = arguments.split(","), self._exchange.market
        listed = market.contracts if channel in topics.FUTURES_TOPICS else market.listings
        is_known = channel in topics.FUTURES_TOPICS or channel in topics.SPOT_TOPICS
        if not is_known or any(name != "all" and name.partition("_")[0] not in listed for name in names):
            raise Refused("404", f"topic {topic} is not found")
        return {f"{channel}:{name}" for name in names}

    # -- telling ------------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        """Tell what the market does, topic by topic when its time has come."""
        while True:
            await asyncio.sleep(TICK_S)
            try:
                self._tell_market()
            except Exception:  # a state file that cannot be written, say: the requests report it
                log.exception("a message about the market was not told")
                await asyncio.sleep(1)

    def _tell_market(self) -> None:
        wanted = {topic for one in self._connections for topic in one.topics if not topics.is_private(topic)}
        self._market.keep_only(wanted)
        if not wanted:
            return
        now_ms = self._exchange.advance()
        self._exchange.end_step()
        for topic in wanted:
            for message in self._market.due(topic, now_ms):
                for connection in self._connections:
                    if topic in connection.topics:
                        self._send(connection, message)

    def _tell_accounts(self) -> None:
        if not any(one.account is not None for one in self._connections):
            self._accounts.forget()
            return
        for account, names, message in self._accounts.of_step():
            for one in self._connections:
                topic = next((name for name in names if name in one.topics), None)
                is_own = one.account is not None and one.account.api_key == account.api_key
                if topic is not None and is_own:
                    private = {"topic": topic, "channelType": "private", "userId": str(account.uid)}
                    self._send(one, {**message, **private})

    def _send(self, connection: Connection, message: Mapping[str, Any]) -> None:
        """Say ``message``, unless it meets the mischief that is set."""
        trouble = self._mischief
        if not fnmatchcase(message["topic"], trouble.topic):
            connection.say(message)
        elif monotonic() < trouble.mute_until:
            return
        elif trouble.lose > 0:
            trouble.lose -= 1
        elif self._held is not None and self._held[0] is connection:
            connection.say(message)
            connection.say(self._held[1])
            self._held = None
        elif trouble.reorder > 0:
            trouble.reorder -= 1
            self._held = (connection, message)
        else:
            times = 2 if trouble.duplicate > 0 else 1
            trouble.duplicate -= times - 1
            for _ in range(times):
                if trouble.delay_s:
                    asyncio.get_running_loop().call_later(trouble.delay_s, connection.say, message)
                else:
                    connection.say(message)

    # -- control ------------------------------------------------------------------------------------------------

    def wire(self) -> dict[str, Any]:
        """Who is connected to what."""
        return {
            "connections": [
                {
                    "apiKey": None if one.account is None else one.account.api_key,
                    "topics": sorted(one.topics),
                    "sent": one.sent,
                }
                for one in self._connections
            ]
        }

    def command(self, body: Body) -> dict[str, Any]:
        """{"drop": true} cuts everybody off; {"expireTokens": true}; for messages whose topic matches the glob "topic":
        {"muteS": n}, {"lose": n}, {"duplicate": n}, {"reorder": n}, {"delayMs": n}. Each command replaces the last."""
        only(body, ("topic", "muteS", "lose", "duplicate", "reorder", "delayMs", "drop", "expireTokens"))
        counts = {name: int(number_of(body, name) or 0) for name in ("lose", "duplicate", "reorder")}
        topic = body.get("topic", "*")
        if not isinstance(topic, str):
            raise ValueError(f"wanted topic to be text, was {topic!r}")
        mute_s, delay_ms = number_of(body, "muteS"), number_of(body, "delayMs")
        self._mischief = Mischief(
            topic, monotonic() + float(mute_s or 0), **counts, delay_s=float(delay_ms or 0) / 1000
        )
        if truth_of(body, "expireTokens"):
            self._tokens.clear()
        if truth_of(body, "drop") or truth_of(body, "expireTokens"):
            for connection in self._connections:
                connection.is_over = True
        return self.wire()
