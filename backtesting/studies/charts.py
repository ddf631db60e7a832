"""Small pictures of a study for its page, as SVG: the objective by trial, two parameters as a heat map, and bands as a fan.
Colours are the page's own, so that they are seen by day and by night."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

WIDTH, HEIGHT = 720, 240
# Room for the words beside and below what is drawn.
LEFT, BOTTOM, TOP, RIGHT = 64, 26, 8, 12
# Dots that are drawn at most; of more trials every so many, and the best line of all.
MOST_DOTS = 600
# Values of an axis of a heat map at most: of more it would be a carpet.
MOST_CELLS = 40
LONGEST_WORD = 12

Point = tuple[float, float]


class Frame:
    """Where numbers lie on a picture: ``low`` to ``high`` from the bottom up, ``start`` to ``end`` from the left."""

    def __init__(self, start: float, end: float, low: float, high: float) -> None:
        self.start, self.end, self.low, self.high = start, end, low, high

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * _part(value, self.start, self.end)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * _part(value, self.low, self.high)

    def points(self, points: Sequence[Point]) -> str:
        return " ".join(f"{self.x(at):.1f},{self.y(value):.1f}" for at, value in points)

    def scale(self, ends: tuple[str, str], unit: str = "") -> SafeString:
        """Lines at the lowest, middle and highest number, and what the ends of the time, or of the numbers, are called."""
        marks = [self.low, (self.low + self.high) / 2, self.high]
        lines = format_html_join(
            "",
            '<line x1="{}" x2="{}" y1="{}" y2="{}" stroke="currentColor" stroke-opacity="0.15"/>'
            '<text x="{}" y="{}" text-anchor="end" fill="currentColor" font-size="11">{}</text>',
            (
                (LEFT, WIDTH - RIGHT, f"{self.y(one):.1f}", f"{self.y(one):.1f}", LEFT - 6, f"{self.y(one) + 4:.1f}",
                 _number(one, unit))
                for one in marks
            ),
        )  # fmt: skip
        return format_html(
            '{}<text x="{}" y="{}" fill="currentColor" font-size="11">{}</text>'
            '<text x="{}" y="{}" text-anchor="end" fill="currentColor" font-size="11">{}</text>',
            lines, LEFT, HEIGHT - 6, ends[0], WIDTH - RIGHT, HEIGHT - 6, ends[1],
        )  # fmt: skip


def objective_chart(values: Sequence[float | None], objective: str) -> SafeString | str:
    """A dot for each trial in the order of their numbers, and the best so far as a line; nothing with less than two."""
    known = [(float(number), value) for number, value in enumerate(values) if value is not None]
    if len(known) < 2:
        return ""
    best = np.maximum.accumulate([value for _, value in known]).tolist()
    frame = Frame(0, len(values) - 1, min(value for _, value in known), best[-1])
    shown = known[:: -(-len(known) // MOST_DOTS)]
    dots = format_html_join(
        "",
        '<circle cx="{}" cy="{}" r="2" fill="currentColor" fill-opacity="0.35"/>',
        ((f"{frame.x(at):.1f}", f"{frame.y(value):.1f}") for at, value in shown),
    )
    steps = [
        point
        for place, (at, _) in enumerate(known)
        for point in ([(at, best[place - 1])] if place else []) + [(at, best[place])]
        if not place or best[place] != best[place - 1] or place == len(known) - 1
    ]
    line = _line(frame, steps)
    return _picture(f"{objective} by trial", frame.scale(("first trial", f"trial {len(values) - 1}")), dots, line)


def heat_map(names: tuple[str, str], cells: Mapping[tuple[Any, Any], float], objective: str) -> SafeString | str:
    """What each pair of values came to: the better, the fuller its colour. Nothing for less than two values on an axis, and
    for more than can be told apart."""
    across, up = (sorted({pair[place] for pair in cells}, key=_order) for place in (0, 1))
    if not all(2 <= len(axis) <= MOST_CELLS for axis in (across, up)):
        return ""
    low, high = min(cells.values()), max(cells.values())
    wide, tall = (WIDTH - LEFT - RIGHT) / len(across), (HEIGHT - BOTTOM - TOP) / len(up)
    of_up = {value: place for place, value in enumerate(up)}
    places = {value: place for place, value in enumerate(across)}
    boxes = format_html_join(
        "",
        '<rect x="{}" y="{}" width="{}" height="{}" class="text-primary-600" fill="currentColor" fill-opacity="{}">'
        "<title>{} {}, {} {}: {}</title></rect>",
        (
            (f"{LEFT + wide * places[x]:.1f}", f"{HEIGHT - BOTTOM - tall * (of_up[y] + 1):.1f}", f"{max(wide - 1, 1):.1f}",
             f"{max(tall - 1, 1):.1f}", f"{0.04 + 0.96 * _part(value, low, high) ** 1.5:.3f}", names[0], _short(x), names[1],
             _short(y), _number(value))
            for (x, y), value in cells.items()
        ),
    )  # fmt: skip
    best = max(cells, key=lambda pair: cells[pair])
    mark = format_html(
        '<rect x="{}" y="{}" width="{}" height="{}" fill="none" stroke="currentColor" stroke-width="1.5"/>',
        f"{LEFT + wide * places[best[0]]:.1f}", f"{HEIGHT - BOTTOM - tall * (of_up[best[1]] + 1):.1f}",
        f"{max(wide - 1, 1):.1f}", f"{max(tall - 1, 1):.1f}",
    )  # fmt: skip
    words = format_html_join(
        "",
        '<text x="{}" y="{}" text-anchor="{}" fill="currentColor" font-size="11">{}</text>',
        [
            (LEFT, HEIGHT - 6, "start", _short(across[0])),
            ((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "middle", names[0]),
            (WIDTH - RIGHT, HEIGHT - 6, "end", _short(across[-1])),
            (LEFT - 6, HEIGHT - BOTTOM - 2, "end", _short(up[0])),
            (LEFT - 6, (TOP + HEIGHT - BOTTOM) / 2 + 4, "end", names[1][:LONGEST_WORD]),
            (LEFT - 6, TOP + 11, "end", _short(up[-1])),
        ],
    )
    return _picture(f"{objective} by {names[0]} and {names[1]}", boxes, mark, words)


def fan_chart(bands: Mapping[str, Any], name: str) -> SafeString | str:
    """The middle of all paths, where half of them go, and where nine of ten do."""
    steps, curves = bands["steps"], bands["curves"]
    if len(steps) < 2:
        return ""
    frame = Frame(steps[0], steps[-1], min(min(curves["5"]), 1.0), max(max(curves["95"]), 1.0))
    areas = format_html_join(
        "",
        '<polygon points="{}" class="text-primary-600" fill="currentColor" fill-opacity="{}"/>',
        (
            (frame.points(_around(steps, curves[low], curves[high])), opacity)
            for low, high, opacity in (("5", "95", 0.15), ("25", "75", 0.3))
        ),
    )
    middle = _line(frame, [*zip(steps, curves["50"], strict=True)])
    ends = (f"{bands['paths']:,} paths", f"after {steps[-1]:,} steps")
    return _picture(f"{name}: what one unit became", areas, middle, frame.scale(ends))


def equity_chart(points: Sequence[Sequence[float]], ends: tuple[str, str]) -> SafeString | str:
    """What an account was worth along the time."""
    if len(points) < 2:
        return ""
    worths = [worth for _, worth in points]
    frame = Frame(points[0][0], points[-1][0], min(worths), max(worths))
    return _picture("Equity of the tests", frame.scale(ends), _line(frame, [(at, worth) for at, worth in points]))


def _picture(label: str, *parts: SafeString) -> SafeString:
    return format_html(
        '<svg viewBox="0 0 {} {}" class="w-full" style="max-height: 20rem" role="img" aria-label="{}">{}</svg>',
        WIDTH, HEIGHT, label, format_html_join("", "{}", ((one,) for one in parts)),
    )  # fmt: skip


def _line(frame: Frame, points: Sequence[Point]) -> SafeString:
    return format_html(
        '<polyline points="{}" class="text-primary-600" fill="none" stroke="currentColor" stroke-width="1.5"/>',
        frame.points(points),
    )


def _around(steps: Sequence[float], low: Sequence[float], high: Sequence[float]) -> list[Point]:
    """The edge of what lies between two curves."""
    return [*zip(steps, low, strict=True), *reversed([*zip(steps, high, strict=True)])]


def _part(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def _number(value: float, unit: str = "") -> str:
    return f"{value:,.0f}{unit}" if abs(value) >= 1000 else f"{value:.3g}{unit}"


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text[:LONGEST_WORD]


def _order(value: Any) -> tuple[bool, Any]:
    return (isinstance(value, str), value)
