"""What a row can keep: columns of numbers as bytes and back, exactly; JSON and text without what the database has no word
for. Pure: no Django."""

from __future__ import annotations

import io
import math
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


def finite(value: Any) -> Any:
    """``value``, JSON as Python says it, with None for what is no number, and without NUL and halves of surrogate pairs."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.replace("\0", "").encode(errors="replace").decode()
    if isinstance(value, dict):
        return {finite(name): finite(one) for name, one in value.items()}
    return [finite(one) for one in value] if isinstance(value, list | tuple) else value


def printable(text: str, length: int) -> str:
    """The first ``length`` characters of ``text``, a blank for each that is not to be seen."""
    return "".join(char if char.isprintable() else " " for char in text[:length])
