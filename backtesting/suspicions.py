"""What is suspicious about a backtest: why its figures may promise more than trading would keep, each with a code that
programs know and a sentence with the figures it goes by.

Nothing here is a verdict. A sentence is written where something is so common in results that disappoint that a reader ought
to know it; the thresholds stand below.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from backtesting.engine.inputs import HUNDRED, REASONS, Columns, MarketInput, Result, Settings, at
from backtesting.engine.track import ATR_PERIOD
from backtesting.wording import money_text, percent_text
from domain.candles import FloatArray, IntArray
from domain.exits import ExitReason
from domain.indicators import atr
from domain.informative import Others
from domain.soundness import looks_ahead
from domain.statistics import win_rate_bounds

DAY_MS = 86_400_000
SATURDAY = 5

# Fewer trades say little about the next ones, fewer days have seen one kind of market.
FEWEST_TRADES = 30
FEWEST_DAYS = 90
# The best trades that are taken away to see what is left.
BEST_PART = 0.05
# More of the profit in one of so many months at least.
MONTH_PART, FEWEST_MONTHS = 0.5, 6
# Trades, as a part of all that ended, in whose last candle the order of prices decided.
BOTH_PART = 0.05
# An order above such a part of its candle's volume would have moved the price; and so many trades with one.
VOLUME_PART, THIN_PART = 0.1, 0.05
# Open positions that are more of the profit.
OPEN_PART = 0.5
# A market with sessions is closed over a weekend with a holiday on either side.
LONGEST_WEEKEND_MS = 5 * DAY_MS
# So many entries are asked for again, each among so many candles beyond what the strategy remembers.
ENTRIES_CHECKED, CANDLES_AROUND, MEMORIES = 8, 300, 3

STOPS = [REASONS.index(one) for one in (ExitReason.STOP_LOSS, ExitReason.BREAK_EVEN, ExitReason.TRAILING_STOP)]
RESTING = [REASONS.index(one) for one in (ExitReason.TAKE_PROFIT, ExitReason.ROI)]
LIQUIDATED = REASONS.index(ExitReason.LIQUIDATED)

Warning = dict[str, str]


class Facts(NamedTuple):
    """What the checks look at: ``ended`` are the rows of ``columns`` that were left."""

    result: Result
    columns: Columns
    ended: IntArray
    settings: Settings
    markets: Sequence[MarketInput]
    stats: Mapping[str, Any]
    per_month: Sequence[Mapping[str, Any]]

    def rows_of(self, market: MarketInput) -> IntArray:
        """The trades of ``market`` that have ended."""
        if market.symbol not in self.columns.symbols:
            return np.empty(0, np.int64)
        place = self.columns.symbols.index(market.symbol)
        rows: IntArray = self.ended[self.columns.market[self.ended] == place]
        return rows


def suspicions(
    result: Result,
    settings: Settings,
    markets: Sequence[MarketInput],
    stats: Mapping[str, Any],
    per_month: Sequence[Mapping[str, Any]],
    *,
    checks_look_ahead: bool = True,
    checks_holes: bool = True,
) -> list[Warning]:
    """All that is suspicious, each as ``{"code", "text"}``; what makes every figure worthless comes first. ``stats`` and
    ``per_month`` are those of ``backtesting/figures.py``."""
    columns = result.columns
    facts = Facts(result, columns, np.flatnonzero(~columns.is_open), settings, markets, stats, per_month)
    checks = (
        _looking_ahead(facts) if checks_look_ahead else _not_looked(facts),
        _account(facts),
        _costs(facts),
        _few(facts),
        _best_trades(facts),
        _best_month(facts),
        _open(facts),
        _refused(facts),
        _stops(facts),
        _both_touched(facts),
        _thin(facts),
        _holes(facts) if checks_holes else (),
    )
    return [{"code": code, "text": text} for check in checks for code, text in check]


Found = Iterator[tuple[str, str]]


def _looking_ahead(facts: Facts) -> Found:
    """Ask the strategies about some of their entries again, with all that came later cut off."""
    unknown = []
    for market in facts.markets:
        if market.strategy is None:
            unknown.append(market.symbol)
            continue
        rows = facts.rows_of(market)
        some = rows[np.unique(np.linspace(0, len(rows) - 1, min(ENTRIES_CHECKED, len(rows))).astype(np.int64))]
        spoken = _spoken_in(market, facts.columns.entry_ms[some])
        try:
            fault = next((one for one in map(lambda index: _fault(market, int(index)), spoken) if one), None)
        except Exception as failure:  # a strategy is anybody's code, and the backtest is done
            said = f"{type(failure).__name__}: {failure}"
            yield (
                "LOOK_AHEAD_NOT_CHECKED",
                f"Asked about a part of {market.symbol}'s candles the strategy failed: {said}",
            )
            continue
        if fault is not None:
            yield "LOOKS_AHEAD", f"The strategy looks ahead on {market.symbol}: {fault}"
    if unknown and len(facts.columns):
        words = "Whether the signals look ahead was not checked: they were given without a strategy for"
        yield "LOOK_AHEAD_NOT_CHECKED", f"{words} {', '.join(unknown)}"


def _fault(market: MarketInput, index: int) -> str | None:
    """What changes about the signals up to the candle at ``index`` when that is the last, in words."""
    strategy = market.strategy
    if strategy is None or index < 0:
        return None
    start = max(index + 1 - MEMORIES * max(strategy.warm_up, 1) - CANDLES_AROUND, 0)
    part = market.candles.between(start, min(index + 1 + CANDLES_AROUND, len(market.candles)))
    fault = looks_ahead(strategy, part, Others(part, market.timeframe, market.facts), cuts=[index + 1 - start])
    if fault is None:
        return None
    when = "" if fault.index is None else f" at {at(int(part.open_ms[fault.index])):%Y-%m-%d %H:%M}"
    return f"of {fault.array}{when} wanted {fault.wanted}, was {fault.found}"


def _not_looked(facts: Facts) -> Found:
    if len(facts.columns):
        yield "LOOK_AHEAD_NOT_CHECKED", "Whether the signals look ahead was not checked: that was not asked for"


def _account(facts: Facts) -> Found:
    lost = facts.result.equity <= 0
    if lost.any():
        when = at(int(facts.result.open_ms[int(np.argmax(lost))]))
        yield (
            "ACCOUNT_LOST",
            f"On {when:%Y-%m-%d %H:%M} nothing was left of the account; what follows was never possible",
        )
    count = int((facts.columns.reason == LIQUIDATED).sum())
    if count:
        yield "LIQUIDATED", f"{_of(count, len(facts.columns))} positions were liquidated"


def _costs(facts: Facts) -> Found:
    fees, slippage, profit = facts.stats["fees"], facts.stats["slippage"], float(facts.columns.pnl.sum())
    paid = f"fees of {money_text(fees)}" + (f" and slippage of {money_text(slippage)}" if slippage else "")
    if profit <= 0 < profit + fees + slippage:
        without = money_text(profit + fees + slippage)
        yield "PROFIT_ONLY_WITHOUT_FEES", f"A profit of {without} before {paid} is {money_text(profit)} after them"
    if len(facts.columns) and not facts.settings.maker_fee and not facts.settings.taker_fee:
        end = "and it loses even so"
        if profit > 0:
            end = f"and more than {percent_text(profit / facts.stats['traded_value'])} a side would make it a loss"
        yield "NO_FEES", f"No fee was charged, {end}"


def _few(facts: Facts) -> Found:
    count, days = len(facts.ended), facts.stats["days"]
    if not count:
        yield "FEW_TRADES", f"No trade has ended; {FEWEST_TRADES} are few"
    elif count < FEWEST_TRADES:
        low, high = win_rate_bounds(facts.stats["winners"], count)
        rate = percent_text(facts.stats["winners"] / count)
        yield (
            "FEW_TRADES",
            f"Only {count} trades have ended, and {FEWEST_TRADES} are few: {rate} of wins may as well be "
            f"{percent_text(low)} or {percent_text(high)}",
        )
    if days < FEWEST_DAYS:
        yield "SHORT_SPAN", f"{days:.0f} days of candles have seen one kind of market; wanted {FEWEST_DAYS} at least"


def _best_trades(facts: Facts) -> Found:
    pnl = np.sort(facts.columns.pnl[facts.ended])[::-1]
    profit = float(pnl.sum())
    if profit <= 0 or len(pnl) < 2:
        return
    many = math.ceil(BEST_PART * len(pnl))
    if profit - pnl[0] <= 0:
        best = facts.ended[int(np.argmax(facts.columns.pnl[facts.ended]))]
        when = f"{at(int(facts.columns.entry_ms[best])):%Y-%m-%d}"
        yield (
            "ONE_TRADE",
            f"One trade, entered on {when}, made {money_text(pnl[0])}; the other {len(pnl) - 1} together "
            f"{money_text(profit - pnl[0])}",
        )
    elif many > 1 and profit - pnl[:many].sum() <= 0:
        rest = money_text(profit - float(pnl[:many].sum()))
        yield (
            "BEST_TRADES",
            f"The best {many} of {len(pnl)} trades made {money_text(float(pnl[:many].sum()))}; the others together {rest}",
        )


def _best_month(facts: Facts) -> Found:
    profit = float(facts.columns.pnl[facts.ended].sum())
    if profit <= 0 or len(facts.per_month) < FEWEST_MONTHS:
        return
    best = max(facts.per_month, key=lambda month: float(month["pnl"]))
    if best["pnl"] > MONTH_PART * profit:
        part = percent_text(best["pnl"] / profit)
        yield "ONE_MONTH", f"{part} of the profit of {len(facts.per_month)} months is that of {best['name']}"


def _open(facts: Facts) -> Found:
    total, ended = float(facts.columns.pnl.sum()), float(facts.columns.pnl[facts.ended].sum())
    still = len(facts.columns) - len(facts.ended)
    if abs(total - ended) > OPEN_PART * abs(total):
        yield (
            "OPEN_TRADES",
            f"{_many(still, 'trade')} still open: worth {money_text(total - ended)} of {money_text(total)}; those that "
            f"ended made {money_text(ended)}",
        )


def _refused(facts: Facts) -> Found:
    refused = facts.result.refused
    if len(refused) > len(facts.columns):
        reasons = Counter(one.denial.value for one in refused).most_common()
        words = ", ".join(f"{reason} {count}" for reason, count in reasons)
        yield "MANY_REFUSED", f"{len(refused)} entries were refused ({words}) and {len(facts.columns)} made"


def _stops(facts: Facts) -> Found:
    """Stops that the costs of one round trip reach already."""
    reach = float(facts.settings.spread + facts.settings.slippage)
    if not reach:
        return
    distances = [_stop_distances(market, facts.columns, facts.rows_of(market)) for market in facts.markets]
    all_of_them = np.concatenate(distances) if distances else np.empty(0)
    near = all_of_them[all_of_them < reach]
    if len(near):
        yield (
            "STOP_INSIDE_SPREAD",
            f"{_of(len(near), len(facts.ended))} trades had their stop inside the spread and slippage of "
            f"{percent_text(reach)}: {percent_text(float(np.median(near)))} away in the middle of them",
        )


def _stop_distances(market: MarketInput, columns: Columns, rows: IntArray) -> FloatArray:
    """How far the nearest stop was from the entry price, as a fraction; NaN where there was none."""
    plan, nearest = market.exit_plan, np.full(len(rows), np.nan)
    if not len(rows):
        return nearest
    entry, spoken = columns.entry_price[rows], _spoken_in(market, columns.entry_ms[rows])
    for percent in (plan.stop_loss_percent, plan.trailing_percent):
        if percent is not None:
            nearest = np.fmin(nearest, float(percent / HUNDRED))
    multiples = [float(one) for one in (plan.stop_loss_atr, plan.trailing_atr) if one is not None]
    if multiples:
        candles = market.candles
        ranges = _named(atr(candles.high, candles.low, candles.close, ATR_PERIOD), spoken)
        nearest = np.fmin(nearest, min(multiples) * ranges / entry)
    if plan.is_stop_from_signal:
        nearest = np.fmin(nearest, (entry - _named(market.said().stops, spoken)) * columns.side[rows] / entry)
    return nearest


def _both_touched(facts: Facts) -> Found:
    count = sum(_count_both(facts, market) for market in facts.markets if market.detail is None)
    if count and count >= BOTH_PART * len(facts.ended):
        yield (
            "STOP_AND_TARGET_IN_ONE_CANDLE",
            f"{_of(count, len(facts.ended))} trades met stop and target in one candle, and were taken to have met the stop "
            "first; a detail timeframe would tell",
        )


def _count_both(facts: Facts, market: MarketInput) -> int:
    """How many of the market's stopped trades were stopped in a candle that reached their target too, and did not open beyond
    the stop. Of several targets it is the last: those before may have been done."""
    columns, candles, rows = facts.columns, market.candles, facts.rows_of(market)
    rows = rows[np.isin(columns.reason[rows], STOPS)]
    if not len(rows):
        return 0
    side, last = columns.side[rows], np.searchsorted(candles.open_ms, columns.exit_ms[rows], side="right") - 1
    target = _targets(market, columns, rows)
    extreme = np.where(side > 0, candles.high[last], candles.low[last])
    stop = columns.exit_price[rows] / (1 - side * float(facts.settings.worse))
    tick = float(market.rules.tick_size) if market.rules is not None else 0.0
    opened_beyond = (candles.open[last] - stop) * side <= tick + 1e-9 * stop
    return int(((extreme - target) * side >= 0)[~opened_beyond].sum())


def _targets(market: MarketInput, columns: Columns, rows: IntArray) -> FloatArray:
    """The target price of each, NaN without one."""
    plan, side, entry = market.exit_plan, columns.side[rows], columns.entry_price[rows]
    away = np.full(len(rows), np.nan)
    if plan.targets:
        away = np.fmin(away, float(plan.targets[-1].percent / HUNDRED))
    if plan.roi:
        minutes = [step.minutes for step in plan.roi]
        step = np.searchsorted(minutes, (columns.exit_ms[rows] - columns.entry_ms[rows]) / 60_000, side="right") - 1
        percents = np.array([float(step.percent / HUNDRED) for step in plan.roi])
        away = np.fmin(away, np.where(step >= 0, percents[np.maximum(step, 0)], np.nan))
    if plan.is_target_from_signal:
        named = _named(market.said().targets, _spoken_in(market, columns.entry_ms[rows]))
        away = np.fmin(away, (named - entry) * side / entry)
    return np.asarray(entry * (1 + side * away), dtype=np.float64)


def _thin(facts: Facts) -> Found:
    """Orders that the volume of their candles could hardly have filled; where no volume is known nothing is said."""
    if facts.settings.volume_share is not None:
        return
    parts = [_part_of_volume(market, facts.columns, facts.rows_of(market)) for market in facts.markets]
    above = np.concatenate(parts) if parts else np.empty(0)
    count = int((above > VOLUME_PART).sum())
    if count and count >= THIN_PART * len(facts.ended):
        yield (
            "THIN_VOLUME",
            f"{_of(count, len(facts.ended))} trades asked for more than {percent_text(VOLUME_PART)} of the volume of the "
            "candle that filled their entry or their exit; a volume share would fill them as the market could",
        )


def _part_of_volume(market: MarketInput, columns: Columns, rows: IntArray) -> FloatArray:
    """Each trade's quantity as a part of the smaller volume of the candles of its entry and its exit."""
    candles = market.candles
    if not len(rows) or not candles.volume.any():
        return np.zeros(len(rows))
    at_entry, at_exit = (
        candles.volume[np.searchsorted(candles.open_ms, moments[rows], side="right") - 1]
        for moments in (columns.entry_ms, columns.exit_ms)
    )
    volume = np.minimum(at_entry, at_exit)
    quantity = columns.quantity[rows] * contract_sizes(columns, [market])[rows]
    return np.where(volume > 0, quantity / np.where(volume > 0, volume, 1), np.inf)


