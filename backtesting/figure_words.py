"""Figures in words that a reader knows: a label for each name, and its value with the unit that the name tells."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log10
from typing import Any, Self

LABELS = {
    "total_return": "Return", "cagr": "Return a year", "max_drawdown": "Max drawdown", "pnl": "Profit",
    "final_equity": "Final equity", "sqn": "SQN",
}  # fmt: skip
PERCENT = (
    "return", "cagr", "drawdown", "rate", "exposure", "volatility", "at_risk", "gain", "share", "alpha", "worst", "best",
)  # fmt: skip
MONEY = ("fees", "equity", "pnl", "expectancy", "funding", "profit", "loss", "cash")
SIGNED = ("return", "cagr", "pnl", "expectancy", "gain", "alpha", "worst", "best")
UNITS = ("days", "hours", "minutes", "seconds", "candles", "years")


@dataclass(frozen=True, slots=True)
class Money:
    """Amounts with so many decimals."""

    decimals: int

    @classmethod
    def of(cls, cash: float) -> Self:
        """Six digits of what was begun with, at least cents."""
        return cls(min(max(6 - ceil(log10(cash)), 2), 8))


def label_of(name: str) -> str:
    return LABELS.get(name, name.replace("_", " ").capitalize())


def said(name: str, value: Any, money: Money) -> str:
    """The figure ``name`` as a reader sees it; a dash where there is none."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    last = name.rsplit("_", 1)[-1]
    if last in UNITS:
        return f"{_number(value, 0 if isinstance(value, int) else 1)} {last}"
    if isinstance(value, int):
        return _number(value, 0)
    sign = "+" if last in SIGNED else ""
    if last in MONEY:
        return _number(value, money.decimals, sign)
    if last in PERCENT or name.endswith("at_risk"):
        return f"{_number(value * 100, 2, sign)} %"
    return _number(value, 2)


def _number(value: float, decimals: int, sign: str = "") -> str:
    """With a thin minus that is as wide as a plus, and no sign at nothing."""
    text = f"{value:{sign},.{decimals}f}"
    if not any(digit in "123456789" for digit in text):
        text = text.lstrip("+-")
    return text.replace("-", "−")
