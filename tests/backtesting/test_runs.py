"""Backtests as rows: computed once by whoever is free, the same whenever they are computed again, and never in the way of one
another."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.utils import timezone

from backtesting import leases, runs, setups
from backtesting.engine import backtest
from backtesting.figures import figures_of
from backtesting.models import BacktestResult, BacktestRun, JobStatus
from backtesting.packing import finite
from backtesting.result_pages import curves_drawn
from backtesting.runs import (
    UnableToBacktest,
    run_cancel,
    run_compute,
    run_compute_next,
    run_delete,
    run_repeat,
    run_repetition,
    run_request,
    run_result,
    run_retry,
    runs_waiting,
)
from backtesting.setups import Asked, markets_of
from backtesting.tasks import run as run_task
from backtesting.tasks import sweep_runs
from domain.candles import Timeframe
from domain.strategy import SignalArrays
from exchanges.gateway import CandleReport
from marketdata.models import Candle, Feed
from marketdata.services import candles_store
from strategies.library.sma_cross import SmaCross
from tests.conftest import Bells
from tests.factories import NOON, events, make_account, make_feed, make_limits, make_market, make_user
from tests.race import at_once, elsewhere

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)
COUNT = 240
FROM_AT = NOON - (COUNT - 1) * HOUR
UNTIL_AT = NOON + HOUR


def waves(count: int = COUNT, size: float = 10.0) -> list[float]:
    """Prices that go up and down, so that averages cross again and again."""
    return [round(100 + size * float(np.sin(index / 5)), 2) for index in range(count)]


def wave_feed(symbol: str = "BTC/USDT", closes: list[float] | None = None, **fields: Any) -> Feed:
    """Hours that end with the one that opened at noon; each opens where the one before closed."""
    feed = make_feed(make_market(symbol=symbol, **fields), Timeframe.H1)
    closes = closes or waves()
    rows = []
    for index, close in enumerate(closes):
        opened, closed = Decimal(str(closes[max(index - 1, 0)])), Decimal(str(close))
        at = NOON - (len(closes) - 1 - index) * HOUR
        rows.append(CandleReport(at, opened, max(opened, closed), min(opened, closed), closed, Decimal(1000)))
    candles_store(feed.pk, rows)
    Feed.objects.filter(pk=feed.pk).update(last_open_at=NOON)
    return feed


def asked(*feeds: Feed, **words: Any) -> Asked:
    defaults: dict[str, Any] = {
        "strategy": "sma_cross", "parameters": {"fast": 3, "slow": 8}, "from_at": FROM_AT, "until_at": UNTIL_AT,
    }  # fmt: skip
    return Asked(feeds=feeds, **{**defaults, **words})


def requested(owner: User | None = None, feed: Feed | None = None, **words: Any) -> BacktestRun:
    return run_request(owner or make_user(), asked(feed or wave_feed(), **words))


def fresh(run: BacktestRun) -> BacktestRun:
    return BacktestRun.objects.get(pk=run.pk)


def refusal(*feeds: Feed, **words: Any) -> dict[str, list[str]]:
    with pytest.raises(ValidationError) as refused:
        run_request(make_user(), asked(*feeds, **words))
    return refused.value.message_dict


def test_a_backtest_is_computed_and_its_trades_are_those_of_the_engine() -> None:
    run = requested()

    assert run_compute(run.pk) is True

    run = fresh(run)
    markets, settings = markets_of(run, [run.feeds.get()])
    expected = backtest(markets, settings)
    result, told_settings, _, is_same_data = run_result(run)
    assert (run.status, run.tries, run.last_error) == (JobStatus.DONE, 1, "")
    assert len(expected.trades) > 5
    assert list(result.trades) == list(expected.trades)
    np.testing.assert_array_equal(result.equity, expected.equity)
    np.testing.assert_array_equal(result.open_ms, expected.open_ms)
    assert (told_settings, is_same_data) == (settings, True)
    assert run.figures is not None
    assert run.figures["stats"]["trades"] == len([one for one in expected.trades if not one.is_open])
    assert (run.candles, run.done, run.total, run.percent) == (COUNT, COUNT, COUNT, 100.0)
    assert [one["backtest"] for one in events("research")] == ["QUEUED", "RUNNING", "DONE"]


def test_what_was_left_out_is_written_down_with_the_fees_of_the_market() -> None:
    run = requested(feed=wave_feed(taker_fee=Decimal("0.0008"), maker_fee=Decimal("0.0002")))

    assert (run.settings["taker_fee"], run.settings["maker_fee"], run.settings["cash"]) == ("0.0008", "0.0002", "10000")
    assert run.name == "SMA crossover BTC/USDT 1h"
    assert run.parameters["fast"] == 3
    assert "stop_loss_percent" in run.parameters


def test_an_accounts_own_terms_are_taken_where_it_is_named() -> None:
    account = make_account()
    make_limits(account, max_open_positions=1, max_exposure_percent=Decimal(50))

    run = requested(account.owner, account=account, settings={"cash": "5000", "taker_fee": "0.002"})

    assert run.limits == {"max_open_positions": 1, "max_exposure_percent": "50"}
    assert (run.settings["cash"], run.settings["taker_fee"], run.settings["rests_targets"]) == ("5000", "0.002", False)


def test_a_run_computed_twice_is_stored_once() -> None:
    run = requested()

    first, second = run_compute(run.pk), run_compute(run.pk)

    assert (first, second) == (True, False)
    assert BacktestResult.objects.count() == 1
    assert fresh(run).tries == 1


def test_a_portfolio_keeps_the_order_of_its_feeds_and_shares_one_account() -> None:
    one, other = wave_feed("ETH/USDT", waves(size=6.0)), wave_feed("BTC/USDT")

    run = run_request(make_user(), asked(one, other, settings={"amount": "60"}, limits={"max_open_positions": 1}))
    run_compute(run.pk)

    result, settings, markets, _ = run_result(fresh(run))
    assert [market.symbol for market in markets] == ["ETH/USDT", "BTC/USDT"]
    assert settings.limits.max_open_positions == 1
    assert {trade.symbol for trade in result.trades} >= {"ETH/USDT"}
    assert len(result.refused) > 0
    assert run_result(fresh(run))[0].refused == result.refused


def test_the_same_words_again_are_the_same_trades_and_hashes() -> None:
    run = requested()
    run_compute(run.pk)

    again = run_repeat(fresh(run), run.owner)
    run_compute(again.pk)

    again, run = fresh(again), fresh(run)
    assert (again.code_hash, again.data_hash) == (run.code_hash, run.data_hash)
    assert len(run.code_hash) == len(run.data_hash) == 32
    assert again.result.trades == run.result.trades != []
    assert str(run_repetition(again)) == "the same code on the same candles, and the same trades"
    assert run_repetition(run) is None


def test_one_candle_revised_is_another_data_hash_and_other_trades() -> None:
    run = requested()
    run_compute(run.pk)
    Candle.objects.filter(open_at=NOON - 100 * HOUR).update(close=Decimal(70), low=Decimal(70))

    again = run_repeat(fresh(run), run.owner)
    run_compute(again.pk)

    told = run_repetition(fresh(again))
    assert told is not None
    assert (told.has_same_code, told.has_same_data, told.has_same_trades) == (True, False, False)
    assert str(told) == "the market data changed since; the trades are others"
    assert run_result(fresh(run))[3] is False


def test_another_strategy_file_is_another_code_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    from backtesting import fingerprints

    before = fingerprints.code_hash(SmaCross)
    original = fingerprints._bytes_of
    monkeypatch.setattr(fingerprints, "_bytes_of", lambda path: original(path) + b"#")

    assert fingerprints.code_hash(SmaCross) != before


def test_a_run_whose_bell_was_lost_is_rung_for_again(bells: Bells) -> None:
    run = requested()
    bells.clear()

    sweep_runs()

    assert bells.rung("backtesting.run") == [{"run_ids": [run.pk]}]


@pytest.mark.django_db(transaction=True)
def test_a_request_rings_when_it_is_committed(bells: Bells) -> None:
    run = requested()

    assert bells.rung("backtesting.run") == [{"run_ids": [run.pk]}]


def test_a_run_that_a_dead_worker_held_is_computed_when_its_lease_has_run_out() -> None:
    run = requested()
    until = timezone.now() + timedelta(seconds=10)
    BacktestRun.objects.update(status="RUNNING", leased_until=until, tries=1, started_at=timezone.now())

    held = run_compute(run.pk), runs_waiting(timezone.now())
    BacktestRun.objects.update(leased_until=timezone.now())

    assert held == (False, [])
    assert runs_waiting(timezone.now()) == [run.pk]
    assert run_compute(run.pk) is True
    assert (fresh(run).status, fresh(run).tries) == ("DONE", 2)


def test_a_run_that_ended_three_workers_is_given_up() -> None:
    run = requested()
    BacktestRun.objects.update(status="RUNNING", leased_until=timezone.now(), tries=3)

    assert run_compute(run.pk) is False

    run = fresh(run)
    assert (run.status, run.leased_until) == ("FAILED", None)
    assert run.last_error == "wanted a worker that lives to its end, was 3 that ended before: too little memory?"
    assert runs_waiting(timezone.now()) == []


def test_what_was_overtaken_while_it_was_computed_stores_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    run = requested()
    original = figures_of

    def overtaken(*args: Any, **checks: Any) -> Any:
        BacktestRun.objects.update(leased_until=timezone.now() + timedelta(seconds=20))
        return original(*args, **checks)

    monkeypatch.setattr(runs, "figures_of", overtaken)

    assert run_compute(run.pk) is False
    assert fresh(run).status == "RUNNING"
    assert not BacktestResult.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_two_workers_at_one_run_store_it_once() -> None:
    run = requested()

    results = at_once([lambda: run_compute(run.pk)] * 2)

    assert sorted(results) == [False, True]
    assert (fresh(run).status, fresh(run).tries, BacktestResult.objects.count()) == ("DONE", 1, 1)


@pytest.mark.django_db(transaction=True)
def test_a_run_that_is_cancelled_while_it_walks_is_left_within_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.05)
    run = requested(limits={"max_orders_per_minute": 60})  # walked, and not by the fast loop
    ticks = []

    def walks_for_long(markets: Any, settings: Any, tick: Any) -> Any:
        begun = timezone.now()
        while timezone.now() - begun < timedelta(seconds=20):
            ticks.append(timezone.now())
            if len(ticks) == 1:
                assert elsewhere(lambda: run_cancel(run.pk, actor="alice")) is True
            tick(0.5)
        raise AssertionError("wanted a word that it was cancelled, was none for 20 s")

    monkeypatch.setattr(runs, "backtest", walks_for_long)

    assert run_compute(run.pk) is False

    assert ticks[-1] - ticks[0] < timedelta(seconds=2)
    assert fresh(run).status == "CANCELED"
    assert not BacktestResult.objects.exists()
    assert [one["backtest"] for one in events("research")] == ["QUEUED", "RUNNING", "CANCELED"]


@pytest.mark.django_db(transaction=True)
def test_a_long_run_keeps_its_lease_and_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.05)
    run = requested()
    seen: list[tuple[Any, ...]] = []

    def takes_a_while(markets: Any, settings: Any, tick: Any) -> Any:
        tick(0.25)
        first = fresh(run).leased_until
        deadline = timezone.now() + timedelta(seconds=10)
        while fresh(run).done == 0 and timezone.now() < deadline:
            pass
        now = fresh(run)
        seen.append((now.done, now.total, now.percent, now.leased_until > first))  # type: ignore[operator]
        return backtest(markets, settings)

    monkeypatch.setattr(runs, "backtest", takes_a_while)

    assert run_compute(run.pk) is True
    assert seen == [(COUNT // 4, COUNT, 25.0, True)]
    assert fresh(run).status == "DONE"


def test_the_walk_itself_tells_how_far_it_is_and_ends_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backtesting.engine.walk.TICK_EVENTS", 1)
    run = requested(limits={"max_orders_per_minute": 60})
    markets, settings = markets_of(run, [run.feeds.get()])
    shares: list[float] = []

    backtest(markets, settings, shares.append)

    assert len(shares) > 10
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] < 1

    def told(share: float) -> None:
        raise leases.LeaseLost

    with pytest.raises(leases.LeaseLost):
        backtest(markets, settings, told)


def test_a_run_that_waits_is_cancelled_at_once_and_never_computed() -> None:
    run = requested()

    assert (run_cancel(run.pk), run_cancel(run.pk)) == (True, False)
    assert run_compute(run.pk) is False
    assert (fresh(run).status, runs_waiting(timezone.now())) == ("CANCELED", [])


def test_what_was_cancelled_or_failed_can_be_computed_after_all() -> None:
    run = requested()
    run_cancel(run.pk)

    run_retry(run.pk)
    run_compute(run.pk)

    assert fresh(run).status == "DONE"
    with pytest.raises(UnableToBacktest, match="wanted a backtest that failed or was cancelled, was DONE"):
        run_retry(run.pk)


def test_a_strategy_that_raises_fails_its_run_with_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(self: SmaCross, candles: Any, others: Any) -> SignalArrays:
        raise ZeroDivisionError("by nothing")

    run = requested()
    monkeypatch.setattr(SmaCross, "signals_with", raises)

    assert run_compute(run.pk) is True
    run = fresh(run)
    assert run.status == "FAILED"
    assert run.last_error.startswith("ZeroDivisionError: by nothing at ")
    assert "test_runs.py:" in run.last_error


def test_candles_that_went_since_it_was_asked_for_fail_it_with_a_word() -> None:
    run = requested()
    Candle.objects.filter(open_at__gte=NOON - 50 * HOUR).delete()

    run_compute(run.pk)

    assert fresh(run).status == "FAILED"
    assert fresh(run).last_error.startswith("wanted 240 candles of simulator-BTC/USDT-1h, 51 are missing")


def test_owners_are_served_by_turns_however_many_one_asks_for() -> None:
    feed, alice, bob = wave_feed(), make_user("alice"), make_user("bob")
    hers = [requested(alice, feed) for _ in range(4)]
    his = [requested(bob, feed) for _ in range(2)]

    order = [run_compute_next() for _ in range(6)]

    assert order == [hers[0].pk, his[0].pk, hers[1].pk, his[1].pk, hers[2].pk, hers[3].pk]
    assert run_compute_next() is None


def test_who_has_one_at_work_already_waits_for_who_has_none() -> None:
    feed, alice, bob = wave_feed(), make_user("alice"), make_user("bob")
    first = requested(bob, feed)
    run_compute(first.pk)  # he was served last; but she has one at work
    hers = [requested(alice, feed) for _ in range(2)]
    his = requested(bob, feed)
    BacktestRun.objects.filter(pk=hers[0].pk).update(
        status="RUNNING", leased_until=timezone.now() + timedelta(seconds=20), started_at=timezone.now() - HOUR
    )

    assert runs_waiting(timezone.now()) == [his.pk, hers[1].pk]


def test_a_bell_computes_one_run_and_rings_for_the_next(bells: Bells) -> None:
    feed = wave_feed()
    first, second = requested(feed=feed), requested(feed=feed)
    bells.clear()

    run_task([second.pk])

    assert (fresh(first).status, fresh(second).status) == ("DONE", "QUEUED")
    assert bells.rung("backtesting.run") == [{"run_ids": [second.pk]}]


def test_a_bell_whose_run_was_cancelled_meanwhile_begins_no_other(
    monkeypatch: pytest.MonkeyPatch, bells: Bells
) -> None:
    feed = wave_feed()
    first, second = requested(feed=feed), requested(feed=feed)
    bells.clear()

    def cancelled(*_: Any) -> None:
        run_cancel(first.pk)
        raise leases.LeaseLost

    monkeypatch.setattr(runs, "backtest", cancelled)
    run_task([second.pk])

    assert (fresh(first).status, fresh(second).status) == ("CANCELED", "QUEUED")
    assert bells.rung("backtesting.run") == [{"run_ids": [second.pk]}]


def test_more_than_a_share_that_wait_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MOST_LIVE", 1)
    feed = wave_feed()
    requested(feed=feed)

    with pytest.raises(UnableToBacktest, match="wanted at most 1 backtests of yours that wait"):
        requested(feed=feed)
    assert requested(make_user("bob"), feed).status == "QUEUED"


def test_missing_candles_are_named_with_the_way_to_have_them() -> None:
    feed = wave_feed()
    Candle.objects.filter(open_at__gte=NOON - 30 * HOUR, open_at__lt=NOON - 10 * HOUR).delete()

    assert refusal(feed) == {
        "from_at": [
            "wanted 240 candles of simulator-BTC/USDT-1h, 20 are missing, 20 of them from 2024-04-30 06:00 to 2024-05-01 "
            f"02:00: have them fetched by a backfill (feed {feed.pk}, from_at 2024-04-30T06:00:00Z, until_at "
            "2024-05-01T02:00:00Z), or choose a span without them"
        ]
    }
    assert list(refusal(feed, until_at=UNTIL_AT + 100 * HOUR)) == ["until_at"]


def test_candles_that_came_while_it_was_looked_are_not_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = wave_feed()
    Candle.objects.filter(open_at__lt=NOON - 200 * HOUR).delete()
    monkeypatch.setattr(setups, "ms_missing", lambda *_: np.empty(0, np.int64))

    assert requested(feed=feed).status == "QUEUED"


def test_a_few_missing_candles_are_a_warning() -> None:
    feed = wave_feed()
    Candle.objects.filter(open_at__in=[NOON - 30 * HOUR, NOON - 60 * HOUR]).delete()

    run = requested(feed=feed)
    run_compute(run.pk)

    figures = fresh(run).figures
    assert figures is not None
    assert {
        "code": "CANDLES_MISSING",
        "text": "2 candles of simulator-BTC/USDT-1h are missing: what happened then was not seen",
    } in figures["warnings"]
    assert "HOLES" not in {one["code"] for one in figures["warnings"]}  # the same again


def test_too_many_candles_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setups, "MOST_CANDLES", 400)

    assert refusal(wave_feed(), wave_feed("ETH/USDT")) == {
        "until_at": ["wanted at most 400 candles of all markets together, was 480"]
    }
    assert refusal(wave_feed("XRP/USDT"), strategy="trend_filter", parameters={"trend_timeframe": "30m"}) == {
        "until_at": ["wanted at most 400 candles of all markets together, was 720"]
    }


@pytest.mark.parametrize(
    ("words", "field", "text"),
    [
        ({"strategy": "gone"}, "strategy", "wanted a strategy that there is, was 'gone'"),
        ({"parameters": {"fast": 0}}, "parameters", "fast: Input should be greater than or equal to 2, was 0"),
        ({"settings": {"cash": -1}}, "settings", "cash: Input should be greater than 0, was -1"),
        ({"settings": {"leverage": 3}}, "settings", "leverage: wanted 1 on a spot market, was 3"),
        ({"settings": "much"}, "settings", "wanted an object, was str"),
        ({"settings": {"amount": "1e-999999"}}, "settings", "amount: wanted a number of at most 40 places, was 1E-999999"),
        ({"settings": {"cash": "1." + 41 * "1"}}, "settings", "cash: wanted a number of at most 40 places, was 1.111"),
        (
            {"limits": {"max_exposure_percent": "1e999999"}}, "limits",
            "max_exposure_percent: wanted a number of at most 40 places, was 1E+999999",
        ),
        ({"limits": {"max_open_positions": 2**31}}, "limits", "max_open_positions: wanted at most 2147483647, was 2147"),
        ({"limits": {"max_open_positions": 0}}, "limits", "max_open_positions: Input should be greater than 0, was 0"),
        (
            {"limits": {"max_var_percent": 2}}, "limits",
            "max_var_percent: wanted a limit that a book alone can be judged by, was one that needs returns of markets",
        ),
        ({"exits": {"roi": [{"minutes": -1, "percent": 1}]}}, "exits", "roi.0.minutes: Input should be greater than"),
        ({"until_at": FROM_AT}, "until_at", "wanted a time after 2024-04-21 13:00, was 2024-04-21 13:00"),
        ({"from_at": datetime(2024, 5, 1)}, "from_at", "wanted a time with its zone, was 2024-05-01 00:00:00"),  # noqa: DTZ001
        ({"until_at": NOON + timedelta(days=20_000)}, "until_at", "wanted candles that have closed, until "),
        ({"detail_timeframe": "4h"}, "detail_timeframe", "wanted a timeframe whose candles make up those of 1h, was 4h"),
        ({"detail_timeframe": "5m"}, "detail_timeframe", "wanted a feed of BTC/USDT at simulator at 5m, was none"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_by_its_field(words: dict[str, Any], field: str, text: str) -> None:
    told = refusal(wave_feed(), **words)

    assert list(told) == [field]
    assert told[field][0].startswith(text)


def test_an_unknown_word_is_answered_with_those_there_are() -> None:
    [text] = refusal(wave_feed(), settings={"money": 1})["settings"]

    assert text.startswith("money: wanted one of cash, sizing, amount, ")


def test_feeds_that_do_not_go_together_are_refused() -> None:
    feed = wave_feed()

    assert refusal() == {"feeds": ["wanted 1 to 50 feeds, was 0"]}
    assert refusal(feed, feed) == {"feeds": ["wanted each market once, was BTC/USDT, BTC/USDT"]}
    assert refusal(feed, wave_feed("ETH/BTC")) == {"feeds": ["wanted markets of one quote currency, was BTC, USDT"]}


def test_only_what_has_ended_can_be_deleted() -> None:
    run = requested()

    with pytest.raises(UnableToBacktest, match="wanted a backtest that has ended"):
        run_delete(run.pk)
    run_compute(run.pk)
    run_delete(run.pk)

    assert not BacktestRun.objects.exists()
    assert not BacktestResult.objects.exists()


def test_a_figure_that_is_no_number_and_a_nul_can_be_stored() -> None:
    assert finite({"a": [float("nan"), 1.5], "b\0": (float("inf"), "x\0y", None, "\ud800")}) == {
        "a": [None, 1.5], "b": [None, "xy", None, "?"],
    }  # fmt: skip


def test_a_curve_with_what_is_no_number_is_stored_and_drawn_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    curve = [[0, 1.0], [1, float("inf")], [2, 1.5]]
    monkeypatch.setattr(runs, "curve_thinned", lambda result: curve)
    run = requested()

    assert run_compute(run.pk) is True

    figures = fresh(run).figures
    assert figures is not None
    assert figures["curve"] == [[0, 1.0], [1, None], [2, 1.5]]
    assert curves_drawn([figures["curve"]]) == curves_drawn([[curve[0], curve[2]]])
