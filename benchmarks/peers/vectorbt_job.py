"""vectorbt: everything at once as arrays; a sweep in chunks of fifty pairs, which is quicker than all at once."""

from __future__ import annotations

import sys

import pandas as pd
import vectorbt as vbt
from clock import told

STOP, TARGET, FEE, PART = 0.02, 0.04, 0.001, 0.1
CHUNK = 50


def main(path: str, rounds: int, pairs: str = "") -> None:
    tape = pd.read_csv(path)
    tape.index = pd.to_datetime(tape.pop("ts"), unit="ms")

    def portfolio(fast: object, slow: object) -> object:
        short = vbt.MA.run(tape["close"], fast, short_name="fast")
        long = vbt.MA.run(tape["close"], slow, short_name="slow")
        up, down = short.ma_crossed_above(long), short.ma_crossed_below(long)
        return vbt.Portfolio.from_signals(
            tape["close"], up.vbt.fshift(1), down.vbt.fshift(1), price=tape["open"], open=tape["open"],
            high=tape["high"], low=tape["low"], size=PART, size_type="percent", fees=FEE, sl_stop=STOP, tp_stop=TARGET,
            stop_entry_price="fillprice", init_cash=10_000, freq="1h", accumulate=False,
        )  # fmt: skip

    def once() -> int:
        return int(portfolio(20, 50).trades.count())  # type: ignore[attr-defined]

    def swept() -> int:
        given = [tuple(map(int, pair.split("/"))) for pair in pairs.split(",")]
        found = 0
        for begin in range(0, len(given), CHUNK):
            fast, slow = zip(*given[begin : begin + CHUNK], strict=True)
            found += int(portfolio(list(fast), list(slow)).trades.count().sum())  # type: ignore[attr-defined]
        return found

    told(swept if pairs else once, rounds)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
