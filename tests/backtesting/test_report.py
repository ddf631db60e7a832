"""The page of a backtest: its figures are those of the run, its arrays those of the market, and nothing from outside is
markup."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backtesting.commandline import main
from backtesting.engine import backtest
from backtesting.engine.inputs import MarketInput, Result, Settings, Trade
from backtesting.figures import figures_of
from backtesting.report import (
    GROUP_COLUMNS,
    LIBRARY,
    SIGNED,
    TILES,
    charting,
    label_of,
    money_decimals,
    report_html,
    said,
)
from backtesting.report.charting import Packing, chart_of, decimals_of, near_trades
from domain.candles import Candles, Timeframe
from domain.exits import ExitReason
from domain.informative import Facts
from domain.market import PositionSide
from domain.strategy import Line, Role
from strategies.library.scalping import Scalping
from strategies.library.sma_cross import SmaCross
from strategies.library.swing import Swing

HOUR_MS = 3_600_000
START_MS = 1_577_836_800_000  # 2020-01-01
EVIL = "</script><img src=x onerror=alert(1)>"


@dataclass
class Page(HTMLParser):
    """What a browser makes of it: its elements, and the text of each script and of each cell that has a figure."""

    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)
    cells: list[str] = field(default_factory=list)
    here: tuple[str, dict[str, str | None]] = ("", {})

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.here = (tag, dict(attrs))
        self.elements.append(self.here)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.here = ("", {})

    def handle_data(self, data: str) -> None:
        tag, attributes = self.here
        if tag == "script":
            self.scripts[-1] += data
        elif "data-figure" in attributes:
            self.figures.setdefault(str(attributes["data-figure"]), data)
        elif tag in ("td", "th"):
            self.cells.append(data)


def read(page: str) -> Page:
    found = Page()
    found.feed(page)
    return found


def unpacked(told: Mapping[str, Any], packed: bytes) -> list[float]:
    """What the page's script makes of a column, by the words of ``Packing``: first bytes first, distances summed."""
    held, width = zlib.decompress(packed), int(told["kind"][1:])
    block = np.frombuffer(held, np.uint8, told["length"] * width, told["from"])
    numbers = np.ascontiguousarray(block.reshape(width, -1).T).view(f"<{told['kind']}").ravel()
    if told["kind"] != "i4":
        return [float(one) for one in numbers]
    sums = np.cumsum(numbers.astype(np.int64)).astype(np.int32).tolist()
    return [float("nan") if one == -(2**31) else round(one / 10 ** told["decimals"], 12) for one in sums]


def wave(size: int, step_ms: int = HOUR_MS, seed: int = 3) -> Candles:
    """A market that goes up and down, in cents."""
    noise = np.random.default_rng(seed)
    middle = 100 + 10 * np.sin(np.arange(size) / 40) + noise.normal(0, 0.3, size)
    close = np.round(middle, 2)
    opens = np.concatenate((close[:1], close[:-1]))
    high, low = np.round(np.maximum(opens, close) + 0.25, 2), np.round(np.minimum(opens, close) - 0.25, 2)
    return Candles(START_MS + np.arange(size) * step_ms, opens, high, low, close, np.full(size, 7.0))


def crossing(symbol: str = "BTC/USDT", size: int = 2000, **values: Any) -> MarketInput:
    strategy = SmaCross.from_values({"fast": 5, "slow": 20})
    return MarketInput(symbol, wave(size), Timeframe.H1, strategy=strategy, **values)


SETTINGS = Settings(amount=Decimal(50), taker_fee=Decimal("0.001"), maker_fee=Decimal("0.001"))


@cache
def crossed() -> tuple[MarketInput, Result, dict[str, Any], str]:
    market = crossing()
    result = backtest([market], SETTINGS)
    figures = figures_of(result, SETTINGS, [market])
    return market, result, figures, report_html("Crossing", [market], result, SETTINGS, figures)


def test_its_figures_are_those_of_the_run() -> None:
    _, result, figures, page = crossed()
    stats, found = figures["stats"], read(page)
    assert len(result.trades) > 10
    assert found.figures["total_return"] == f"{stats['total_return'] * 100:+,.2f} %".replace("-", "−")
    assert found.figures["trades"] == str(stats["trades"])
    for name, text in found.figures.items():
        assert text == said(name, stats[name])
    rows = read(page[page.index('id="figures"') :]).cells
    for name, value in stats.items():
        assert rows[rows.index(label_of(name)) + 1] == said(name, value)
    for key in ("per_reason", "per_month"):
        assert figures[key]
    for one in figures["per_reason"]:
        assert said("pnl", one["pnl"]) in found.cells
    for one in figures["per_month"]:
        text = f"{one['return'] * 100:+.1f}".replace("-", "−")
        assert ("0.0" if text[1:] == "0.0" else text) in found.cells
    assert "2020" in found.cells


