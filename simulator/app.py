"""The HTTP face: finds the route, scripts the faults, checks the signature, keeps the request log, wraps the answer.

Everything between the arrival of a request and its answer is one synchronous step on one thread, so no two requests
ever see each other half done.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from simulator.api import Call, Route, Routes
from simulator.books import Account
from simulator.clock import wall_ms
from simulator.control import Control, NotPossible
from simulator.exchange import Exchange, Refused
from simulator.faults import Fault, FaultScript
from simulator.public_api import PublicApi
from simulator.trading_api import TradingApi

FUTURES_PREFIX = "/_futures"
CONTROL_PREFIX = "/_sim"
MAX_CLOCK_DIFFERENCE_MS = 5_000
REQUEST_LOG_LENGTH = 20_000

_SIGNED_HEADERS = ("KC-API-KEY", "KC-API-SIGN", "KC-API-TIMESTAMP", "KC-API-PASSPHRASE")


@dataclass(slots=True)
class LoggedRequest:
    """A line of the request log; no header but the key is kept, so it holds no secret."""

    method: str
    path: str
    at_ms: int
    api_key: str
    client_oid: str
    status: int = 0
    code: str = ""
    fault: str = ""

    def wire(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "path": self.path,
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
        self._requests: deque[LoggedRequest] = deque(maxlen=REQUEST_LOG_LENGTH)
        self._routes: Routes = {**PublicApi(exchange).routes(), **TradingApi(exchange).routes()}
        self._control = Control(exchange, self._faults, self._requests)
        self._control_token = control_token
        self._stopping = asyncio.Event()
        self.app = web.Application(client_max_size=64 * 1024 * 1024)
        self.app.router.add_route("*", CONTROL_PREFIX + "/{tail:.*}", self._answer_control)
        self.app.router.add_route("*", "/{tail:.*}", self._answer)
        self.app.on_shutdown.append(self._stop)

    async def _stop(self, app: web.Application) -> None:
        self._stopping.set()  # frees the requests that hang

    # -- the exchange -------------------------------------------------------------------------------------------

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        raw_body = await request.read()
        path = request.path.removeprefix(FUTURES_PREFIX)
        body = _json_body(raw_body)
        client_oid = _client_oid(path, request, body)
        logged = LoggedRequest(request.method, path, wall_ms(), request.headers.get("KC-API-KEY", ""), client_oid)
        self._requests.append(logged)
        fault = self._faults.take(request.method, path, client_oid, logged.api_key)
        if fault is None:
            return self._done(logged, *self._act(request, path, raw_body, body))
        logged.fault = f"{fault.kind} {fault.when}"
        if fault.when == "before":
            if fault.kind != "delay":
                return await self._fail(fault, request, logged)
            await self._sleep(fault.seconds, request, gives_up=False)
            return self._done(logged, *self._act(request, path, raw_body, body))
        answer = self._act(request, path, raw_body, body)
        if fault.kind != "delay":
            return await self._fail(fault, request, logged)
        await self._sleep(fault.seconds, request, gives_up=False)
        return self._done(logged, *answer)

    def _act(
        self, request: web.Request, path: str, raw_body: bytes, body: dict[str, Any] | None
    ) -> tuple[int, dict[str, Any]]:
        """(HTTP status, envelope): the request, done."""
        try:
            return 200, {"code": "200000", "data": self._data(request, path, raw_body, body)}
        except Refused as refused:
            return refused.http_status, {"code": refused.code, "msg": refused.message}
        finally:
            self._exchange.keep()

    def _data(self, request: web.Request, path: str, raw_body: bytes, body: dict[str, Any] | None) -> Any:
        route, tail = self._route(request.method, path)
        wall = wall_ms()
        account = None if route.permission is None else self._authenticated(request, raw_body, route.permission, wall)
        if body is None:
            raise Refused("400100", "The request body is not a JSON object.")
        now_ms = self._exchange.advance()
        return route.answer(Call(account, request.query, body, tail, now_ms, wall))

    def _route(self, method: str, path: str) -> tuple[Route, str]:
        found = self._routes.get((method, path))
        if found is not None:
            return found, ""
        parent, _, tail = path.rpartition("/")
        found = self._routes.get((method, parent + "/"))
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
        if account is None:
            raise Refused("400003", "KC-API-KEY not exists", 401)
        if (
            not (stamp.isascii() and stamp.isdigit() and len(stamp) < 17)
            or abs(int(stamp) - wall) > MAX_CLOCK_DIFFERENCE_MS
        ):
            raise Refused("400002", "Invalid KC-API-TIMESTAMP", 401)
        if not account.credentials.passphrase_matches(passphrase, headers.get("KC-API-KEY-VERSION", "1")):
            raise Refused("400004", "Invalid KC-API-PASSPHRASE", 401)
        # Clients sign the target before it is percent-encoded, some after; a mounting prefix is never signed.
        target = request.raw_path.removeprefix(FUTURES_PREFIX)
        head, body = (stamp + request.method).encode(), raw_body
        if not any(
            account.credentials.signature_matches(sign, head + form.encode(errors="surrogateescape") + body)
            for form in (target, unquote(target))
        ):
            raise Refused("400005", "Invalid KC-API-SIGN", 401)
        if account.ip_whitelist and request.remote not in account.ip_whitelist.split(","):
            raise Refused("400006", f"The requested ip address is not in the api whitelist, was {request.remote}", 401)
        if not account.has_permission(permission):
            raise Refused("400007", f"Access denied, require more permission: {permission}", 401)
        return account

    def _done(self, logged: LoggedRequest, status: int, envelope: Mapping[str, Any]) -> web.Response:
        logged.status = status
        logged.code = envelope["code"]
        return _json_response(status, envelope)

    # -- failing on request -------------------------------------------------------------------------------------

    async def _fail(self, fault: Fault, request: web.Request, logged: LoggedRequest) -> web.StreamResponse:
        if fault.kind == "code":
            logged.status = fault.status
            logged.code = fault.code
            return _json_response(fault.status, {"code": fault.code, "msg": fault.msg})
        if fault.kind in ("http", "body"):
            logged.status = fault.status
            kind = "text/html" if fault.body.lstrip().startswith("<") else "application/json"
            return web.Response(status=fault.status, body=fault.body.encode(), content_type=kind)
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
            self._exchange.keep()


def _json_response(status: int, value: Any) -> web.Response:
    return web.Response(
        status=status, body=json.dumps(value, separators=(",", ":")).encode(), content_type="application/json"
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
