"""The same job in other programs: each file is run by that program's own Python, and imports of ours only ``clock``.

The job: SMA(20)/SMA(50) cross, long, entry and exit at the next open, stop-loss 2 % and take-profit 4 % inside the candle
with the stop first, fee 0.1 % a side, 10 % of equity, one market.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Peer:
    """A program, what to install of it, and how many times slower than ours it is to be at least (0: no goal)."""

    script: str
    packages: tuple[str, ...]
    rounds: int
    goal: int = 0


PEERS = {
    "vectorbt": Peer("vectorbt_job.py", ("vectorbt==1.2.0",), rounds=6, goal=5),
    "backtesting.py": Peer("backtesting_job.py", ("backtesting==0.6.6",), rounds=3),
    "backtrader": Peer("backtrader_job.py", ("backtrader==1.9.78.123", "pandas==3.1.1"), rounds=2),
    "freqtrade": Peer("freqtrade_job.py", ("freqtrade==2026.9",), rounds=2, goal=100),
}
