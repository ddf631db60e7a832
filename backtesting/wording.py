"""How figures read: each has a unit, and every text that shows one, on a page or in a terminal, says it the same way.

Figures are kept as fractions and plain numbers; a percentage is one only when it is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

UNKNOWN = "-"


class Unit(StrEnum):
    MONEY = "MONEY"  # in the quote currency
    PERCENT = "PERCENT"  # kept as a fraction of one
    RATIO = "RATIO"
    COUNT = "COUNT"
    DAYS = "DAYS"
    HOURS = "HOURS"
    TIME = "TIME"  # ISO 8601, UTC
    WORD = "WORD"


UNITS = {
    **dict.fromkeys(
        (
            "start_equity", "final_equity", "peak_equity", "profit", "fees", "slippage", "funding",
            "profit_without_costs", "traded_value", "pnl", "expectancy", "average_win", "average_loss",
            "largest_win", "largest_loss",
        ),
        Unit.MONEY,
    ),
    **dict.fromkeys(
        (
            "total_return", "cagr", "buy_and_hold_return", "excess_return", "alpha", "volatility", "value_at_risk",
            "conditional_value_at_risk", "max_drawdown", "average_drawdown", "ulcer_index", "exposure",
            "capital_used", "win_rate", "average_return", "best_return", "worst_return", "median_return", "kelly",
            "return", "depth",
        ),
        Unit.PERCENT,
    ),
    **dict.fromkeys(
        (
            "beta", "correlation", "sharpe", "sortino", "calmar", "omega", "tail_ratio", "stability", "skew",
            "kurtosis", "recovery_factor", "turnover", "profit_factor", "payoff_ratio", "sqn",
        ),
        Unit.RATIO,
    ),
    **dict.fromkeys(
        (
            "candles", "trades", "winners", "losers", "still_open", "refused", "most_wins_in_a_row",
            "most_losses_in_a_row",
        ),
        Unit.COUNT,
    ),
    **dict.fromkeys(("days", "max_drawdown_days", "longest_drawdown_days"), Unit.DAYS),
    **dict.fromkeys(
        ("average_hours", "average_winning_hours", "average_losing_hours", "longest_hours"), Unit.HOURS
    ),
    **dict.fromkeys(("from_at", "until_at", "low_at"), Unit.TIME),
}  # fmt: skip

TITLES = {
    "cagr": "return a year",
    "buy_and_hold_return": "buy and hold",
    "excess_return": "beyond buy and hold",
    "volatility": "volatility a year",
    "value_at_risk": "95 % of days above",
    "conditional_value_at_risk": "worst 5 % of days",
    "max_drawdown": "deepest drawdown",
    "max_drawdown_days": "deepest drawdown lasted",
    "longest_drawdown_days": "longest drawdown lasted",
    "exposure": "time in the market",
    "turnover": "turnover a year",
    "pnl": "profit",
    "sqn": "SQN",
    "kelly": "Kelly's fraction",
    "expectancy": "profit a trade",
    "average_hours": "held on average",
    "average_winning_hours": "held when it won",
    "average_losing_hours": "held when it lost",
    "longest_hours": "held at most",
    "average_return": "return a trade",
    "best_return": "best trade",
    "worst_return": "worst trade",
}


def figure_title(name: str) -> str:
    """What a figure is called where people read it."""
    return TITLES.get(name, name.removesuffix("_at").replace("_", " "))


def figure_text(name: str, value: Any) -> str:
    """A figure with its unit, in as many digits as say something; one that is not known is a dash."""
    if value is None:
        return UNKNOWN
    match UNITS.get(name, Unit.WORD):
        case Unit.PERCENT:
            return percent_text(value)
        case Unit.MONEY:
            return money_text(value)
        case Unit.RATIO:
            return f"{value:,.2f}"
        case Unit.COUNT:
            return f"{value:,}"
        case Unit.DAYS:
            return f"{value:,.1f} d"
        case Unit.HOURS:
            return f"{value:,.1f} h"
        case Unit.TIME:
            return str(value)[:16].replace("T", " ")
        case _:
            return str(value)


def percent_text(fraction: float) -> str:
    """A fraction as a percentage: two decimals, four where those would be nothing."""
    return f"{_unsigned_zero(100 * fraction, 4 if 0 < abs(fraction) < 0.0001 else 2)} %"


def money_text(amount: float) -> str:
    return _unsigned_zero(amount, 2 if abs(amount) >= 0.01 or amount == 0 else 6)


def refusal_text(error: ValueError) -> str:
    """What a refusal says, in one line: of parameters each by its name."""
    if isinstance(error, ValidationError):
        return "; ".join(": ".join((*map(str, one["loc"]), complaint_text(one["msg"]))) for one in error.errors())
    return str(error)


def complaint_text(message: str) -> str:
    """One complaint of pydantic's, without what it puts before those of ours."""
    return message.removeprefix("Value error, ")


def table_text(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as lines of text: the first column at the left, the others at the right."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in (columns, *rows)
    )


def _unsigned_zero(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:,.{digits}f}"
