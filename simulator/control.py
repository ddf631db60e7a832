"""The control API under /_sim: accounts, clock, settings, faults, streams, the market; and the oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

from simulator.accounts import account_set
from simulator.clock import wall_ms
from simulator.control_fields import Body, NotPossible, Query, number_of, only
from simulator.control_market import MarketControl
from simulator.exchange import Exchange
from simulator.faults import FaultScript
from simulator.market import Listing
from simulator.oracle import HasWire, balances_of, oracle
from simulator.stream import Stream
from simulator.views import Views

MAX_STEP_MS = 400 * 86_400_000  # further would compute prices for minutes on end
MAX_SPEED = 100_000

Levels = dict[Listing, tuple[Decimal | None, Decimal | None]]


class Control:
    """One method per endpoint; ValueError for a bad request."""

    def __init__(
        self, exchange: Exchange, faults: FaultScript, requests: Iterable[HasWire], stream: Stream, views: Views
    ) -> None:
        self._exchange = exchange
        self._faults = faults
        self._requests = requests
        self._stream = stream
        self._views = views
        self._market = MarketControl(exchange)
        self._routes: dict[tuple[str, str], Callable[[Query, Body], dict[str, Any]]] = {
            ("GET", "/health"): self._health,
            ("POST", "/accounts"): self._set_account,
            ("GET", "/clock"): self._clock,
            ("POST", "/clock"): self._set_clock,
            ("POST", "/symbols"): lambda _, body: self._market.set_symbol(body),
            ("POST", "/fills"): lambda _, body: self._market.fill(body),
            ("GET", "/settings"): self._settings,
            ("POST", "/settings"): self._change_settings,
            ("GET", "/faults"): self._list_faults,
            ("POST", "/faults"): self._add_fault,
            ("DELETE", "/faults"): self._clear_faults,
            ("GET", "/stream"): lambda *_: self._stream.wire(),
            ("POST", "/stream"): lambda _, body: self._stream.command(body),
            ("GET", "/oracle"): lambda query, _: oracle(exchange, requests, query),
        }

    def answer(self, method: str, path: str, query: Query, body: Body) -> dict[str, Any]:
        """The answer to one request; ``path`` without the prefix."""
        route = self._routes.get((method, path))
        if route is not None:
            return route(query, body)
        parts = path.strip("/").split("/")
        if method == "POST" and len(parts) == 3 and parts[0] == "market":
            return self._market.answer(parts[1], parts[2], body)
        raise NotPossible(f"wanted an endpoint of the control API, was {method} {path}")

    def _health(self, query: Query, body: Body) -> dict[str, Any]:
        symbols = list(self._exchange.market.listings)
        return {"status": "ok", "marketMs": self._exchange.clock.now_ms(), "wallMs": wall_ms(), "symbols": symbols}

    def _settings(self, query: Query, body: Body) -> dict[str, Any]:
        return self._exchange.settings.wire()

    def _change_settings(self, query: Query, body: Body) -> dict[str, Any]:
        had_lag = self._exchange.settings.read_lag_ms
        self._exchange.settings.change(body)
        if self._exchange.settings.read_lag_ms and not had_lag:
            self._views.begin_lag()
        return self._settings(query, body)

    def _set_account(self, query: Query, body: Body) -> dict[str, Any]:
        account = account_set(self._exchange, body)
        futures = self._exchange.futures.books.accounts.get(account.api_key)
        return {
            "apiKey": account.api_key,
            "uid": account.uid,
            "permissions": account.permissions,
            "balances": balances_of(account),
            "futures": {} if futures is None else balances_of(futures),
        }

    # -- time ---------------------------------------------------------------------------------------------------

    def _clock(self, query: Query, body: Body) -> dict[str, Any]:
        clock = self._exchange.clock
        return {"now_ms": clock.now_ms(), "speed": clock.speed, "stopped": clock.is_stopped, "wall_ms": wall_ms()}

    def _set_clock(self, query: Query, body: Body) -> dict[str, Any]:
        """{"speed": x}, {"stop": true|false}, {"advance_s": n} or {"now_ms": n}; everything due is matched on return. With
        "until": {"BTC-USDT": {"below": "…", "above": "…"}} a step ends sooner, when a price is first there."""
        only(body, ("speed", "stop", "advance_s", "now_ms", "until"))
        clock = self._exchange.clock
        speed, advance_s, now_ms = (number_of(body, name) for name in ("speed", "advance_s", "now_ms"))
        if body.get("stop") not in (None, True, False):
            raise ValueError(f"wanted stop to be true or false, was {body['stop']!r}")
        if speed is not None and speed > MAX_SPEED:
            raise ValueError(f"wanted a speed of at most {MAX_SPEED}, was {speed}")
        self._exchange.advance()
        if speed is not None:
            clock.set_speed(float(speed))
        if body.get("stop") is True:
            clock.stop()
        elif body.get("stop") is False:
            clock.resume()
        levels = self._levels(body)
        if now_ms is not None:
            self._jump(int(now_ms), levels)
        if advance_s is not None:
            self._jump(clock.now_ms() + int(advance_s * 1000), levels)
        self._exchange.advance()
        return self._clock(query, body)

    def _jump(self, now_ms: int, levels: Levels) -> None:
        if now_ms - self._exchange.clock.now_ms() > MAX_STEP_MS:
            raise ValueError(f"wanted a step of at most {MAX_STEP_MS // 86_400_000} days, was to {now_ms}")
        self._exchange.clock.jump_to(self._exchange.first_met(levels, now_ms) if levels else now_ms)

    def _levels(self, body: Body) -> Levels:
        wanted = body.get("until") or {}
        if not isinstance(wanted, dict):
            raise ValueError(f"wanted until to be an object of symbols, was {wanted!r}")
        levels: Levels = {}
        for symbol, prices in wanted.items():
            listing = self._exchange.market.find(symbol)
            if listing is None or not isinstance(prices, dict):
                raise ValueError(f"wanted a listed symbol with prices, was {symbol}: {prices!r}")
            only(prices, ("below", "above"))
            levels[listing] = (number_of(prices, "below"), number_of(prices, "above"))
        return levels

    # -- faults -------------------------------------------------------------------------------------------------

    def _list_faults(self, query: Query, body: Body) -> dict[str, Any]:
        return {"faults": [fault.wire() for fault in self._faults.faults]}

    def _add_fault(self, query: Query, body: Body) -> dict[str, Any]:
        return self._faults.add(body).wire()

    def _clear_faults(self, query: Query, body: Body) -> dict[str, Any]:
        return {"cleared": self._faults.clear()}