def test_it_says_what_was_tested() -> None:
    words = re.sub(r"<[^>]+>", " ", crossed()[3].split("<script", 1)[0])
    for part in (
        "BTC/USDT · 1h · 1 Jan 2020 to 24 Mar 2020",
        "SMA crossover (sma_cross)",
        "stop_loss_percent 2, take_profit_percent 4, fast 5, slow 20",
        "stop at 2 %, target at 4 %, exit signals",
        "2,000 in 1 market, 21 of each to warm up",
        "10,000, 50 % of equity per entry",
        "fee 0.1 %, fee of resting orders 0.1 %, slippage 0 %, spread 0 %",
        "long only, entries at the next open",
    ):
        assert part in words


def test_every_figure_that_it_shows_in_a_way_of_its_own_is_one_of_a_run() -> None:
    figures = crossed()[2]
    assert set(TILES) <= set(figures["stats"])
    assert set(GROUP_COLUMNS) <= set(figures["per_reason"][0])
    assert set(figures["stats"]) | set(figures["per_reason"][0]) >= SIGNED


def test_what_comes_from_outside_is_text_and_never_markup() -> None:
    market = crossing(f"X{EVIL}", 2000, tags=[EVIL if index % 2 else "</title>" for index in range(2000)])
    result = backtest([market], SETTINGS)
    figures = figures_of(result, SETTINGS, [market])
    figures["warnings"] = [{"code": '"><img>', "text": EVIL}]
    page = report_html(f"T{EVIL}", [market], result, SETTINGS, figures)
    found = read(page)
    tags = [tag for tag, _ in found.elements]
    assert {trade.tag for trade in result.trades} == {EVIL, "</title>"}
    assert (tags.count("img"), tags.count("script"), tags.count("title")) == (0, 4, 1 + tags.count("rect"))
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
    assert sorted(json.loads(found.scripts[0])["trades"]["tag"]["words"]) == [
        "</script><img src=x onerror=alert(1)>",
        "</title>",
    ]


def test_what_the_strategy_called_its_exits_is_in_the_list_of_trades() -> None:
    market, result, _, _ = crossed()
    named = [replace(one, exit_tag="tired" if place % 3 else "") for place, one in enumerate(result.trades)]
    drawn, packed = chart_of([market], replace(result, trades=named, _columns=None), 10_000.0)
    words = drawn["trades"]["exit_tag"]["words"]
    assert words == ["", "tired"]
    assert [words[int(one)] for one in unpacked(drawn["trades"]["exit_tag"], packed)] == [one.exit_tag for one in named]
    assert chart_of([market], result, 10_000.0)[0]["trades"]["exit_tag"]["words"] == [""]


def test_it_allows_itself_its_own_scripts_and_no_address() -> None:
    found = read(crossed()[3])
    policy = next(one["content"] for tag, one in found.elements if tag == "meta" and "http-equiv" in one)
    assert policy is not None
    hashes = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in found.scripts[2:]]
    assert policy == (
        "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{hashes[0]}' 'sha256-{hashes[1]}'"
    )
    links = [one["href"] for _, one in found.elements if "href" in one]
    assert [link for link in links if not str(link).startswith("#")] == ["https://www.tradingview.com/"]
    assert not any("src" in one for _, one in found.elements)


def test_warnings_are_shown_before_anything_else() -> None:
    market, result, figures, page = crossed()
    told = [{"code": "FEW_TRADES", "text": "Only 3 trades ended."}]
    warned = report_html("Crossing", [market], result, SETTINGS, {**figures, "warnings": told})
    assert warned.index("Only 3 trades ended.") < warned.index('class="tiles"')
    assert 'class="warnings"' in warned
    assert ('class="warnings"' in page) == bool(figures["warnings"])


