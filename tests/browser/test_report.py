"""The page of a backtest in a real browser, from a file: its charts are drawn, its list is sorted and filtered, and a trade
of the list is a way into the chart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from backtesting.engine import backtest
from backtesting.engine.inputs import MarketInput, Settings
from backtesting.figures import figures_of
from backtesting.report import report_html
from domain.candles import Timeframe
from strategies.library.macd import Macd
from tests.backtesting.test_report import EVIL, wave
from tests.browser.conftest import PATIENCE_MS

pytestmark = pytest.mark.browser

# How many colours a picture has: nothing drawn is one.
COLOURS = """boxes => boxes.map(box => Math.max(...[...box.querySelectorAll("canvas")].map(canvas => {
    const {width, height} = canvas;
    if (!width || !height) return 0;
    return new Set(new Uint32Array(canvas.getContext("2d").getImageData(0, 0, width, height).data.buffer)).size;
})))"""
SHOWN = "() => candles.chart.timeScale().getVisibleLogicalRange()"


@pytest.fixture
def page(chromium: Browser, tmp_path: Path) -> Iterator[Page]:
    """The page of a run of two markets, long and short; whatever it asks or complains of fails the test."""
    settings = Settings(amount=Decimal(20), taker_fee=Decimal("0.001"), maker_fee=Decimal("0.001"))
    tags = [EVIL if index % 2 else "calm" for index in range(1500)]
    markets = [
        MarketInput(
            symbol, wave(1500, seed=seed), Timeframe.H1, strategy=Macd.from_values({"sides": "BOTH"}), can_short=True,
            tags=tags,
        )
        for symbol, seed in (("AAA/USDT", 1), ("BBB/USDT", 2))
    ]  # fmt: skip
    result = backtest(markets, settings)
    trades = [replace(one, exit_tag="tired" if number % 2 else "") for number, one in enumerate(result.trades)]
    result = replace(result, trades=trades, _columns=None)
    path = tmp_path / "run.html"
    path.write_text(
        report_html(EVIL, markets, result, settings, figures_of(result, settings, markets)), encoding="utf-8"
    )
    context = chromium.new_context(
        viewport={"width": 1280, "height": 1000}, accept_downloads=True, reduced_motion="reduce"
    )
    asked, complaints = [], []
    context.on("request", lambda request: asked.append(request.url))
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    context.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.goto(path.as_uri())
    expect(page.locator("html[data-ready=yes]")).to_be_attached()
    yield page
    context.close()

    assert complaints == []
    assert [url for url in asked if not url.startswith(("file:", "blob:", "data:"))] == []


def column(page: Page, name: str) -> list[str]:
    at = page.locator("#columns th").evaluate_all(
        "(all, name) => all.findIndex(one => one.dataset.column === name)", name
    )
    found: list[str] = page.locator(f"#rows td:nth-child({at + 1})").all_inner_texts()
    return found


def numbers(texts: list[str]) -> list[float]:
    return [float(text.replace("−", "-").replace(",", "").removesuffix(" %")) for text in texts]


def test_the_charts_are_drawn_and_nothing_is_asked_of_anybody(page: Page) -> None:
    page.locator("#chart").scroll_into_view_if_needed()
    page.wait_for_function(f"() => Math.min(...({COLOURS})([...document.querySelectorAll('.chart')])) > 10")
    expect(page.locator("#trouble")).to_be_hidden()
    expect(page.locator("h1")).to_have_text(EVIL)
    expect(page.locator("#legend")).to_contain_text("AAA/USDT")
    # The lines that the strategy hints at are in a pane of their own.
    assert page.evaluate("candles.chart.panes().length") == 2


def test_the_list_is_sorted_and_filtered(page: Page) -> None:
    note = page.locator("#trades-note")
    total = page.evaluate("trades.rows.length")
    assert total > 25
    assert len(column(page, "gain")) == 25

    gain = page.get_by_role("button", name="Return", exact=True)
    gain.click()
    texts = column(page, "gain")
    falling = numbers(texts)
    assert falling == sorted(falling, reverse=True)
    assert falling[0] == pytest.approx(page.evaluate("Math.max(...trades.rows.map(row => row.gain)) * 100"), abs=0.005)
    gain.click()
    assert column(page, "gain") != texts
    expect(page.locator("[data-column=gain]")).to_have_attribute("aria-sort", "ascending")

    page.get_by_label("Side", exact=True).select_option("Short")
    page.locator("[data-filter=market]").select_option("BBB/USDT")
    page.locator("[data-filter=tag]").select_option(EVIL)
    shown = page.evaluate("trades.rows.filter(row => !row.isLong && row.market === 1 && row.tag !== 'calm').length")
    assert 0 < shown < total
    expect(note).to_contain_text(f"{shown} of {total} shown")
    assert (set(column(page, "side")), set(column(page, "market")), set(column(page, "tag"))) == (
        {"▼ Short"}, {"BBB/USDT"}, {EVIL},
    )  # fmt: skip
    page.locator("[data-filter=exitTag]").select_option("tired")
    assert set(column(page, "exitTag")) == {"tired"}
    page.locator("[data-filter=exitTag]").select_option("*")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as CSV").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert (len(lines), lines[0].split(",")[:2]) == (shown + 1, ["side", "entry_at"])
    assert (lines[0].split(",")[-1], {line.split(",")[-1] for line in lines[1:]}) == ("exit_tag", {'"tired"', '""'})


def test_a_trade_of_the_list_is_shown_in_the_chart(page: Page) -> None:
    before = page.evaluate(SHOWN)
    page.locator("[data-filter=market]").select_option("BBB/USDT")
    page.locator("#rows tr").nth(3).click()
    number = page.locator("#rows tr").nth(3).get_attribute("data-trade")
    mark = page.evaluate(f"candles.marks.marks.find(mark => mark.trade === {number})")
    page.wait_for_function(f"() => Math.abs(({SHOWN})().from - {mark['from']} + 25) < 1")
    after = page.evaluate(SHOWN)
    assert after["from"] < mark["from"] <= mark["to"] < after["to"]
    assert after != before
    expect(page.locator("#market")).to_have_value("1")
    expect(page.locator("#rows tr.chosen")).to_have_attribute("data-trade", str(number))
    # Under the pointer it is told.
    x = page.evaluate(f"candles.chart.timeScale().logicalToCoordinate({mark['to']})")
    page.locator("#candle-chart").hover(position={"x": x, "y": 250})
    expect(page.locator("#legend")).to_contain_text(f"#{int(str(number)) + 1}:")

    page.get_by_role("button", name="Trade ›").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#rows tr").nth(4)).to_have_class("chosen")


def test_it_is_readable_on_a_phone_and_in_the_dark(page: Page) -> None:
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    assert (
        page.evaluate("candles.chart.options().layout.background.color") == page.evaluate("colour('card')") == "#161d26"
    )
