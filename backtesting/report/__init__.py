"""A backtest as one page: a file that opens anywhere, asks no network for anything, and that one can send to others.

Whatever comes from outside (names, tags, symbols) is escaped; the page's own policy forbids every script but its own two, and
every address. Figures are those of ``backtesting/figures.py``, shown and not computed again.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from html import escape
from math import ceil, log10
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from backtesting.engine.inputs import MarketInput, Result, Settings, at
from backtesting.report.charting import chart_of
from backtesting.wording import figure_text, figure_title
from domain.candles import FloatArray
from domain.exit_plan import ExitPlan
from domain.limits import Limits
from domain.sizing import SizingMethod

PAGE = Path(__file__).with_name("page")
LIBRARY = PAGE / "lightweight-charts" / "lightweight-charts.standalone.production.js"
SCRIPTS = ("data.js", "charts.js", "candles.js", "trades.js")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# Shown large, where the figures have them, in this order.
TILES = (
    "total_return", "cagr", "max_drawdown", "sharpe", "sortino", "calmar", "profit_factor", "win_rate", "expectancy",
    "trades", "exposure", "fees",
)  # fmt: skip
GROUPS = (("per_reason", "Exit reason"), ("per_side", "Side"), ("per_tag", "Tag"), ("per_market", "Market"))
# What is told of each group of trades; ``--json`` has more.
GROUP_COLUMNS = ("trades", "win_rate", "pnl", "average_return", "profit_factor")
# Shown with their sign also where they are a gain.
SIGNED = frozenset(
    {
        "total_return", "cagr", "buy_and_hold_return", "excess_return", "alpha", "profit", "pnl", "expectancy",
        "average_return", "median_return", "best_return", "worst_return", "profit_without_costs",
    }
)  # fmt: skip
# A return of so much in a month is as strong as the heat map's colours get.
HOT = 0.15
MOST_BARS = 41
SIZES = {
    SizingMethod.FIXED_QUOTE: "{} of the quote currency per entry",
    SizingMethod.PERCENT_OF_EQUITY: "{} % of equity per entry",
    SizingMethod.RISK_PER_TRADE: "{} % of equity at risk per trade",
    SizingMethod.VOLATILITY: "{} % of equity per average true range",
    SizingMethod.KELLY: "{} % of the Kelly fraction",
}


def report_html(
    title: str, markets: Sequence[MarketInput], result: Result, settings: Settings, figures: Mapping[str, Any]
) -> str:
    """The page of ``result``, which is what ``settings`` and ``markets`` came to, with ``figures_of`` them."""
    drawn, packed = chart_of(markets, result, float(settings.cash))
    drawn["money_decimals"] = money_decimals(float(settings.cash))
    library = LIBRARY.read_text()
    script = "\n".join((PAGE / name).read_text() for name in SCRIPTS)
    return Template((PAGE / "page.html").read_text()).substitute(
        title=escape(title),
        policy=_policy(library, script),
        style=(PAGE / "page.css").read_text(),
        subtitle=escape(_subtitle(markets, result)),
        terms=_terms(markets, settings),
        warnings=_warnings(figures.get("warnings", ())),
        tiles=_tiles(figures),
        months=_months(figures.get("per_month", ())),
        distribution=_distribution([trade.gain for trade in result.trades if not trade.is_open]),
        drawdowns=_drawdowns(figures.get("drawdowns", ())),
        reasons=_groups(figures, GROUPS[:1]),
        groups=_groups(figures, GROUPS[1:]),
        all_figures=_all_figures(figures),
        refused=_refused(result),
        data=json.dumps(drawn, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        bytes=base64.b64encode(packed).decode(),
        library=library,
        script=script,
    )


def money_decimals(cash: float) -> int:
    """With how many decimals the page's script writes amounts: six digits of what was begun with, at least cents."""
    return min(max(6 - ceil(log10(cash)), 2), 8)


def label_of(name: str) -> str:
    title = figure_title(name)
    return title[:1].upper() + title[1:]


def said(name: str, value: Any) -> str:
    """The figure as the page writes it: with a minus as wide as a plus, and a plus where a sign says something."""
    sign = "+" if name in SIGNED and value is not None and value > 0 else ""
    return sign + figure_text(name, value).replace("-", "−")


