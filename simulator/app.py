"""The HTTP face: finds the route, scripts the faults, checks signature and limits, keeps the log, wraps the answer.

Everything between the arrival of a request and its answer is one synchronous step on one thread, so no two requests
ever see each other half done.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from simulator import limits
from simulator.account_api import AccountApi
from simulator.api import Call, Route, Routes
from simulator.books import Account
from simulator.classic_api import ClassicApi
from simulator.clock import wall_ms
from simulator.control import Control
from simulator.control_fields import NotPossible
from simulator.exchange import Exchange
from simulator.faults import Fault, FaultScript
from simulator.futures_api import FuturesApi
from simulator.futures_public_api import FuturesPublicApi
from simulator.public_api import PublicApi
from simulator.refusals import Refused
from simulator.stream import Stream
from simulator.trading_api import TradingApi
from simulator.views import Views

FUTURES_PREFIX = "/_futures"
CONTROL_PREFIX = "/_sim"
MAX_CLOCK_DIFFERENCE_MS = 5_000
REQUEST_LOG_LENGTH = 20_000

_SIGNED_HEADERS = ("KC-API-KEY", "KC-API-SIGN", "KC-API-TIMESTAMP", "KC-API-PASSPHRASE")
_encode = json.JSONEncoder(check_circular=False, separators=(",", ":")).encode


@dataclass(slots=True)
class Visit:
    """One request and its line in the log; no header but the key is kept, so the log holds no secret."""

    method: str
    path: str
    at_ms: int
    api_key: str
    client_oid: str
    is_futures: bool
    status: int = 0
    code: str = ""
    fault: str = ""
    headers: dict[str, str] = field(default_factory=dict)  # of the answer

    def wire(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "path": self.path,
            "isFutures": self.is_futures,
            "at": self.at_ms,
            "apiKey": self.api_key,
            "clientOid": self.client_oid,
            "status": self.status,
            "code": self.code,
            "fault": self.fault,
        }


class Server:
    """The simulator as an aiohttp application (``app``)."""

    def __init__(self, exchange: Exchange, control_token: str | None = None) -> None:
        self._exchange = exchange
        self._faults = FaultScript()
        self._visits: deque[Visit] = deque(maxlen=REQUEST_LOG_LENGTH)
        self._pools = limits.Pools(exchange.settings)
        views = Views(exchange)
        self._stream = Stream(exchange)
        public, trading = PublicApi(exchange), TradingApi(exchange, views)
        self._routes: Routes = {
            **public.routes(),
            **AccountApi(exchange).routes(),
            **trading.routes(),
            **ClassicApi(exchange, views, trading).routes(),
            **self._stream.routes(is_futures=False),
        }
        self._futures_routes: Routes = {
            **FuturesPublicApi(exchange).routes(),
            **FuturesApi(exchange, views).routes(),
            **self._stream.routes(is_futures=True),
        }
        self._control = Control(exchange, self._faults, self._visits, self._stream, views)
        self._control_token = control_token
        self._stopping = asyncio.Event()
        self.app = web.Application(client_max_size=64 * 1024 * 1024)
        self.app.router.add_route("*", CONTROL_PREFIX + "/{tail:.*}", self._answer_control)
        self.app.router.add_get("/endpoint", self._stream.serve)
        self.app.router.add_route("*", "/{tail:.*}", self._answer)
        self.app.on_startup.append(self._stream.start)
        self.app.on_shutdown.append(self._stop)

    async def _stop(self, app: web.Application) -> None:
        self._stopping.set()  # frees the requests that hang
        await self._stream.stop()

    # -- the exchange -------------------------------------------------------------------------------------------

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        raw_body = await request.read()
        path = request.path.removeprefix(FUTURES_PREFIX)
        body = _json_body(raw_body)
        client_oid = _client_oid(path, request, body)
        is_futures = path is not request.path and len(path) != len(request.path)
        key = request.headers.get("KC-API-KEY", "")
        visit = Visit(request.method, path, wall_ms(), key, client_oid, is_futures)
        self._visits.append(visit)
        fault = self._faults.take(request.method, path, client_oid, key) if self._faults.faults else None
        if fault is None:
            return _done(visit, *self._act(request, visit, raw_body, body))
        visit.fault = f"{fault.kind} {fault.when}"
        if fault.when == "before":
            if fault.kind != "delay":
                return await self._fail(fault, request, visit, {})
            await self._sleep(fault.seconds, request, gives_up=False)
            return _done(visit, *self._act(request, visit, raw_body, body))
        status, envelope = self._act(request, visit, raw_body, body)
        if fault.kind != "delay":
            return await self._fail(fault, request, visit, envelope)
        await self._sleep(fault.seconds, request, gives_up=False)
        return _done(visit, status, envelope)

    def _act(
        self, request: web.Request, visit: Visit, raw_body: bytes, body: dict[str, Any] | None
    ) -> tuple[int, dict[str, Any]]:
        """(HTTP status, envelope): the request, done."""
        try:
            return 200, {"code": "200000", "data": self._data(request, visit, raw_body, body)}
        except Refused as refused:
            return refused.http_status, {"code": refused.code, "msg": refused.message}
        finally:
            self._exchange.end_step()

    def _data(self, request: web.Request, visit: Visit, raw_body: bytes, body: dict[str, Any] | None) -> Any:
        route, tail = self._route(
            self._futures_routes if visit.is_futures else self._routes, request.method, visit.path
        )
        wall = wall_ms()
        if offset := self._exchange.settings.clock_offset_ms:
            # The clock that judges signatures is the one its answers are dated by.
            visit.headers = {"Date": formatdate((wall + offset) / 1000, usegmt=True)}
        account = None if route.permission is None else self._authenticated(request, raw_body, route.permission, wall)
        who = str(account.uid) if account is not None else request.remote or ""
        limit, remaining, reset_ms = self._pools.take(route.pool, who, route.weight)
        visit.headers |= {
            "gw-ratelimit-limit": str(limit),
            "gw-ratelimit-remaining": str(max(0, remaining)),
            "gw-ratelimit-reset": str(reset_ms),
        }
        limits.check(self._exchange.settings, remaining)
        if body is None:
            raise Refused("400100", "The request body is not a JSON object.")
        now_ms = self._exchange.advance()
        return route.answer(Call(account, request.query, body, tail, now_ms, wall, request.host))

    def _route(self, routes: Routes, method: str, path: str) -> tuple[Route, str]:
        found = routes.get((method, path))
        if found is not None:
            return found, ""
        parent, _, tail = path.rpartition("/")
        found = routes.get((method, parent + "/"))
        if found is None:
            grandparent, _, middle = parent.rpartition("/")
            found, tail = routes.get((method, f"{grandparent}/*/{tail}")), middle
        if found is None or not tail:
            raise Refused("404000", "Url Not Found", 404)
        return found, tail

    def _authenticated(self, request: web.Request, raw_body: bytes, permission: str, wall: int) -> Account:
        """The account that signed; the order of the checks is KuCoin's."""
        headers = request.headers
        key, sign, stamp, passphrase = (headers.get(name, "") for name in _SIGNED_HEADERS)
        if not (key and sign and stamp and passphrase):
            raise Refused("400001", "Please check the header of your request for KC-API-KEY, KC-API-SIGN, "
                          "KC-API-TIMESTAMP, KC-API-PASSPHRASE", 401)  # fmt: skip
        account = self._exchange.books.accounts.get(key)
        if account is None or account.is_revoked:
            raise Refused("400003", "KC-API-KEY not exists", 401)
        clock = wall + self._exchange.settings.clock_offset_ms
        if (
            not (stamp.isascii() and stamp.isdigit() and len(stamp) < 17)
            or abs(int(stamp) - clock) > MAX_CLOCK_DIFFERENCE_MS
        ):
            raise Refused("400002", "Invalid KC-API-TIMESTAMP", 401)
        if not account.credentials.passphrase_matches(passphrase, headers.get("KC-API-KEY-VERSION", "1")):
            raise Refused("400004", "Invalid KC-API-PASSPHRASE", 401)
        if not _is_signed(account, sign, stamp, request, raw_body):
            raise Refused("400005", "Invalid KC-API-SIGN", 401)
        if account.ip_whitelist and request.remote not in account.ip_whitelist.split(","):
            raise Refused("400006", f"The requested ip address is not in the api whitelist, was {request.remote}", 401)
        if not account.has_permission(permission):
            raise Refused("400007", f"Access denied, require more permission: {permission}", 401)
        return account

    # -- failing on request -------------------------------------------------------------------------------------

    async def _fail(
        self, fault: Fault, request: web.Request, visit: Visit, envelope: Mapping[str, Any]
    ) -> web.StreamResponse:
        """What the client gets instead of the answer ``envelope``, which is empty when the exchange did not act."""
        if fault.kind == "code":
            visit.status, visit.code = fault.status, fault.code
            return _json_response(fault.status, {"code": fault.code, "msg": fault.msg})
        if fault.kind in ("http", "body", "html", "empty", "truncated"):
            visit.status = fault.status
            whole = _encode(envelope) if fault.kind == "truncated" else fault.body
            body = whole[: len(whole) // 2] if fault.kind == "truncated" else "" if fault.kind == "empty" else whole
            kind = "text/html" if body.lstrip().startswith("<") else "application/json"
            return web.Response(status=fault.status, body=body.encode(), content_type=kind)
        if fault.kind == "hang":
            await self._sleep(fault.seconds, request, gives_up=True)
        if request.transport is not None:
            request.transport.abort()
        raise asyncio.CancelledError  # nothing can be answered any more

    async def _sleep(self, seconds: float | None, request: web.Request, *, gives_up: bool) -> None:
        """Wait, but not beyond the end of the server, nor (``gives_up``) beyond the client's patience."""
        loop = asyncio.get_running_loop()
        until = None if seconds is None else loop.time() + seconds
        while not self._stopping.is_set():
            left = 0.1 if until is None else until - loop.time()
            if left <= 0 or (gives_up and (request.transport is None or request.transport.is_closing())):
                return
            try:
                await asyncio.wait_for(self._stopping.wait(), min(left, 0.1))
            except TimeoutError:
                continue

    # -- control ------------------------------------------------------------------------------------------------

    async def _answer_control(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix(CONTROL_PREFIX)
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        wanted = self._control_token
        if (
            wanted
            and path != "/health"
            and not hmac.compare_digest(given.encode(errors="surrogateescape"), wanted.encode())
        ):
            return _json_response(401, {"error": "wanted the control token as Authorization: Bearer"})
        body = _json_body(await request.read())
        try:
            if body is None:
                raise ValueError("wanted a JSON object as the body")
            return _json_response(200, self._control.answer(request.method, path, request.query, body))
        except NotPossible as error:
            return _json_response(error.http_status, {"error": str(error)})
        except ValueError as error:
            return _json_response(400, {"error": str(error)})
        finally:
            self._exchange.end_step()


def _is_signed(account: Account, sign: str, stamp: str, request: web.Request, raw_body: bytes) -> bool:
    # Clients sign the target before it is percent-encoded, some after; a mounting prefix is never signed.
    target, head = request.raw_path.removeprefix(FUTURES_PREFIX), (stamp + request.method).encode()
    if account.credentials.signature_matches(sign, head + target.encode(errors="surrogateescape") + raw_body):
        return True
    if "%" not in target and "+" not in target:
        return False
    decoded = unquote(target).encode(errors="surrogateescape")
    return account.credentials.signature_matches(sign, head + decoded + raw_body)


def _done(visit: Visit, status: int, envelope: Mapping[str, Any]) -> web.Response:
    visit.status = status
    visit.code = envelope["code"]
    return _json_response(status, envelope, visit.headers)


def _json_response(status: int, value: Any, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status, body=_encode(value).encode(), content_type="application/json", headers=headers or None
    )


def _json_body(raw: bytes) -> dict[str, Any] | None:
    """The object in a body, {} for none, None for anything else."""
    if not raw:
        return {}
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _client_oid(path: str, request: web.Request, body: dict[str, Any] | None) -> str:
    """The client's order id that a request is about, wherever it says so."""
    if "/client-order/" in path:
        return path.rpartition("/")[2]
    value = (body or {}).get("clientOid") or request.query.get("clientOid") or ""
    return value if isinstance(value, str) else ""
