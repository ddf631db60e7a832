"""The verdict of a run: a table for people, JSON for programs, and how to repeat it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COLUMNS = ("scenario", "runs", "faults", "lost", "duplicated", "unresolved", "converged s", "verdict")


@dataclass
class Row:
    """What came of one scenario. ``converged_s`` is the longest time from healed to at rest."""

    name: str
    runs: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    duplicated: int = 0
    unresolved: int = 0
    converged_s: float = 0.0
    breaches: list[str] = field(default_factory=list)

    def cells(self) -> tuple[str, ...]:
        return (
            self.name, str(self.runs), str(sum(self.faults.values())), str(self.lost), str(self.duplicated),
            str(self.unresolved), f"{self.converged_s:.1f}", "ok" if not self.breaches else "BREACH",
        )  # fmt: skip


@dataclass
class Report:
    """All rows of one run."""

    seed: int
    pace: float
    rows: dict[str, Row] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def row(self, name: str) -> Row:
        return self.rows.setdefault(name, Row(name))

    @property
    def breaches(self) -> list[str]:
        return [f"{row.name}: {words}" for row in self.rows.values() for words in row.breaches]

    @property
    def faults(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for row in self.rows.values():
            total += row.faults
        return total

    def text(self) -> str:
        """The table, the sums by kind of fault, every breach, and how to repeat it."""
        lines = [COLUMNS, *(row.cells() for row in self.rows.values())]
        widths = [max(len(line[index]) for line in lines) for index in range(len(COLUMNS))]
        table = [
            "  ".join(
                cell.ljust(width) if index in (0, len(COLUMNS) - 1) else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.faults.items())) or "none"
        facts = ", ".join(f"{value} {name}" for name, value in self.facts.items())
        table += ["", f"faults: {kinds}", *([f"traded: {facts}"] if facts else [])]
        table += [f"BREACH {breach}" for breach in self.breaches]
        table.append(f"seed {self.seed}: {f'{len(self.breaches)} breaches' if self.breaches else 'every promise held'}")
        return "\n".join(table)

    def write(self, path: Path) -> None:
        content: Mapping[str, Any] = {
            "seed": self.seed,
            "pace": self.pace,
            "faults": self.faults,
            "facts": self.facts,
            "rows": [vars(row) for row in self.rows.values()],
            "breaches": self.breaches,
        }
        path.write_text(json.dumps(content, indent=1, default=str) + "\n")
