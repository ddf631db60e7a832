"""freqtrade: its own backtesting class over a frame that is given, without its data folder and without an exchange.

A stake of 1,000 stands for the 10 % of equity that others enter with: no trade depends on it."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path
from unittest.mock import PropertyMock, patch

import pandas as pd
from clock import told

STRATEGY = """
from freqtrade.strategy import IStrategy


class Cross(IStrategy):
    timeframe = "1h"
    minimal_roi = {"0": 0.04}
    stoploss = -0.02
    startup_candle_count = 50
    process_only_new_candles = True

    def populate_indicators(self, dataframe, metadata):
        dataframe["fast"] = dataframe["close"].rolling(20).mean()
        dataframe["slow"] = dataframe["close"].rolling(50).mean()
        return dataframe

    def populate_entry_trend(self, dataframe, metadata):
        now, before = dataframe["fast"] > dataframe["slow"], dataframe["fast"].shift(1) <= dataframe["slow"].shift(1)
        dataframe.loc[now & before, "enter_long"] = 1
        return dataframe

    def populate_exit_trend(self, dataframe, metadata):
        now, before = dataframe["fast"] < dataframe["slow"], dataframe["fast"].shift(1) >= dataframe["slow"].shift(1)
        dataframe.loc[now & before, "exit_long"] = 1
        return dataframe
"""


def main(path: str, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run(Path(path).resolve(), rounds, Path(folder))


def run(path: Path, rounds: int, folder: Path) -> None:
    from freqtrade.configuration import Configuration  # noqa: PLC0415  # seven seconds: counted where the whole is
    from freqtrade.configuration.directory_operations import create_userdata_dir  # noqa: PLC0415
    from freqtrade.exchange import Exchange  # noqa: PLC0415
    from freqtrade.optimize.backtesting import Backtesting  # noqa: PLC0415

    tape = pd.read_csv(path)
    tape["date"] = pd.to_datetime(tape.pop("ts"), unit="ms", utc=True)
    tape = tape[["date", "open", "high", "low", "close", "volume"]]
    (folder / "cross.py").write_text(STRATEGY)
    os.chdir(folder)  # where it looks for its own folder
    create_userdata_dir(str(folder / "user_data"), create_dir=True)
    config = Configuration.from_files([])
    config.update({
        "strategy": "Cross", "strategy_path": str(folder), "recursive_strategy_search": False, "timeframe": "1h",
        "stake_currency": "USDT", "stake_amount": 1000, "dry_run": True, "dry_run_wallet": 10_000, "max_open_trades": 1,
        "fee": 0.001, "exchange": {"name": "binance", "pair_whitelist": ["BTC/USDT"]},
        "pairlists": [{"method": "StaticPairList"}],
        "datadir": folder, "user_data_dir": folder, "export": "none", "trading_mode": "spot", "margin_mode": "",
        "candle_type_def": "spot", "runmode": "backtest", "backtest_cache": "none", "dataformat_ohlcv": "feather",
        "entry_pricing": {"price_side": "same"}, "exit_pricing": {"price_side": "same"}, "enable_protections": False,
    })  # fmt: skip
    market = {
        "id": "BTCUSDT", "symbol": "BTC/USDT", "base": "BTC", "quote": "USDT", "active": True, "spot": True, "type": "spot",
        "precision": {"amount": 1e-8, "price": 0.01},
        "limits": {name: {"min": None, "max": None} for name in ("amount", "price", "cost", "leverage")},
        "taker": 0.001, "maker": 0.001, "margin": False, "swap": False, "future": False, "contractSize": None, "info": {},
    }  # fmt: skip
    quiet = [
        patch.object(Exchange, "reload_markets"), patch.object(Exchange, "validate_config"),
        patch.object(Exchange, "validate_timeframes"), patch.object(Exchange, "validate_stakecurrency"),
        patch.object(Exchange, "get_fee", return_value=0.001),
        patch.object(Exchange, "markets", PropertyMock(return_value={"BTC/USDT": market})),
    ]  # fmt: skip
    for one in quiet:
        one.start()
    logging.disable(logging.CRITICAL)
    engine = Backtesting(config)
    strategy = engine.strategylist[0]
    engine._set_strategy(strategy)

    def once() -> int:
        ready = strategy.advise_all_indicators({"BTC/USDT": tape.copy()})
        end = tape["date"].iloc[-1].to_pydatetime()
        found = engine.backtest(processed=ready, start_date=tape["date"].iloc[50].to_pydatetime(), end_date=end)
        return len(found["results"])

    told(once, rounds)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
