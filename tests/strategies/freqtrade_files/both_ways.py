"""Trades the crossing of two averages either way, and decides by its position when to secure a gain and when to leave."""

from datetime import datetime

import talib.abstract as ta
from freqtrade.persistence import Trade
from freqtrade.strategy import IStrategy, stoploss_from_open
from pandas import DataFrame
from technical import qtpylib


class BothWays(IStrategy):
    INTERFACE_VERSION = 3

    timeframe = "1h"
    can_short: bool = True
    minimal_roi = {}
    stoploss = -0.05
    use_custom_stoploss = True
    startup_candle_count: int = 400

    def populate_indicators(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        dataframe["fast"] = ta.EMA(dataframe, timeperiod=12)
        dataframe["slow"] = ta.EMA(dataframe, timeperiod=26)
        dataframe["rsi"] = ta.RSI(dataframe)
        return dataframe

    def populate_entry_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        up = qtpylib.crossed_above(dataframe["fast"], dataframe["slow"])
        down = qtpylib.crossed_below(dataframe["fast"], dataframe["slow"])
        dataframe.loc[up, ["enter_long", "enter_tag"]] = (1, "up")
        dataframe.loc[down, ["enter_short", "enter_tag"]] = (1, "down")
        return dataframe

    def populate_exit_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        down = qtpylib.crossed_below(dataframe["fast"], dataframe["slow"])
        dataframe.loc[down, ["exit_long", "exit_tag"]] = (1, "turned")
        return dataframe

    def custom_stoploss(
        self,
        pair: str,
        trade: Trade,
        current_time: datetime,
        current_rate: float,
        current_profit: float,
        after_fill: bool,
        **kwargs,
    ) -> float | None:
        # evaluate highest to lowest, so that the highest possible stop is used
        if current_profit > 0.03:
            return stoploss_from_open(0.02, current_profit, is_short=trade.is_short, leverage=trade.leverage)
        if current_profit > 0.015:
            return stoploss_from_open(0.005, current_profit, is_short=trade.is_short, leverage=trade.leverage)
        return 1

    def custom_exit(
        self, pair: str, trade: Trade, current_time: datetime, current_rate: float, current_profit: float, **kwargs
    ) -> str | None:
        dataframe, _ = self.dp.get_analyzed_dataframe(pair, self.timeframe)
        last_candle = dataframe.iloc[-1].squeeze()
        if trade.is_short and last_candle["rsi"] < 25:
            return "rsi_low"
        if current_profit < 0 and (current_time - trade.open_date_utc).days >= 2:
            return "unclog"
        return None

    def confirm_trade_entry(
        self,
        pair: str,
        order_type: str,
        amount: float,
        rate: float,
        time_in_force: str,
        current_time: datetime,
        entry_tag: str | None,
        side: str,
        **kwargs,
    ) -> bool:
        return current_time.weekday() != 6
