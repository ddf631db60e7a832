"""Every strategy that a configuration may name: pure classes, one file each, no Django. One's own are added to them by
``strategies/registry.py``."""

from __future__ import annotations

from strategies.library.bollinger_breakout import BollingerBreakout
from strategies.library.bollinger_reversion import BollingerReversion
from strategies.library.dca import Dca
from strategies.library.donchian import Donchian
from strategies.library.ema_cross import EmaCross
from strategies.library.grid import Grid
from strategies.library.intraday import Intraday
from strategies.library.macd import Macd
from strategies.library.manual import Manual
from strategies.library.momentum_rotation import MomentumRotation
from strategies.library.rsi_reversion import RsiReversion
from strategies.library.scalping import Scalping
from strategies.library.sma_cross import SmaCross
from strategies.library.supertrend import Supertrend
from strategies.library.swing import Swing
from strategies.library.trend_filter import TrendFilter
from strategies.registry import Registry

LIBRARY = Registry(
    (
        SmaCross, EmaCross, TrendFilter, Macd, Donchian, Supertrend, BollingerBreakout,  # they follow
        RsiReversion, BollingerReversion,  # they turn
        Scalping, Intraday, Swing, MomentumRotation, Grid, Dca, Manual,
    )
)  # fmt: skip
