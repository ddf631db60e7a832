"""Every strategy that a configuration may name: pure classes, one file each, no Django."""

from __future__ import annotations

from typing import Any

from domain.strategy import Strategy
from strategies.library.manual import Manual
from strategies.library.rsi_reversion import RsiReversion
from strategies.library.sma_cross import SmaCross
from strategies.library.trend_filter import TrendFilter

LIBRARY: dict[str, type[Strategy[Any]]] = {
    strategy.name: strategy for strategy in (SmaCross, TrendFilter, RsiReversion, Manual)
}
