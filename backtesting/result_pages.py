"""What came of backtests as the admin shows it: figures in words, curves as lines, groups and trades as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from backtesting.comparison import runs_compared
from backtesting.models import BacktestRun
from backtesting.report import label_of, said
from backtesting.runs import run_repetition, run_trades
from pipeline.pages import SECTION_ROWS, Fact, Sections, Table, badge, link, table

SIDES = {"LONG": "success", "SHORT": "danger"}
# Of the figures, those that stand large above.
HEADLINES = ("total_return", "max_drawdown", "sharpe", "trades", "win_rate", "profit_factor")
# Key, title, heading, and from how many on they are worth a table.
GROUPS = (
    ("per_reason", "By exit", "Left by", 1), ("per_market", "By market", "Market", 2), ("per_side", "By side", "Side", 2),
    ("per_tag", "By tag", "Tag", 2),
)  # fmt: skip
CHART_WIDTH, CHART_HEIGHT = 600, 90
COLOURS = ("#0d9488", "#d97706", "#6366f1", "#db2777", "#65a30d", "#0284c7")


def curves_drawn(curves: Sequence[Sequence[Sequence[Any]]]) -> SafeString | str:
    """Curves of [time, value] as lines over the time of all of them, each in parts of its own beginning, in ``COLOURS`` by
    their places; points without a value, and curves of less than two, are left out."""
    known = [[point for point in curve if point[1] is not None] for curve in curves]
    kept = {number: curve for number, curve in enumerate(known) if len(curve) > 1 and curve[0][1] > 0}
    if not kept:
        return ""
    start, end = min(curve[0][0] for curve in kept.values()), max(curve[-1][0] for curve in kept.values())
    shares = {number: [(at, value / curve[0][1]) for at, value in curve] for number, curve in kept.items()}
    values = [value for one in shares.values() for _, value in one]
    low, high = min(values), max(values)
    reach = (high - low) or 1.0

    def points(one: Sequence[tuple[float, float]]) -> str:
        return " ".join(
            f"{(at - start) / (end - start) * CHART_WIDTH:.1f},{CHART_HEIGHT * (1 - (y - low) / reach):.1f}"
            for at, y in one
        )

    lines = format_html_join(
        "",
        '<polyline points="{}" fill="none" stroke="{}" stroke-width="1.5" vector-effect="non-scaling-stroke"/>',
        ((points(one), COLOURS[number % len(COLOURS)]) for number, one in shares.items()),
    )
    begun = CHART_HEIGHT * (1 - (1 - low) / reach)
    return format_html(
        '<svg viewBox="-1 -1 {} {}" class="w-full" preserveAspectRatio="none" style="height: 7rem" role="img" '
        'aria-label="Equity in parts of what it began with"><line x1="0" x2="{}" y1="{}" y2="{}" stroke="currentColor" '
        'stroke-dasharray="3 4" opacity="0.35" vector-effect="non-scaling-stroke"/>{}</svg>',
        CHART_WIDTH + 2, CHART_HEIGHT + 2, CHART_WIDTH, f"{begun:.1f}", f"{begun:.1f}", lines,
    )  # fmt: skip


def side_by_side(runs: Sequence[BacktestRun]) -> Sections:
    """What differs in what was asked of ``runs``, their curves in one picture, and their figures in columns."""
    told = runs_compared(runs)
    names = [f"{run.pk}: {run.name}" for run in runs]
    legend = format_html_join(
        " ",
        '<span class="mr-4 whitespace-nowrap"><span style="color: {}">■</span> {}</span>',
        ((COLOURS[number % len(COLOURS)], link(run, names[number])) for number, run in enumerate(runs)),
    )
    drawn = curves_drawn([(run.figures or {}).get("curve", []) for run in runs])
    facts = [] if told.differ else [Fact("What differs", told.in_words[0], is_wide=True)]
    if drawn:
        facts.append(Fact("Equity, in parts of what each began with", drawn, legend, is_wide=True))
    figures = [
        [
            label_of(line.name),
            *(text_of(run, line.name, value) for run, value in zip(runs, line.values, strict=True)),
        ]
        for line in told.figures
    ]
    differ = [[line.name.replace("_", " "), *map(_short, line.values)] for line in told.differ]
    tables = [table("What differs", ("", *names), differ)] if differ else []
    return Sections(facts if runs else [Fact("Nothing to compare", "none of yours was named")], [
        *tables, *([table("Figures", ("", *names), figures)] if figures else []),
    ])  # fmt: skip


def done_facts(run: BacktestRun, figures: dict[str, Any]) -> list[Fact]:
    """Where all of it is, how it compares with the one that it repeats, what to take care of, and the curve."""
    links = format_html_join(
        " · ",
        '<a class="text-link" href="{}" target="_blank">{}</a>',
        (
            (reverse("backtest-report", args=[run.pk]), "report"),
            (reverse("backtest-trades", args=[run.pk]) + "?format=csv", "trades as CSV"),
            (reverse("backtest-equity", args=[run.pk]) + "?format=csv&limit=100000", "equity as CSV"),
        ),
    )
    facts = [Fact("All of it", links)]
    if (told := run_repetition(run)) is not None:
        facts.append(Fact("Repeats", link(run.repeats), str(told)))
    if warnings := figures.get("warnings"):
        facts.append(
            Fact("Take care", format_html_join("", "<div>{}</div>", ((one["text"],) for one in warnings)), is_wide=True)
        )
    facts.append(Fact("Equity", curves_drawn([figures.get("curve", [])]), is_wide=True))
    return facts


def result_tables(run: BacktestRun, figures: dict[str, Any]) -> list[Table]:
    """All figures that are not headlines, what the trades came to by group, and the last of them."""
    rest = [(name, value) for name, value in figures["stats"].items() if name not in HEADLINES]
    half = (len(rest) + 1) // 2
    lines = [
        [shown for name, value in rest[number::half] for shown in (label_of(name), text_of(run, name, value))]
        for number in range(half)
    ]
    found = [table("Figures", ("", "", "", ""), [[*line, *[""] * (4 - len(line))] for line in lines])]
    for key, title, heading, fewest in GROUPS:
        groups = figures.get(key, [])[:SECTION_ROWS]
        if len(groups) >= fewest:
            found.append(table(title, (heading, "Trades", "Win rate", "Result"), (_group(run, one) for one in groups)))
    headers = ("Market", "Side", "Entered at", "Price", "Left at", "Price", "Result", "Return", "By")
    url = reverse("backtest-trades", args=[run.pk]) + "?format=csv"
    _, latest = run_trades(run.pk, -1, SECTION_ROWS)
    return [*found, table("Last trades", headers, (_trade(run, one) for one in reversed(latest)), url)]


def _group(run: BacktestRun, one: dict[str, Any]) -> list[Any]:
    return [
        one["name"] or "-", one["trades"], text_of(run, "win_rate", one["win_rate"]), text_of(run, "pnl", one["pnl"]),
    ]  # fmt: skip


def _trade(run: BacktestRun, one: dict[str, Any]) -> list[Any]:
    return [
        one["symbol"], badge(one["side"], SIDES), _at(one["entry_at"]), f"{one['entry_price']:.8g}", _at(one["exit_at"]),
        f"{one['exit_price']:.8g}", text_of(run, "pnl", one["pnl"]), text_of(run, "return", one["return"]),
        one["exit_reason"] or "still held",
    ]  # fmt: skip


def figure_shown(run: Any, name: str) -> Any:
    """The figure ``name`` of a row of the list, which was asked for its stats."""
    value = (run.stats or {}).get(name) if hasattr(run, "stats") else None
    return text_of(run, name, value)


def text_of(run: BacktestRun, name: str, value: Any) -> Any:
    """A figure with its unit; a gain in green, a loss in red."""
    text = said(name, value)
    if name not in ("total_return", "pnl", "return") or not isinstance(value, int | float) or not value:
        return text
    colour = "text-green-700 dark:text-green-400" if value > 0 else "text-red-700 dark:text-red-400"
    return format_html('<span class="{} whitespace-nowrap">{}</span>', colour, text)


def _at(text: str) -> SafeString:
    return format_html('<span class="whitespace-nowrap">{}</span>', text.replace("T", " ")[:16])


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 32 and text.isalnum() else text  # a hash
