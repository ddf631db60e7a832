"""Reference figures of other people's programs, where they are at hand: they are not part of the project."""

from __future__ import annotations

import csv
import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from domain.candles import FloatArray

ROOT = Path(__file__).resolve().parents[2]


def reference_path(name: str) -> Path:
    """The file ``name`` under R3EDGE_DATA_DIR, which is by default beside the checkout; skips the test without it."""
    path = ROOT / os.environ.get("R3EDGE_DATA_DIR", "../shared/data") / name
    if not path.is_file():
        pytest.skip(f"no reference data {name}: R3EDGE_DATA_DIR names the directory that has it")
    return path


def reference_columns(name: str) -> dict[str, FloatArray]:
    """A gzipped CSV file as arrays by column, NaN where a cell is empty."""
    with gzip.open(reference_path(name), "rt") as lines:
        rows = list(csv.DictReader(lines))
    return {column: np.array([float(row[column] or "nan") for row in rows]) for column in rows[0]}


def reference_json(name: str) -> Any:
    """A JSON file, parsed."""
    return json.loads(reference_path(name).read_text())