def test_trades_and_candles_lose_nothing_on_the_way() -> None:
    market, result, figures, _ = crossed()
    drawn, packed = chart_of([market], result, 10_000.0)
    trades = drawn["trades"]
    for name in ("entry_price", "exit_price", "quantity", "pnl", "gain", "fees"):
        assert unpacked(trades[name], packed) == [getattr(trade, name) for trade in result.trades]
    assert unpacked(trades["entry_time"], packed) == [trade.entry_at.timestamp() for trade in result.trades]
    reasons = [trades["reasons"][int(one)] for one in unpacked(trades["reason"], packed)]
    assert reasons == [trade.exit_reason or "" for trade in result.trades]
    [view] = drawn["markets"][0]["views"]
    for name in ("open", "high", "low", "close"):
        assert unpacked(view[name], packed) == getattr(market.candles, name).tolist()
    assert unpacked(view["time"], packed) == (market.candles.open_ms / 1000).tolist()
    equity = drawn["equity"]
    assert unpacked(equity["equity"], packed)[-1] == pytest.approx(figures["stats"]["final_equity"], abs=1e-4)
    assert min(unpacked(equity["drawdown"], packed)) == pytest.approx(figures["stats"]["max_drawdown"], abs=1e-6)
    held = figures["benchmark"]["total_return"]
    assert unpacked(equity["held"], packed)[-1] == pytest.approx(10_000 * (1 + held), abs=1e-4)


@pytest.mark.parametrize(
    "values",
    [[0.0, -2147.483647, 2147.483647, -2147.483647, float("nan"), 1.5, float("nan")], [], [1e-6, 2e-6], [4e11, -1e9]],
)
def test_a_column_comes_back_as_it_was(values: list[float]) -> None:
    packing = Packing()
    packing.plain([1, 2, 3], "u2")
    decimals = decimals_of(np.array(values))
    told = packing.whole(np.array(values), decimals)
    assert unpacked(told, packing.packed()) == pytest.approx(values, rel=1e-8, nan_ok=True)


@pytest.mark.parametrize(
    ("values", "decimals"),
    [([1.0, 250.0], 0), ([0.25, 3.1], 2), ([40_123.45, 0.001], 3), ([0.00001234], 8), ([1 / 3], 9), ([2e12, 1.0], -4)],
)
def test_prices_have_the_decimals_that_write_them(values: list[float], decimals: int) -> None:
    assert decimals_of(np.array(values)) == decimals


def spans(*pairs: tuple[int, int]) -> Any:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2) * HOUR_MS


def shown(pairs: Any, room: int, size: int = 1000) -> list[int]:
    return np.flatnonzero(near_trades(np.arange(size) * HOUR_MS, pairs, room)).tolist()


def test_candles_near_trades_are_as_many_as_there_is_room_for() -> None:
    assert shown(spans((500, 510)), 1000) == list(range(380, 631))
    assert shown(spans((500, 510)), 100) == list(range(470, 541))
    # A trade too long to be shown whole: its entry and its exit.
    assert shown(spans((100, 900)), 200) == [*range(70, 131), *range(870, 931)]
    # Too many: the last of them.
    assert shown(spans((10, 20), (300, 400), (600, 700)), 30) == [*range(297, 304), *range(397, 404), *range(597, 604), *range(697, 704)]  # fmt: skip  # noqa: E501
    assert shown(spans(), 100) == []
    assert shown(spans((0, 999)), 2) == []


def test_a_long_run_is_shown_around_its_trades_and_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charting, "MOST_CANDLES", 1200)
    monkeypatch.setattr(charting, "MOST_MERGED", 200)
    market, result, _, _ = crossed()
    first = replace(result, trades=tuple(result.trades[:2]))
    drawn, packed = chart_of([market], first, 10_000.0)
    near, merged = drawn["markets"][0]["views"]
    assert (near["name"], merged["name"], merged["factor"]) == ("near", "merged", 12)
    opens = START_MS // 1000 + np.arange(0, 2000, 12) * 3600
    assert unpacked(merged["time"], packed) == opens.tolist()
    held = market.candles
    assert unpacked(merged["high"], packed) == [held.high[at : at + 12].max() for at in range(0, 2000, 12)]
    assert unpacked(merged["low"], packed) == [held.low[at : at + 12].min() for at in range(0, 2000, 12)]
    assert unpacked(merged["close"], packed)[:2] == [held.close[11], held.close[23]]
    times = unpacked(near["time"], packed)
    assert {trade.entry_at.timestamp() for trade in first.trades} <= set(times)
    assert near["gaps"] == [at for at in range(1, len(times)) if times[at] - times[at - 1] > 3600]
    assert len(times) + len(opens) <= 1200


