"""Generated candles: the same for everybody who asks for so many, with prices of two decimals as venues give them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from domain.candles import Candles

HOUR_MS = 3_600_000
BEGINS_MS = 1_577_836_800_000  # 2020-01-01
SEED = 20


def tape(size: int, seed: int = SEED) -> Candles:
    """``size`` hourly candles of a price that wanders as a coin's does: steps of half a percent, the spread around them a
    little less, calm and wild weeks in turn."""
    random = np.random.default_rng(seed)
    mood = np.repeat(random.lognormal(0, 0.5, size // 168 + 1), 168)[:size]
    close = 20_000 * np.exp(np.cumsum(random.normal(0, 0.005, size) * mood - 1e-6))
    # It never gets so low that two decimals are coarse, nor so high that digits are lost.
    close = np.round(1_000 + np.abs((close - 1_000 + 1e5) % 2e5 - 1e5), 2)
    open_ = np.concatenate((close[:1], close[:-1]))
    reach = np.abs(random.normal(0, 0.002, (2, size))) * mood
    high = np.round(np.maximum(open_, close) * (1 + reach[0]), 2)
    low = np.round(np.minimum(open_, close) * (1 - np.minimum(reach[1], 0.5)), 2)
    volume = np.round(random.lognormal(3, 1, size), 4)
    return Candles(BEGINS_MS + np.arange(size) * HOUR_MS, open_, high, low, close, volume)


def write(candles: Candles, path: Path) -> None:
    """As CSV, as every program reads it."""
    columns = [
        candles.open_ms.tolist(),
        *(getattr(candles, name).tolist() for name in ("open", "high", "low", "close")),
    ]
    columns.append(candles.volume.tolist())
    with path.open("w") as lines:
        lines.write("ts,open,high,low,close,volume\n")
        lines.writelines(",".join(map(str, row)) + "\n" for row in zip(*columns, strict=True))
