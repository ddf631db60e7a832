"""When which message about the market is due: a topic has its period, and an unchanged one is repeated every second."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import Any

from simulator import topics
from simulator.exchange import Exchange
from simulator.market import DEPTH_LEVELS, Listing

REPEAT_S = 1.0
LEVEL2 = ("/market/level2", "/contractMarket/level2")

Message = dict[str, Any]


class MarketNews:
    """Messages of market topics; ``due`` is asked for each topic that somebody wants, again and again."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._last: dict[tuple[str, str], tuple[float, Any]] = {}  # when a symbol's message was said, and what it was

    def keep_only(self, wanted: set[str]) -> None:
        """Forget topics that nobody wants any more; their depth is live again instead of as last published."""
        for topic, symbol in [one for one in self._last if one[0] not in wanted]:
            del self._last[topic, symbol]
            listing = self._exchange.market.find(symbol)
            if listing is not None and topic.partition(":")[0] in LEVEL2:
                listing.published = None

    def due(self, topic: str, now_ms: int) -> Iterator[Message]:
        channel, _, argument = topic.partition(":")
        is_futures = channel in topics.FUTURES_TOPICS
        subject, period = (topics.FUTURES_TOPICS if is_futures else topics.SPOT_TOPICS)[channel]
        name, _, detail = argument.partition("_")
        market = self._exchange.market
        listed = market.contracts if is_futures else market.listings
        for symbol in list(listed) if name == "all" else [name]:
            if symbol not in listed:
                continue
            said_at, before = self._last.get((topic, symbol), (0.0, None))
            if monotonic() - said_at < period:
                continue
            head = {"type": "message", "topic": topic, "subject": symbol if name == "all" else subject}
            if channel in LEVEL2:
                changes = list(_depth_changes(listed[symbol], is_futures, now_ms))
                self._last[topic, symbol] = (monotonic(), None)
                yield from ({**head, "data": data} for data in changes)
                continue
            data = topics.market_data(listed[symbol], channel, detail, now_ms - self._lag(channel))
            is_old = data == before and (monotonic() - said_at < REPEAT_S or channel.endswith(("match", "execution")))
            if data is None or is_old:
                continue
            self._last[topic, symbol] = (monotonic(), data)
            yield {**head, "data": data}

    def _lag(self, channel: str) -> int:
        return self._exchange.settings.candle_lag_ms if "andle" in channel else 0


def _depth_changes(listing: Listing, is_futures: bool, now_ms: int) -> Iterator[Message]:
    """What changed in the depth since it was last published; while it is, REST shows it as it was published."""
    before = listing.published
    listing.published = None
    depth = listing.depth(now_ms, DEPTH_LEVELS)
    sequence = max(now_ms, int(before["sequence"]) + 1 if before is not None else 0)
    changed = {side: _changed(before[side] if before is not None else [], depth[side]) for side in ("asks", "bids")}
    if is_futures:
        rows = [(side, row) for side, found in changed.items() for row in found] or [("bids", depth["bids"][0])]
        for side, (price, size) in rows:
            word = "sell" if side == "asks" else "buy"
            yield {"sequence": sequence, "change": f"{price},{word},{size}", "timestamp": now_ms}
            sequence += 1
        sequence -= 1
    else:
        yield {
            "sequenceStart": sequence if before is None else int(before["sequence"]) + 1,
            "sequenceEnd": sequence,
            "symbol": listing.rules.symbol,
            "changes": {side: [[*row, str(sequence)] for row in found] for side, found in changed.items()},
            "time": now_ms,
        }
    listing.published = {**depth, "sequence": str(sequence)}


def _changed(before: list[list[str]], after: list[list[str]]) -> list[list[str]]:
    """Prices whose size is another now; 0 where nothing is offered any more."""
    old, new = {price: size for price, size in before}, {price: size for price, size in after}
    gone = [[price, "0"] for price in old if price not in new]
    return gone + [[price, size] for price, size in new.items() if old.get(price) != size]