def _holes(facts: Facts) -> Found:
    for market in facts.markets:
        open_ms, step = market.candles.open_ms, market.timeframe.seconds * 1000
        steps = np.diff(open_ms)
        wide = np.flatnonzero(steps > step)
        if len(wide) and not _trades_on_saturdays(open_ms):
            wide = wide[steps[wide] > LONGEST_WEEKEND_MS]
        if len(wide):
            missing = int((steps[wide] // step - 1).sum())
            widest = int(wide[int(np.argmax(steps[wide]))])
            start, end = (at(ms) for ms in (int(open_ms[widest]) + step, int(open_ms[widest + 1])))
            yield (
                "HOLES",
                f"{_of(missing, missing + len(open_ms))} candles of {market.symbol} are missing, in "
                f"{_many(len(wide), 'hole')}; the widest from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}",
            )


def _trades_on_saturdays(open_ms: IntArray) -> bool:
    # The epoch began on a Thursday.
    return bool(((open_ms // DAY_MS + 3) % 7 == SATURDAY).any())


def contract_sizes(columns: Columns, markets: Sequence[MarketInput]) -> FloatArray:
    """For each trade how many units one of its quantity is; 1 where its market is none of ``markets`` or has no rules."""
    sizes = {market.symbol: float(market.rules.contract_size) for market in markets if market.rules is not None}
    return np.array([sizes.get(symbol, 1.0) for symbol in columns.symbols])[columns.market]


def _spoken_in(market: MarketInput, entry_ms: IntArray) -> IntArray:
    """The candles whose signals were entered at ``entry_ms``: those before."""
    return np.searchsorted(market.candles.open_ms, entry_ms, side="right") - 2


def _named(prices: FloatArray | None, indices: IntArray) -> FloatArray:
    if prices is None:
        return np.full(len(indices), np.nan)
    return np.where(indices >= 0, prices[np.maximum(indices, 0)], np.nan)


def _many(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"


def _of(count: int, all_of_them: int) -> str:
    return f"{count} of {all_of_them}"
