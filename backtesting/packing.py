"""Columns of numbers as bytes that a row can keep, and back, exactly. Pure: no Django."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray


def packed(**columns: NDArray[Any]) -> bytes:
    """``columns``, compressed; ``unpacked`` gives each back by its name."""
    sink = io.BytesIO()
    # Names of parameters are keywords of numpy's own function, too: these go by another way.
    np.savez_compressed(sink, **{f"_{name}": np.ascontiguousarray(column) for name, column in columns.items()})  # type: ignore[arg-type]
    return sink.getvalue()


def unpacked(stored: bytes | memoryview) -> dict[str, NDArray[Any]]:
    """The columns that ``packed`` made ``stored`` of, by name."""
    with np.load(io.BytesIO(stored), allow_pickle=False) as columns:
        return {name.removeprefix("_"): columns[name] for name in columns.files}
