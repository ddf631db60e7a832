"""Figures of a backtest: a trade as JSON and back, and what a result comes to."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from backtesting.figures import TRADE_FIELDS, trade_of, trade_row
from backtesting.inputs import Trade
from domain.exits import ExitReason
from domain.market import PositionSide


def test_a_trade_comes_back_from_its_json_as_it_was() -> None:
    noon = datetime(2024, 5, 1, 12, tzinfo=UTC)
    ended = Trade(
        "BTC/USDT", PositionSide.SHORT, noon, 100.1, noon.replace(hour=15), 90.3, 0.1 + 0.2, 2.9, 0.0966, 0.04, -0.01,
        ExitReason.TRAILING_STOP, "dip",
    )  # fmt: skip
    held = Trade("BTC/USDT", PositionSide.LONG, noon, 100.0, noon, 101.0, 1.0, 1.0, 0.01, 0.0)
    for trade in (ended, held):
        assert trade_of(json.loads(json.dumps(trade_row(trade)))) == trade
        assert tuple(trade_row(trade)) == TRADE_FIELDS
