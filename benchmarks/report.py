"""Figures as an aligned table for a reader and as JSON for a program; both say what machine and load they are of."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True, slots=True)
class Spread:
    """Some measurements of one thing, in the unit they were taken in."""

    p50: float
    p99: float
    most: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        ordered = sorted(values)
        # The smallest value that at least 99 % do not exceed.
        rank = -(-len(ordered) * 99 // 100) - 1
        return cls(statistics.median(ordered), ordered[rank], ordered[-1], len(ordered))

    def figures(self) -> dict[str, float]:
        return {"p50": round(self.p50, 3), "p99": round(self.p99, 3), "max": round(self.most, 3), "n": self.count}


@dataclass
class Table:
    """Rows of text under column names; the first column is left-aligned, the rest are right-aligned."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def add(self, *cells: object) -> None:
        self.rows.append(tuple(_cell(cell) for cell in cells))

    def text(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.columns))]
        laid = [
            "  ".join(
                cell.ljust(width) if column == 0 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        return "\n".join([self.title, laid[0], "-" * len(laid[0]), *laid[1:]])


@dataclass
class Report:
    """What one benchmark found: tables to print, figures to keep."""

    name: str
    tables: list[Table] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    load_before: tuple[float, ...] = field(default_factory=os.getloadavg)

    def table(self, title: str, *columns: str) -> Table:
        self.tables.append(Table(title, columns))
        return self.tables[-1]

    def text(self) -> str:
        machine = (
            f"{os.cpu_count()} cores, Python {platform.python_version()}; load average "
            f"{_load(self.load_before)} before, {_load(os.getloadavg())} after"
        )
        return "\n\n".join([f"r3edge bench {self.name}: {machine}", *(table.text() for table in self.tables)])

    def write(self, path: Path) -> None:
        facts = {
            "benchmark": self.name,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "python": platform.python_version(),
            "load_before": self.load_before,
            "load_after": os.getloadavg(),
        }
        path.write_text(json.dumps({**facts, **self.figures}, indent=2) + "\n")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _load(load: Sequence[float]) -> str:
    return f"{load[0]:.1f}"
