"""backtesting.py: a strategy object called at every candle, indicators made once."""

from __future__ import annotations

import sys
import warnings

import pandas as pd
from backtesting.lib import crossover
from clock import told

from backtesting import Backtest, Strategy

warnings.filterwarnings("ignore")


class Cross(Strategy):  # type: ignore[misc]
    def init(self) -> None:
        self.fast = self.I(lambda values: pd.Series(values).rolling(20).mean(), self.data.Close)
        self.slow = self.I(lambda values: pd.Series(values).rolling(50).mean(), self.data.Close)
        self.stops()

    def stops(self) -> None:
        self.known = 0

    def next(self) -> None:
        # Stop and target are of the price it was entered at, which is known once it was.
        for trade in self.trades:
            if trade.sl is None:
                trade.sl, trade.tp = trade.entry_price * 0.98, trade.entry_price * 1.04
        if crossover(self.fast, self.slow):
            self.buy(size=0.1)
        elif crossover(self.slow, self.fast):
            self.position.close()


def main(path: str, rounds: int) -> None:
    tape = pd.read_csv(path)
    tape.index = pd.to_datetime(tape.pop("ts"), unit="ms")
    tape.columns = ["Open", "High", "Low", "Close", "Volume"]

    def once() -> int:
        stats = Backtest(
            tape, Cross, cash=10_000_000, commission=0.001, exclusive_orders=False, finalize_trades=True
        ).run()
        return int(stats["# Trades"])

    told(once, rounds)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
