"""Figures in words that a reader of a page knows: a label for each name, and its value with its unit and its sign."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log10
from typing import Any, Self

from backtesting.wording import UNITS, Unit, figure_text, figure_title

SIGNED = ("return", "cagr", "pnl", "expectancy", "gain", "alpha")


@dataclass(frozen=True, slots=True)
class Money:
    """Amounts with so many decimals."""

    decimals: int

    @classmethod
    def of(cls, cash: float) -> Self:
        """Six digits of what was begun with, at least cents."""
        return cls(min(max(6 - ceil(log10(cash)), 2), 8))


def label_of(name: str) -> str:
    title = figure_title(name)
    return title[:1].upper() + title[1:]


def said(name: str, value: Any, money: Money) -> str:
    """The figure ``name`` as a reader sees it; a dash where there is none."""
    if value is None:
        return "–"
    unit = UNITS.get(
        name, Unit.WORD if isinstance(value, str) else Unit.COUNT if isinstance(value, int) else Unit.RATIO
    )
    sign = "+" if name.rsplit("_", 1)[-1] in SIGNED else ""
    match unit:
        case Unit.PERCENT:
            return f"{_number(value * 100, 2, sign)} %"
        case Unit.MONEY:
            return _number(value, money.decimals, sign)
        case Unit.COUNT:
            return _number(value, 0)
        case Unit.RATIO:
            return _number(value, 2)
        case Unit.DAYS | Unit.HOURS:
            return f"{_number(value, 1)} {unit.lower()}"
        case _:
            return figure_text(name, value)


def _number(value: float, decimals: int, sign: str = "") -> str:
    """With a thin minus that is as wide as a plus, and no sign at nothing."""
    text = f"{value:{sign},.{decimals}f}"
    if not any(digit in "123456789" for digit in text):
        text = text.lstrip("+-")
    return text.replace("-", "−")
