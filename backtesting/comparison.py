"""Several backtests side by side: their figures, and in words what differs in what was asked of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from backtesting.models import BacktestRun

# Beyond these a table is read by nobody.
MOST_COMPARED = 20
MISSING = "-"
HASHES = ("code", "market_data")


@dataclass(frozen=True, slots=True)
class Line:
    """One thing said of every run, in their order."""

    name: str
    values: list[Any]

    @property
    def differs(self) -> bool:
        return any(value != self.values[0] for value in self.values)

    def __str__(self) -> str:
        if self.name in HASHES:
            return f"{self.name.replace('_', ' ')}: {'not ' if self.differs else ''}the same"
        return f"{self.name.replace('_', ' ')}: {', '.join(map(_text, self.values))}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """``figures`` of all runs by name, and of their words those that ``differ``."""

    figures: list[Line]
    differ: list[Line]

    @property
    def in_words(self) -> list[str]:
        """A sentence for each thing that differs; one that says so where nothing does."""
        return [str(line) for line in self.differ] or [
            "nothing of what was asked, of the code or of the candles differs"
        ]


def runs_compared(runs: Sequence[BacktestRun]) -> Comparison:
    """``runs`` as they stand side by side; figures that are not there yet are None. Their feeds are best prefetched."""
    return Comparison(
        figures=_lines([run.figures_told.get("stats", {}) for run in runs], None),
        differ=[line for line in _lines([_words(run) for run in runs], MISSING) if line.differs],
    )


def _words(run: BacktestRun) -> dict[str, Any]:
    places = list(run.places.all())
    words: dict[str, Any] = {
        "strategy": run.strategy,
        "feeds": " + ".join(str(place.feed) for place in places),
        "detail_timeframe": run.detail_timeframe or MISSING,
        "from": f"{run.from_at:%Y-%m-%d %H:%M}",
        "until": f"{run.until_at:%Y-%m-%d %H:%M}",
    }
    for group in (run.parameters, run.settings, run.limits, run.exits):
        for name, value in group.items():
            # A parameter may be called as a setting is: then both are told.
            words[name if name not in words else f"{name} (2)"] = value
    return {**words, "code": run.code_hash or MISSING, "market_data": run.data_hash or MISSING}


def _lines(said: Sequence[dict[str, Any]], missing: Any) -> list[Line]:
    names = dict.fromkeys(name for one in said for name in one)
    return [Line(name, [one.get(name, missing) for one in said]) for name in names]


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
