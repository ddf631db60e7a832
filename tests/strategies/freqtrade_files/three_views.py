"""Follows a short average where two longer timeframes and another market agree; every figure of it can be searched for."""

import talib.abstract as ta
from freqtrade.strategy import (
    BooleanParameter,
    CategoricalParameter,
    DecimalParameter,
    IntParameter,
    IStrategy,
    informative,
    merge_informative_pair,
)
from pandas import DataFrame
from technical import qtpylib


class ThreeViews(IStrategy):
    timeframe = "1h"
    minimal_roi = {}
    stoploss = -0.08
    startup_candle_count: int = 300

    buy_period = IntParameter(5, 60, default=20, space="buy")
    buy_rsi = DecimalParameter(40, 80, default=70, decimals=1, space="buy")
    buy_average = CategoricalParameter(["sma", "ema"], default="ema", space="buy")
    buy_wants_day = BooleanParameter(default=True, space="buy")
    buy_params = {"buy_period": 12}

    def informative_pairs(self):
        return [(pair, "1d") for pair in self.dp.current_whitelist()]

    @informative("4h")
    def populate_indicators_4h(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        dataframe["rsi"] = ta.RSI(dataframe, timeperiod=14)
        return dataframe

    @informative("1h", "ETH/{stake}")
    def populate_indicators_eth(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        dataframe["sma"] = ta.SMA(dataframe, timeperiod=30)
        return dataframe

    def populate_indicators(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        day = self.dp.get_pair_dataframe(pair=metadata["pair"], timeframe="1d")
        day["mean"] = day["close"].rolling(5).mean()
        dataframe = merge_informative_pair(dataframe, day, self.timeframe, "1d", ffill=True)
        for period in self.buy_period.range:
            average = ta.EMA if self.buy_average.value == "ema" else ta.SMA
            dataframe[f"average_{period}"] = average(dataframe, timeperiod=period)
        return dataframe

    def populate_entry_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        rises = qtpylib.crossed_above(dataframe["close"], dataframe[f"average_{self.buy_period.value}"])
        agrees = (dataframe["rsi_4h"] < self.buy_rsi.value) & (
            dataframe["eth_usdt_close_1h"] > dataframe["eth_usdt_sma_1h"]
        )
        if self.buy_wants_day.value:
            agrees &= dataframe["close_1d"] > dataframe["mean_1d"]
        dataframe.loc[rises & agrees, "enter_long"] = 1
        return dataframe

    def populate_exit_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        falls = qtpylib.crossed_below(dataframe["close"], dataframe[f"average_{self.buy_period.value}"])
        dataframe.loc[falls & (dataframe["rsi_4h"] > 50), "exit_long"] = 1
        return dataframe
