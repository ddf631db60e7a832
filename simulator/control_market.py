"""The part of the control API that shapes the market: symbols, prices, candles, and fills made by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from simulator.contracts import Contract
from simulator.control_fields import Body, NotPossible, decimal_of, number_of, only, truth_of
from simulator.exchange import Exchange
from simulator.market import Edit, Listing
from simulator.prices import MINUTE_MS, First
from simulator.replays import Replay, parse_rows
from simulator.rules import SYMBOL_PATTERN, text

FOREVER_MS = 1 << 62

_RULE_FIELDS = {
    "priceIncrement": "price_increment",
    "baseIncrement": "base_increment",
    "quoteIncrement": "quote_increment",
    "baseMinSize": "base_min_size",
    "baseMaxSize": "base_max_size",
    "quoteMinSize": "quote_min_size",
    "quoteMaxSize": "quote_max_size",
    "priceLimitRate": "price_limit_rate",
    "minFunds": "min_funds",
    "takerFee": "taker_fee",
    "makerFee": "maker_fee",
}
_CONTRACT_FIELDS = {"multiplier": "multiplier", "maintainMargin": "maintain_margin"}


class MarketControl:
    """One method per endpoint; ValueError for a bad request."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._actions: dict[str, Callable[[Listing, Body], dict[str, Any]]] = {
            "candles": self._script_candles,
            "price": self._pin_price,
            "gap": self._add_gap,
            "revision": self._revise,
            "depth": self._set_depth,
        }

    def answer(self, symbol: str, action: str, body: Body) -> dict[str, Any]:
        """POST market/SYMBOL/action; a contract's prices are its symbol's."""
        answer = self._actions.get(action)
        if answer is None:
            raise NotPossible(f"wanted market/SYMBOL/ and one of {', '.join(self._actions)}, was {action}")
        market = self._exchange.market
        listing = market.listings.get(symbol) or market.contracts.get(symbol)
        if listing is None:
            raise NotPossible(f"wanted a listed symbol ({', '.join(market.listings)}), was {symbol}")
        if isinstance(listing.rules, Contract) and action in ("candles", "price"):
            listing = market.listings[listing.rules.underlying]
        return answer(listing, body)

    def _script_candles(self, listing: Listing, body: Body) -> dict[str, Any]:
        """{"candles": [[ms, open, high, low, close, volume], …]}: the symbol replays them from the first one on. "first":
        "low" or "high" is the extreme that comes first inside each; without, a rising candle's low, a falling one's high."""
        only(body, ("candles", "first"))
        rows, first = _rows(body), body.get("first")
        if first not in (None, *First):
            raise ValueError(f"wanted first to be {' or '.join(First)}, was {first!r}")
        self._exchange.script(listing, parse_rows(rows), None if first is None else First(first))
        return {"symbol": listing.rules.symbol, "candles": len(rows), "price": self._price(listing)}

    def _pin_price(self, listing: Listing, body: Body) -> dict[str, Any]:
        """{"price": "…"} holds the price from now on; {"price": null} goes back to the source before the first pin."""
        only(body, ("price",))
        if "price" not in body:
            raise ValueError("wanted a price, or null to let it move again")
        price = decimal_of(body, "price")
        if price is not None and (price <= 0 or price % listing.rules.price_increment):
            raise ValueError(f"wanted a price in steps of {listing.rules.price_increment}, was {price}")
        self._exchange.pin(listing, price)
        return {"symbol": listing.rules.symbol, "price": self._price(listing)}

    def _price(self, listing: Listing) -> str:
        return text(listing.price_at(self._exchange.advance()))

    def _add_gap(self, listing: Listing, body: Body) -> dict[str, Any]:
        """{"from": ms, "to": ms}: no candles for these minutes, until market time "until" (for ever)."""
        only(body, ("from", "to", "until"))
        start, stop = number_of(body, "from"), number_of(body, "to")
        if start is None or stop is None or stop <= start:
            raise ValueError("wanted from and to in ms, from before to")
        until = number_of(body, "until")
        now_ms = self._exchange.advance()
        first, last = int(start) // MINUTE_MS, -(-int(stop) // MINUTE_MS)
        edit = Edit(listing.rules.symbol, first, last, min(now_ms, int(start)), int(until or FOREVER_MS))
        self._exchange.edit(listing, edit)
        return {"symbol": listing.rules.symbol, "minutes": last - first}

    def _revise(self, listing: Listing, body: Body) -> dict[str, Any]:
        """{"candles": […], "at": ms}: these candles are published otherwise from market time "at" (now) on."""
        only(body, ("candles", "at"))
        rows = parse_rows(_rows(body))
        replay = Replay(rows, listing.rules.price_increment)  # checks them
        now_ms = self._exchange.advance()
        at = number_of(body, "at")
        from_ms = now_ms if at is None else int(at)
        edit = Edit(listing.rules.symbol, replay.first_minute, replay.stop_minute, from_ms, FOREVER_MS, tuple(rows))
        self._exchange.edit(listing, edit)
        return {"symbol": listing.rules.symbol, "candles": len(rows)}

    def _set_depth(self, listing: Listing, body: Body) -> dict[str, Any]:
        """{"quote": "50000"}: what the best price offers, in the quote currency; the second best offers twice that."""
        only(body, ("quote",))
        quote = number_of(body, "quote")
        if not quote:
            raise ValueError("wanted quote to be above 0")
        listing.depth_quote = quote
        self._exchange.books.note(listing)
        return {"symbol": listing.rules.symbol, "quote": text(quote)}

    # -- symbols ------------------------------------------------------------------------------------------------

    def set_symbol(self, body: Body) -> dict[str, Any]:
        """{"symbol": …, and any of priceIncrement, …, minFunds, takerFee, makerFee, enableTrading, isDelisted}; of a
        contract also multiplier, maintainMargin, maxLeverage and fundingRate."""
        only(
            body,
            ("symbol", "enableTrading", "isDelisted", "maxLeverage", "fundingRate", *_RULE_FIELDS, *_CONTRACT_FIELDS),
        )
        symbol, market = body.get("symbol"), self._exchange.market
        listing = market.find(symbol) if isinstance(symbol, str) else None
        if not isinstance(symbol, str) or (listing is None and not SYMBOL_PATTERN.fullmatch(symbol)):
            raise ValueError(f"wanted a symbol such as BTC-USDT, was {symbol!r}")
        is_contract = listing is not None and isinstance(listing.rules, Contract)
        changes = self._changes(body, is_contract)
        is_delisted = truth_of(body, "isDelisted")
        if listing is None:
            listing = market.add(symbol, **changes)
            self._exchange.books.note(listing)
        elif changes:
            self._exchange.change_rules(listing, replace(listing.rules, **changes))
        if is_delisted is True and not listing.is_delisted:
            self._exchange.delist(listing)
        elif is_delisted is False and listing.is_delisted:
            market.relist(listing)
            self._exchange.books.note(listing)
        if isinstance(listing.rules, Contract):
            return {field.name: _shown(getattr(listing.rules, field.name)) for field in fields(listing.rules)}
        return listing.rules.wire()

    def _changes(self, body: Body, is_contract: bool) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        known = {**_RULE_FIELDS, **(_CONTRACT_FIELDS if is_contract else {})}
        for name, attribute in known.items():
            number = decimal_of(body, name)
            if number is not None:
                if number < 0 or (number == 0 and name.endswith("Increment")) or not -12 <= number.adjusted() <= 12:
                    raise ValueError(f"wanted {name} to be a plausible positive number, was {number}")
                changes[attribute] = number
        trading = truth_of(body, "enableTrading")
        if trading is not None:
            changes["is_trading"] = trading
        strange = {"maxLeverage", "fundingRate", *_CONTRACT_FIELDS} & set(body)
        if strange and not is_contract:
            raise ValueError(f"wanted a contract for {', '.join(sorted(strange))}")
        if is_contract and "priceIncrement" in body:
            raise ValueError("wanted the priceIncrement of the symbol that the contract is on")
        leverage, rate = number_of(body, "maxLeverage"), decimal_of(body, "fundingRate")
        if leverage is not None:
            changes["max_leverage"] = max(1, int(leverage))
        if rate is not None:
            if abs(rate) > 1:
                raise ValueError(f"wanted a fundingRate from -1 to 1, was {rate}")
            changes["funding_rate"] = rate
        return changes

    # -- fills --------------------------------------------------------------------------------------------------

    def fill(self, body: Body) -> dict[str, Any]:
        """{"clientOid" or "orderId": …, "size": "0.1"}: fill so much of a resting order, at its own price."""
        only(body, ("clientOid", "orderId", "size"))
        size, now_ms = number_of(body, "size"), self._exchange.advance()
        for desk in (self._exchange, self._exchange.futures):
            for account in desk.books.accounts.values():
                order = account.orders.get(body.get("orderId", "")) or account.by_client_oid.get(
                    body.get("clientOid", "")
                )
                if order is not None:
                    desk.fill_part(order, order.remain_size if size is None else size, now_ms)
                    return order.wire()
        raise NotPossible("wanted the clientOid or orderId of an order")


def _rows(body: Body) -> list[Any]:
    rows = body.get("candles")
    if not isinstance(rows, list):
        raise ValueError("wanted candles to be a list")
    return rows


def _shown(value: Any) -> Any:
    return value if isinstance(value, bool | int | str) else text(value)