def _policy(*scripts: str) -> str:
    """What the page may do: run these scripts, which are written into it between newlines, and ask nobody for anything."""
    hashes = (base64.b64encode(hashlib.sha256(f"\n{script}\n".encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    return f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {allowed}"


def _subtitle(markets: Sequence[MarketInput], result: Result) -> str:
    names = [market.symbol for market in markets]
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    timeframes = "/".join(dict.fromkeys(market.timeframe.value for market in markets))
    return " · ".join(filter(None, (shown, timeframes, _span(result))))


def _span(result: Result) -> str:
    if not len(result.open_ms):
        return "no candle that may be traded in"
    first, last = (at(int(result.open_ms[one])) for one in (0, -1))
    return f"{first:%-d %b %Y} to {last:%-d %b %Y}"


def _terms(markets: Sequence[MarketInput], settings: Settings) -> str:
    """What was tested: pairs of a name and words."""
    pairs: list[tuple[str, str]] = []
    for title, parameters in _strategies(markets):
        pairs += [("Strategy", title), ("Parameters", parameters)]
    pairs.append(("Exits", "; ".join(dict.fromkeys(_exits(market.exit_plan) for market in markets)) or "none"))
    pairs.append(("Candles", _candles(markets)))
    pairs.append(("Capital", f"{settings.cash:,}, {SIZES[settings.sizing].format(_plain(settings.amount))}"))
    pairs.append(("Costs", _costs(settings)))
    more = _more(settings, any(market.can_short for market in markets))
    return "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(words)}</dd></div>" for name, words in [*pairs, ("Rules", more)]
    )


def _strategies(markets: Sequence[MarketInput]) -> Iterable[tuple[str, str]]:
    """Title and parameters of each strategy, once where markets have the same."""
    found: dict[tuple[str, str], None] = {}
    for market in markets:
        strategy = market.strategy
        if strategy is None:
            found["signals that were given", "none"] = None
            continue
        values = strategy.parameters.model_dump(mode="json", exclude_none=True)
        found[f"{strategy.title} ({strategy.name})", ", ".join(f"{name} {value}" for name, value in values.items())] = (
            None
        )
    return found


def _exits(plan: ExitPlan) -> str:
    words = [
        plan.stop_loss_percent is not None and f"stop at {_plain(plan.stop_loss_percent)} %",
        plan.stop_loss_atr is not None and f"stop at {_plain(plan.stop_loss_atr)} average ranges",
        plan.is_stop_from_signal and "stop of the signal",
        *(
            f"target at {_plain(one.percent)} %"
            + (f" for {_plain(one.fraction * 100)} %" if len(plan.targets) > 1 else "")
            for one in plan.targets
        ),
        plan.is_target_from_signal and "target of the signal",
        plan.trailing_percent is not None and f"trailing stop {_plain(plan.trailing_percent)} %",
        plan.trailing_atr is not None and f"trailing stop {_plain(plan.trailing_atr)} average ranges",
        plan.break_even_percent is not None and f"break-even from {_plain(plan.break_even_percent)} %",
        *(f"{_plain(step.percent)} % from {step.minutes} min on" for step in plan.roi),
        plan.max_hold_minutes is not None and f"after {plan.max_hold_minutes} min",
        plan.is_exit_signal_used and "exit signals",
    ]
    return ", ".join(word for word in words if isinstance(word, str))


def _candles(markets: Sequence[MarketInput]) -> str:
    counts = sum(len(market.candles) for market in markets)
    warm_up = max((market.first for market in markets), default=0)
    detail = next((" with candles inside them" for market in markets if market.detail is not None), "")
    return f"{counts:,} in {len(markets)} market{'s' * (len(markets) != 1)}, {warm_up:,} of each to warm up{detail}"


def _costs(settings: Settings) -> str:
    rates = (
        ("fee", settings.taker_fee), ("fee of resting orders", settings.maker_fee), ("slippage", settings.slippage),
        ("spread", settings.spread),
    )  # fmt: skip
    return ", ".join(f"{name} {_plain(rate * 100)} %" for name, rate in rates)


def _more(settings: Settings, can_short: bool) -> str:
    words = [
        "long and short" if can_short else "long only",
        "entries at the next open",
        settings.leverage > 1 and f"leverage {_plain(settings.leverage)}",
        settings.max_entries > 1 and f"up to {settings.max_entries} entries a position",
        settings.volume_share is not None and f"at most {_plain(settings.volume_share * 100)} % of a candle's volume",
        settings.limits != Limits() and "limits of a risk profile",
        settings.is_closed_at_end and "closed at the end",
    ]
    return ", ".join(word for word in words if isinstance(word, str))


def _plain(number: Decimal) -> str:
    return f"{number.normalize():f}"


def _warnings(warnings: Sequence[Mapping[str, Any]]) -> str:
    if not warnings:
        return ""
    rows = "".join(f'<li data-code="{escape(one["code"])}">{escape(one["text"])}</li>' for one in warnings)
    head = '<h2 id="warnings">Read with care</h2>'
    return f'<section class="warnings" aria-labelledby="warnings">{head}<ul>{rows}</ul></section>'


def _tiles(figures: Mapping[str, Any]) -> str:
    stats, benchmark = figures["stats"], figures.get("benchmark", {})
    tiles = []
    for name in TILES:
        if name not in stats:
            continue
        beside = ""
        if benchmark.get(name) is not None:
            beside = f'<span class="beside">holding {escape(said(name, benchmark[name]))}</span>'
        elif name == "total_return" and stats.get("final_equity") is not None:
            beside = f'<span class="beside">to {escape(said("final_equity", stats["final_equity"]))}</span>'
        tiles.append(
            f'<div class="tile{_tone(name, stats[name])}"><dt>{escape(label_of(name))}</dt>'
            f'<dd data-figure="{escape(name)}">{escape(said(name, stats[name]))}</dd>{beside}</div>'
        )
    return "".join(tiles)


def _tone(name: str, value: Any) -> str:
    if name not in ("total_return", "cagr", "expectancy") or not value:
        return ""
    return " gain" if value > 0 else " loss"


def _all_figures(figures: Mapping[str, Any]) -> str:
    stats, benchmark = figures["stats"], figures.get("benchmark", {})
    rows = [
        f"<tr><th scope=row>{escape(label_of(name))}</th><td>{escape(said(name, value))}</td>"
        f"<td>{escape(said(name, benchmark[name])) if name in benchmark else ''}</td></tr>"
        for name, value in stats.items()
    ]
    head = "<tr><th scope=col>Figure</th><th scope=col>This run</th><th scope=col>Holding</th></tr>"
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _months(months: Sequence[Mapping[str, Any]]) -> str:
    """Returns by years and months, and those of the years."""
    years: dict[str, dict[int, float]] = {}
    for one in months:
        years.setdefault(one["name"][:4], {})[int(one["name"][5:7])] = one["return"]
    if not years:
        return "<p class=quiet>No month has a candle.</p>"
    head = "".join(f"<th scope=col>{name}</th>" for name in (*MONTHS, "Year"))
    rows = []
    for year, found in years.items():
        total = float(np.prod([1 + gain for gain in found.values()]) - 1)
        cells = "".join(_heat(found.get(month)) for month in range(1, 13))
        rows.append(f"<tr><th scope=row>{escape(year)}</th>{cells}{_heat(total, 'year')}</tr>")
    return f'<table class="heat"><thead><tr><td></td>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _heat(gain: float | None, kind: str = "") -> str:
    if gain is None:
        return "<td></td>"
    tone = f"{'gain' if gain > 0 else 'loss' if gain < 0 else 'even'} {kind}".strip()
    strength = min(abs(gain) / HOT, 1) ** 0.6 if gain else 0
    return f'<td class="{tone}" style="--strength:{strength:.2f}">{escape(_percents(gain))}</td>'


def _percents(gain: float) -> str:
    text = f"{gain * 100:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def _distribution(gains: Sequence[float]) -> str:
    """How many trades gained how much: bars, of which the outermost hold all that is beyond."""
    if not gains:
        return "<p class=quiet>No trade has ended.</p>"
    values = np.array(gains) * 100
    edges = _edges(values)
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    width, height, foot = 640.0, 220.0, 26.0
    bar, tallest = width / len(counts), int(counts.max())
    parts = []
    for index, count in enumerate(counts.tolist()):
        low, high = float(edges[index]), float(edges[index + 1])
        if not count:
            continue
        size = max(count / tallest * (height - foot - 16), 1.5)
        said_range = f"{_edge(low, index == 0, '≤')} to {_edge(high, index == len(counts) - 1, '≥')}"
        parts.append(
            f'<rect class="{"gain" if low >= 0 else "loss"}" x="{index * bar + 0.75:.1f}" y="{height - foot - size:.1f}" '
            f'width="{bar - 1.5:.1f}" height="{size:.1f}" rx="1.5"><title>{said_range}: {count:,}</title></rect>'
        )
    scale = width / float(edges[-1] - edges[0])
    for value, name in ((0.0, "zero"), (float(np.median(values)), "median")):
        if edges[0] <= value <= edges[-1]:
            x = (value - float(edges[0])) * scale
            parts.append(f'<line class="{name}" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{height - foot}"/>')
    step = max(len(counts) // 8, 1)
    zero = int(np.argmin(np.abs(edges)))
    for index in range(zero % step or step, len(edges) - 1, step):
        words = _edge(float(edges[index]), False, "")
        parts.append(f'<text x="{index * bar:.1f}" y="{height - 8}" text-anchor="middle">{words}</text>')
    words = (
        f"{len(gains):,} trades: median {_two(float(np.median(values)))} %, mean {_two(float(values.mean()))} %, "
        f"worst {_two(float(values.min()))} %, best {_two(float(values.max()))} %"
    )
    picture = f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{words}">{"".join(parts)}</svg>'
    return f"{picture}<p class=quiet>{words}. The dashed line is the median; the bars at the ends hold all beyond.</p>"


def _edges(values: FloatArray) -> FloatArray:
    """Bounds of bars of one round width, one of them at zero."""
    low, high = min(float(np.percentile(values, 1)), 0.0), max(float(np.percentile(values, 99)), 0.0)
    least = max((high - low) / (MOST_BARS - 2), 1e-4)
    power = 10.0 ** np.floor(np.log10(least))
    width = next(one * power for one in (1, 2, 2.5, 5, 10) if one * power >= least)
    first, last = int(np.floor(low / width)), max(int(np.ceil(high / width)), 1)
    return np.arange(first, last + 1, dtype=np.float64) * float(width)


def _edge(value: float, is_open: bool, sign: str) -> str:
    return f"{sign + ' ' if is_open else ''}{value:.4g} %".replace("-", "−")


def _two(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _drawdowns(drawdowns: Sequence[Mapping[str, Any]]) -> str:
    if not drawdowns:
        return "<p class=quiet>It was never below its peak.</p>"
    head = "".join(f"<th scope=col>{name}</th>" for name in ("Depth", "From", "Lowest", "Recovered", "Days"))
    rows = []
    for one in drawdowns:
        since, until = datetime.fromisoformat(one["from_at"]), one["until_at"]
        end = datetime.fromisoformat(until) if until else None
        cells = (
            said("max_drawdown", one["depth"]), f"{since:%Y-%m-%d}", one["low_at"][:10],
            f"{end:%Y-%m-%d}" if end else "not yet", f"{(end - since).days:,}" if end else "",
        )  # fmt: skip
        rows.append(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _groups(figures: Mapping[str, Any], wanted: Sequence[tuple[str, str]]) -> str:
    """A table for each way to tell the trades apart that tells any apart."""
    tables = []
    for key, title in wanted:
        rows = figures.get(key, ())
        if not rows or (key != "per_reason" and len(rows) < 2):
            continue
        columns = [name for name in GROUP_COLUMNS if name in rows[0]]
        head = "".join(f"<th scope=col>{escape(label_of(name))}</th>" for name in columns)
        body = "".join(
            f"<tr><th scope=row>{escape(_worded(key, str(row['name'])))}</th>"
            + "".join(f"<td>{escape(said(name, row.get(name)))}</td>" for name in columns)
            + "</tr>"
            for row in rows
        )
        tables.append(
            f'<section class="card" id="{key}"><h2>By {title.lower()}</h2><div class="wide"><table><thead><tr>'
            f"<th scope=col>{title}</th>{head}</tr></thead><tbody>{body}</tbody></table></div></section>"
        )
    return "".join(tables)


def _worded(key: str, name: str) -> str:
    """A coded reason or side in words; a tag or a symbol as it is."""
    if key in ("per_reason", "per_side"):
        return "Still open" if name == "OPEN" else name.replace("_", " ").capitalize()
    return name or "(none)"


def _refused(result: Result) -> str:
    """Entries that were wanted and not made, by why."""
    counts: dict[str, int] = {}
    for one in result.refused:
        counts[one.denial.value] = counts.get(one.denial.value, 0) + 1
    if not counts:
        return ""
    words = ", ".join(f"{count:,} × {code.replace('_', ' ').lower()}" for code, count in sorted(counts.items()))
    return f"<p class=quiet>Entries that were wanted and not made: {escape(words)}.</p>"
