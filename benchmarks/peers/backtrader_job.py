"""backtrader: objects called at every candle; a stop and a target that cancel each other beside each entry."""

from __future__ import annotations

import sys

import backtrader as bt
import pandas as pd
from clock import told


class Cross(bt.Strategy):  # type: ignore[misc]
    def __init__(self) -> None:
        fast, slow = bt.ind.SMA(period=20), bt.ind.SMA(period=50)
        self.turn = bt.ind.CrossOver(fast, slow)
        self.guards: list[object] = []
        self.closed = 0

    def notify_order(self, order: object) -> None:
        if order.status != order.Completed:  # type: ignore[attr-defined]
            return
        if order.isbuy():  # type: ignore[attr-defined]
            price, size = order.executed.price, order.executed.size  # type: ignore[attr-defined]
            stop = self.sell(exectype=bt.Order.Stop, price=price * 0.98, size=size)
            self.guards = [stop, self.sell(exectype=bt.Order.Limit, price=price * 1.04, size=size, oco=stop)]
        else:
            for guard in self.guards:
                self.cancel(guard)

    def notify_trade(self, trade: object) -> None:
        self.closed += trade.isclosed  # type: ignore[attr-defined]

    def next(self) -> None:
        if self.turn > 0 and not self.position:
            self.buy(size=self.broker.getvalue() * 0.1 / self.data.close[0])
        elif self.turn < 0 and self.position:
            for guard in self.guards:
                self.cancel(guard)
            self.close()


def main(path: str, rounds: int) -> None:
    tape = pd.read_csv(path)
    tape.index = pd.to_datetime(tape.pop("ts"), unit="ms")

    def once() -> int:
        cerebro = bt.Cerebro(stdstats=False)
        cerebro.adddata(bt.feeds.PandasData(dataname=tape))
        cerebro.addstrategy(Cross)
        cerebro.broker.setcash(10_000)
        cerebro.broker.setcommission(commission=0.001)
        (ran,) = cerebro.run()
        return int(ran.closed) + bool(ran.position)

    told(once, rounds)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
