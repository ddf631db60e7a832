"""Indicators of a feed, computed once for each indicator and parameters, and kept until a candle comes or is changed.

Time is cut into blocks of a fixed length, and every block is computed from as many candles before it as the indicator
remembers: so a value does not depend on the span that was asked for, and a new candle costs the last block only. Blocks are
kept in this process and, for all processes, in Redis; without it each computes its own.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from domain.calendars import FIRST_YEAR
from domain.candles import Candles, FloatArray, IntArray, Timeframe
from domain.catalogue import Indicator, Parameters
from exchanges import shared
from marketdata.models import Feed
from marketdata.storage import candles_arrays, candles_window

# Candles of a block where none is missing. All that is kept is 256 blocks of some 30 kB: a few megabytes, here and there.
BLOCK = 1024
KEPT = 256
KEPT_SECONDS = 3600
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BEGINNING = datetime(FIRST_YEAR, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Block:
    """The values of an indicator's outputs, row by row, at the candles of one block."""

    open_ms: IntArray
    values: FloatArray


def indicator_values(
    feed: Feed, indicator: Indicator, parameters: Parameters, open_ms: IntArray
) -> dict[str, FloatArray]:
    """The outputs of ``indicator`` at the candles of ``feed`` that opened at ``open_ms``, up to the last that its row knows
    of; NaN where it is not defined yet, or there is no such candle."""
    result = np.full((len(indicator.outputs), len(open_ms)), np.nan)
    numbers = open_ms // _length_ms(feed)
    blocks = _blocks(feed, indicator, parameters, [int(one) for one in np.unique(numbers)])
    for number, block in blocks.items():
        wanted = np.flatnonzero(numbers == number)
        at = np.searchsorted(block.open_ms, open_ms[wanted])
        is_there = at < len(block.open_ms)
        is_there[is_there] = block.open_ms[at[is_there]] == open_ms[wanted][is_there]
        result[:, wanted[is_there]] = block.values[:, at[is_there]]
    return dict(zip(indicator.outputs, result, strict=True))


def _length_ms(feed: Feed) -> int:
    return BLOCK * Timeframe(feed.timeframe).seconds * 1000


def _blocks(feed: Feed, indicator: Indicator, parameters: Parameters, numbers: Sequence[int]) -> dict[int, Block]:
    if feed.last_open_at is None:
        return {}
    keys = {number: _key(feed, indicator, parameters, number) for number in numbers}
    found = {number: block for number, key in keys.items() if (block := _kept(key, len(indicator.outputs)))}
    missing = [number for number in numbers if number not in found]
    if missing:
        for number, block in _computed(feed, indicator, parameters, missing).items():
            found[number] = block
            _keep(keys[number], block)
    return found


def _computed(feed: Feed, indicator: Indicator, parameters: Parameters, numbers: Sequence[int]) -> dict[int, Block]:
    length = _length_ms(feed)
    memory = indicator.memory(parameters)
    candles = _candles(feed, numbers[0] * length, (numbers[-1] + 1) * length, memory)
    whole = indicator.of(candles, parameters) if memory is None else None
    blocks = {}
    for number in numbers:
        start, end = np.searchsorted(candles.open_ms, [number * length, (number + 1) * length]).tolist()
        first = 0 if memory is None else max(start - memory, 0)
        outputs = whole or indicator.of(candles.between(first, end), parameters)
        values = np.array([outputs[name][start - first : end - first] for name in indicator.outputs], dtype=np.float64)
        blocks[number] = Block(candles.open_ms[start:end], values)
    return blocks


def _candles(feed: Feed, from_ms: int, until_ms: int, memory: int | None) -> Candles:
    """The candles of the span and, before it, as many as are remembered."""
    assert feed.last_open_at is not None
    from_at, until_at = (EPOCH + timedelta(milliseconds=at_ms) for at_ms in (from_ms, until_ms))
    until_at = min(until_at, feed.last_open_at + timedelta(milliseconds=1))
    if memory is None:
        return candles_arrays(feed.pk, BEGINNING, until_at)
    parts = candles_window(feed.pk, memory, until=from_at), candles_arrays(feed.pk, from_at, until_at)
    return Candles(*(np.concatenate([getattr(part, name) for part in parts]) for name in Candles.__slots__))


# What is kept


def _key(feed: Feed, indicator: Indicator, parameters: Parameters, number: int) -> bytes:
    """What the values of a block depend on: what was changed before the last candle, and while it is not over that too."""
    assert feed.last_open_at is not None
    is_over = (number + 1) * _length_ms(feed) <= feed.last_open_at.timestamp() * 1000
    state = (
        feed.pk, indicator.name, parameters.model_dump_json(), number, feed.changes,
        None if is_over else feed.last_open_at.isoformat(),
    )  # fmt: skip
    return hashlib.blake2b(repr(state).encode(), digest_size=32).digest()


_here: OrderedDict[bytes, Block] = OrderedDict()
_lock = threading.Lock()


def _kept(key: bytes, outputs: int) -> Block | None:
    with _lock:
        block = _here.get(key)
        if block is not None:
            _here.move_to_end(key)
            return block
    raw = shared.ask(lambda: shared.client().get(_slot(key)), None)
    if not isinstance(raw, bytes) or raw[: len(key)] != key:
        return None
    table = np.frombuffer(raw, dtype=np.float64, offset=len(key)).reshape(1 + outputs, -1)
    block = Block(table[0].astype(np.int64), table[1:])
    _keep_here(key, block)
    return block


def _keep(key: bytes, block: Block) -> None:
    _keep_here(key, block)
    raw = key + np.vstack([block.open_ms.astype(np.float64), block.values]).tobytes()
    shared.ask(lambda: shared.client().set(_slot(key), raw, ex=KEPT_SECONDS), None)


def _keep_here(key: bytes, block: Block) -> None:
    with _lock:
        _here[key] = block
        _here.move_to_end(key)
        while len(_here) > KEPT:
            _here.popitem(last=False)


def _slot(key: bytes) -> str:
    """One of as many places as blocks are kept; the next that falls into it takes it. So Redis never holds more."""
    return f"r3edge:indicator:{int.from_bytes(key[:8]) % KEPT}"