def test_the_page_of_a_long_run_with_many_trades_stays_small() -> None:
    noise, size = np.random.default_rng(5), 200_000
    close = np.round(20_000 * np.exp(np.cumsum(noise.normal(0, 0.001, size))), 2)
    held = Candles(
        START_MS + np.arange(size) * 60_000, close, close + 9.37, close - 9.37, close, noise.lognormal(2, 1, size)
    )
    market = MarketInput("BTC/USDT", held, Timeframe.M1, strategy=Scalping.from_values({}))
    start = datetime(2020, 1, 1, tzinfo=UTC)
    rows = noise.normal(0, 1, (25_000, 3)).tolist()
    trades = tuple(
        Trade(
            "BTC/USDT", PositionSide.LONG, start + timedelta(minutes=8 * at), 100.1 + a,
            start + timedelta(minutes=8 * at + 5), 100.1 + b, 10 + c, a * b, a * c, abs(a), 0.0, ExitReason.EXIT_SIGNAL,
        )
        for at, (a, b, c) in enumerate(rows)
    )  # fmt: skip
    result = Result(trades, held.open_ms, 10_000 + noise.normal(0, 1, size).cumsum())
    page = report_html("Long", [market], result, SETTINGS, {"stats": {}})
    assert len(page.encode()) < 4_000_000
    drawn = json.loads(read(page).scripts[0])
    assert (drawn["trades"]["of"], drawn["trades"]["entry_time"]["length"]) == (25_000, 20_000)
    assert [view["time"]["length"] <= 60_000 for view in drawn["markets"][0]["views"]] == [True, True]
    assert (drawn["equity"]["of"], drawn["equity"]["time"]["length"] <= 6001) == (200_000, True)


def test_a_thinned_curve_keeps_its_peaks_and_its_deepest_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charting, "MOST_POINTS", 60)
    values = np.round(10_000 + np.random.default_rng(7).normal(0, 10, 2000).cumsum(), 2)
    market = crossing()
    drawn, packed = chart_of([market], Result((), market.candles.open_ms, values), 10_000.0)
    equity = unpacked(drawn["equity"]["equity"], packed)
    falls = values / np.maximum.accumulate(np.maximum(values, 10_000)) - 1
    assert (max(equity), min(equity), equity[-1], len(equity) <= 61) == (values.max(), values.min(), values[-1], True)
    assert min(unpacked(drawn["equity"]["drawdown"], packed)) == round(falls.min(), 6)


def test_a_month_of_minutes_is_shown_whole() -> None:
    market = MarketInput("X", wave(43_800, 60_000), Timeframe.M1, strategy=Scalping.from_values({}))
    result = Result((), market.candles.open_ms, np.full(43_800, 10_000.0))
    [view] = chart_of([market], result, 10_000.0)[0]["markets"][0]["views"]
    assert (view["name"], view["close"]["length"]) == ("all", 43_800)


def test_a_strategys_lines_are_drawn_also_those_of_longer_candles() -> None:
    strategy = Swing.from_values({"trend_fast": 2, "trend_slow": 3})
    [large] = strategy.informative
    days = Candles.from_rows([(START_MS + day * 24 * HOUR_MS, 1, 1, 1, day, 1) for day in range(6)])
    market = MarketInput("X", wave(96), Timeframe.H1, strategy=strategy, facts=Facts({large: days}))
    result = Result((), market.candles.open_ms, np.full(96, 10_000.0))
    drawn, packed = chart_of([market], result, 10_000.0)
    told = drawn["markets"][0]
    assert [line["label"] for line in told["lines"]] == ["EMA 20", "EMA 2 (1d)", "EMA 3 (1d)"]
    fast = unpacked(told["views"][0]["lines"][1], packed)
    # Its second day has closed with the last hour of it, and the average of 0 and 1 is known from then on.
    assert np.isnan(fast[:47]).all()
    assert fast[47:72] == [*[0.5] * 24, 1.5]
    missing = chart_of([replace(market, facts=Facts())], result, 10_000.0)[0]["markets"][0]
    assert [line["label"] for line in missing["lines"]] == ["EMA 20"]
    assert missing["missing"] == [
        "EMA 2 (1d): no candles of X 1d were given", "EMA 3 (1d): no candles of X 1d were given",
    ]  # fmt: skip


def test_a_hint_that_names_no_indicator_costs_its_line_and_not_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (
        Line(Role.FAST, "smma", "smma"),
        Line(Role.SLOW, "sma", "sma", {"period": -1}),
        Line(Role.LEVEL, level=99.5),
    )
    monkeypatch.setattr(SmaCross, "chart", lines)
    market = crossing(size=50)
    drawn = chart_of([market], Result((), market.candles.open_ms, np.full(50, 1.0)), 1.0)[0]["markets"][0]
    assert (drawn["lines"], drawn["levels"]) == ([], [{"pane": "price", "value": 99.5}])
    assert [one.split(":")[0] for one in drawn["missing"]] == ["SMMA", "SMA -1"]


@pytest.mark.parametrize("size", [0, 1, 30])
def test_a_run_without_trades_has_a_page_too(size: int) -> None:
    market = crossing(size=size)
    result = backtest([market], SETTINGS)
    page = report_html("Empty", [market], result, SETTINGS, figures_of(result, SETTINGS, [market]))
    assert "No trade has ended." in page
    assert json.loads(read(page).scripts[0])["markets"][0]["candles"] == size


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("total_return", 0.1234, "+12.34 %"),
        ("total_return", 0.0, "0.00 %"),
        ("max_drawdown", -0.5, "−50.00 %"),
        ("final_equity", 12_345.678, "12,345.68"),
        ("sharpe", -1.25, "−1.25"),
        ("trades", 1234, "1,234"),
        ("profit_factor", None, "−"),
        ("longest_drawdown_days", 12.34, "12.3 d"),
        ("verdict", "fine", "fine"),
        ("value_at_risk", 0.02, "2.00 %"),
    ],
)
def test_a_figure_is_said_with_its_unit_and_its_sign(name: str, value: Any, words: str) -> None:
    assert said(name, value) == words


@pytest.mark.parametrize(("cash", "decimals"), [(10_000, 2), (1_000_000, 2), (100, 4), (0.5, 6)])
def test_small_money_has_more_decimals(cash: float, decimals: int) -> None:
    assert money_decimals(cash) == decimals


def test_the_library_of_the_charts_is_the_one_that_was_published() -> None:
    readme = (LIBRARY.parent / "README.md").read_text()
    assert hashlib.sha256(LIBRARY.read_bytes()).hexdigest() in readme
    assert "Apache License" in (LIBRARY.parent / "LICENSE").read_text()
    assert "Licensed under Apache License 2.0" in crossed()[3]


@pytest.fixture
def candle_file(tmp_path: Path) -> Path:
    held = wave(3000)
    path = tmp_path / "WAVE-1h.csv"
    with path.open("w", newline="") as lines:
        rows = csv.writer(lines)
        rows.writerow(("ts", "open", "high", "low", "close", "volume"))
        rows.writerows(zip(*(getattr(held, name).tolist() for name in ("open_ms", "open", "high", "low", "close", "volume")), strict=True))  # fmt: skip  # noqa: E501
    return path


def test_the_command_writes_page_and_equity(candle_file: Path, tmp_path: Path) -> None:
    page, equity = tmp_path / "run.html", tmp_path / "equity.csv"
    wanted = ["--strategy", "swing", "--candles", str(candle_file), "--timeframe", "1h", "--set", "trend_slow=21"]
    wanted += ["--set", "trend_timeframe=4h"]
    assert main([*wanted, "--html", str(page), "--equity", str(equity)], (tmp_path / "out").open("w")) == 0
    text = page.read_text()
    # Its longer candles are made of the file's hours.
    assert "<h1>Swing (trend on two timeframes) on WAVE</h1>" in text
    assert [line["label"] for line in json.loads(read(text).scripts[0])["markets"][0]["lines"]] == [
        "EMA 20", "EMA 20 (4h)", "EMA 21 (4h)",
    ]  # fmt: skip
    with equity.open() as lines:
        rows = list(csv.reader(lines))
    assert (rows[0], rows[1][1], rows[-1][0]) == (["ts", "equity"], "10000.0", str(START_MS + 2999 * HOUR_MS))


def test_what_one_file_cannot_tell_is_refused(candle_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ["--strategy", "momentum_rotation", "--candles", str(candle_file), "--timeframe", "1h"]
    assert main([*wanted, "--set", "rivals=ETH/USDT"]) == 2
    assert capsys.readouterr().err == "r3edge backtest: wanted candles of ETH/USDT 1d beside the file's, was one file\n"
    assert main([*wanted, "--set", "timeframe=30m"]) == 2
    assert "wanted candles that make up whole ones of 30m, was 1h" in capsys.readouterr().err
