"""Configurations that look at further feeds: asked when all that had closed is there, once, in whatever order it came."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, ClassVar

import numpy as np
import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone

from domain.candles import Candles, Timeframe
from domain.informative import Informative, Others, TapeKind
from domain.strategy import Parameters, SignalArrays, Strategy
from exchanges.models import Market
from marketdata.models import Candle, Feed
from strategies import services
from strategies.informatives import PATIENCE, config_bind
from strategies.library import LIBRARY
from strategies.models import Signal, StrategyConfig
from strategies.services import config_need
from strategies.tasks import evaluate, sweep_candles
from tests.conftest import Bells
from tests.factories import NOON, make_candles, make_config, make_exchange, make_feed, make_market, make_tape
from tests.race import at_once, happens_before

pytestmark = pytest.mark.django_db
in_the_open = pytest.mark.django_db(transaction=True)  # with bells that ring, or more than one connection

MINUTE = timedelta(minutes=1)
LAST = NOON - MINUTE
ETHER = Informative(Timeframe.M5, "ETH/USDT", warm_up=2)


class Looking(Strategy[Parameters]):
    """Buys while another market's last candle closed above 100, and keeps what it was shown."""

    name, title, parameters_type = "looking", "Looking", Parameters
    warm_up = 2
    shown: ClassVar[list[tuple[list[float], list[float], list[float | None]]]] = []
    named: ClassVar[tuple[Informative, ...]] = (ETHER,)
    asked_tapes: ClassVar[frozenset[TapeKind]] = frozenset()

    @property
    def informative(self) -> tuple[Informative, ...]:
        return self.named

    @property
    def tapes(self) -> frozenset[TapeKind]:
        return self.asked_tapes

    def signals_with(self, candles: Candles, others: Others) -> SignalArrays:
        seen = np.full(len(candles), 101.0)
        for one in self.named:
            seen = others.align(one, others[one].close)
            self.shown.append(
                (list(candles.close), list(others[one].close), [None if np.isnan(x) else x for x in seen])
            )
        entries = (seen > 100).astype(np.int8)
        return SignalArrays(entries, np.zeros_like(entries))


@pytest.fixture(autouse=True)
def looking(monkeypatch: pytest.MonkeyPatch) -> type[Looking]:
    monkeypatch.setitem(LIBRARY, "looking", Looking)
    monkeypatch.setattr(Looking, "shown", [])
    monkeypatch.setattr(Looking, "named", (ETHER,))
    monkeypatch.setattr(Looking, "asked_tapes", frozenset())
    return Looking


def bitcoin() -> Market:
    """On an exchange whose clock stands at half a minute past noon, and which has ether, too."""
    exchange = make_exchange(clock_speed=0.0, clock_anchor_at=NOON, clock_venue_at=NOON + timedelta(seconds=30))
    make_market(exchange, "ETH/USDT")
    return make_market(exchange)


def a_config(**fields: Any) -> StrategyConfig:
    """A needed configuration on the minutes of bitcoin."""
    feed = make_feed(bitcoin())
    return make_config(feed=feed, strategy="looking", is_needed=True, **fields)


def ether(config: StrategyConfig) -> Feed:
    config_bind(config)
    return config.informative_feeds.get()


def own_candles(config: StrategyConfig, last_open_at: datetime = LAST) -> None:
    make_candles(config.feed, [float(number) for number in range(10)], last_open_at)


def ether_candles(config: StrategyConfig, last_open_at: datetime = NOON - 5 * MINUTE) -> None:
    make_candles(ether(config), [98.0, 99.0, 101.0], last_open_at)


def answers() -> list[tuple[str, str]]:
    return list(Signal.objects.order_by("pk").values_list("kind", "reason"))


def let_patience_end() -> None:
    Candle.objects.update(collected_at=timezone.now() - PATIENCE)


# -- strategies.evaluate: its work, twice, lost, second --------------------------------------------------------------------


@in_the_open
@pytest.mark.parametrize("order", ["own first", "other first"])
def test_the_answer_is_the_same_in_whatever_order_the_candles_came(
    bells: Bells, looking: type[Looking], order: str
) -> None:
    config = a_config()
    feed = ether(config)
    steps = [(own_candles, config.feed_id), (ether_candles, feed.pk)]
    for step, feed_id in steps if order == "own first" else reversed(steps):
        assert answers() == []
        step(config)
        evaluate([feed_id])  # as the bell of that feed's candle does

    # Ether's last candle closed at noon, as the last own one did; the one before it five minutes earlier.
    assert answers() == [("ENTER_LONG", "")]
    assert looking.shown == [
        ([float(number) for number in range(10)], [98.0, 99.0, 101.0], [98.0] * 4 + [99.0] * 5 + [101.0])
    ]
    assert len(bells.rung("positions.fan_out")) == 1


def test_a_candle_that_closed_later_is_not_shown(looking: type[Looking]) -> None:
    config = a_config()
    own_candles(config)
    make_candles(ether(config), [98.0, 99.0, 101.0, 50.0], NOON)  # one more, which opened at noon

    evaluate([config.feed_id])

    assert looking.shown[0][1] == [98.0, 99.0, 101.0]
    assert answers() == [("ENTER_LONG", "")]


@in_the_open
def test_a_second_bell_of_either_feed_changes_nothing(bells: Bells) -> None:
    config = a_config()
    own_candles(config)
    ether_candles(config)
    evaluate([config.feed_id])
    before = Signal.objects.values().get()

    evaluate([ether(config).pk])
    evaluate([config.feed_id, ether(config).pk])

    assert Signal.objects.values().get() == before
    assert len(bells.rung("positions.fan_out")) == 1


@in_the_open
def test_a_lost_bell_of_an_informative_feed_is_rung_again_by_the_sweep(bells: Bells) -> None:
    config = a_config()
    own_candles(config)
    evaluate([config.feed_id])
    ether_candles(config)  # whose bell is lost

    sweep_candles()
    [bell] = bells.rung("strategies.evaluate")
    evaluate(**bell)

    assert bell == {"feed_ids": [config.feed_id]}
    assert answers() == [("ENTER_LONG", "")]


@in_the_open
def test_of_evaluators_woken_by_both_feeds_one_stores(bells: Bells) -> None:
    config = a_config()
    own_candles(config)
    ether_candles(config)
    feed_id = ether(config).pk

    at_once([lambda: evaluate([config.feed_id]), lambda: evaluate([feed_id])] * 2)

    assert answers() == [("ENTER_LONG", "")]
    assert len(bells.rung("positions.fan_out")) == 1


@in_the_open
def test_who_gave_up_waiting_second_leaves_the_first_answer(monkeypatch: pytest.MonkeyPatch, bells: Bells) -> None:
    config = a_config()
    own_candles(config)
    let_patience_end()
    feed_id = ether(config).pk

    def it_comes() -> None:
        ether_candles(config)
        evaluate([feed_id])

    happens_before(monkeypatch, services, "_insert_new", it_comes)
    evaluate([config.feed_id])

    assert answers() == [("ENTER_LONG", "")]


# -- waiting, and its end --------------------------------------------------------------------------------------------------


def test_while_something_is_missing_nothing_is_said_and_the_strategy_is_not_asked(looking: type[Looking]) -> None:
    config = a_config()
    own_candles(config)
    ether_candles(config, last_open_at=NOON - 10 * MINUTE)  # the one that closed at noon is missing

    evaluate([config.feed_id])

    assert (answers(), looking.shown) == ([], [])


def test_after_the_patience_the_answer_is_nothing_and_names_what_is_missing(looking: type[Looking]) -> None:
    config = a_config()
    own_candles(config)
    ether_candles(config, last_open_at=NOON - 10 * MINUTE)
    let_patience_end()

    evaluate([config.feed_id])
    ether_candles(config)
    evaluate([ether(config).pk])  # too late for this candle

    assert answers() == [("NOTHING", "INFORMATIVE_MISSING: ETH/USDT 5m")]
    assert looking.shown == []


def test_a_neighbour_that_looks_at_nothing_else_does_not_wait() -> None:
    config = a_config()
    own_candles(config)
    make_config(feed=config.feed, is_needed=True)

    evaluate([config.feed_id])

    assert answers() == [("NOTHING", "NO_SIGNAL")]


def test_too_few_candles_of_an_informative_feed_are_told() -> None:
    config = a_config()
    own_candles(config)
    make_candles(ether(config), [101.0], NOON - 5 * MINUTE)

    evaluate([config.feed_id])

    assert answers() == [("NOTHING", "WARMING_UP: 1 of 2 candles of ETH/USDT 5m")]


def test_two_configurations_that_look_at_each_others_feeds_are_both_answered(looking: type[Looking]) -> None:
    first = a_config()
    Looking.named = (Informative(Timeframe.M1, "ETH/USDT"),)
    first_other = ether(first)
    second = make_config(feed=first_other, is_needed=True, strategy="looking_back")
    LIBRARY["looking_back"] = type("LookingBack", (Looking,), {"named": (Informative(Timeframe.M1, "BTC/USDT"),)})
    try:
        config_bind(second)
        make_candles(first.feed, [101.0, 102.0, 103.0], LAST)
        evaluate([first.feed_id])
        make_candles(first_other, [101.0, 102.0, 103.0], LAST)
        evaluate([first_other.pk])
    finally:
        del LIBRARY["looking_back"]

    assert sorted(Signal.objects.values_list("config_id", "kind")) == [
        (first.pk, "ENTER_LONG"),
        (second.pk, "ENTER_LONG"),
    ]


# -- which rows they are ---------------------------------------------------------------------------------------------------


def test_a_market_that_the_exchange_does_not_have_is_refused_with_words(looking: type[Looking]) -> None:
    config = a_config()
    Looking.named = (Informative(Timeframe.D1, "MARS/USDT"),)

    with pytest.raises(ValidationError, match="wanted a market of simulator to look at, was 'MARS/USDT'"):
        config.clean()


def test_a_market_that_is_gone_makes_a_configuration_unusable_and_says_so() -> None:
    config = a_config()
    own_candles(config)
    Market.objects.filter(symbol="ETH/USDT").update(is_active=False)

    evaluate([config.feed_id])

    assert answers() == [("NOTHING", "UNUSABLE: wanted a market of simulator to look at, was 'ETH/USDT'")]


def test_a_need_binds_what_the_strategy_names_now_and_lets_go_of_the_rest() -> None:
    config = a_config()
    StrategyConfig.objects.update(is_needed=False)
    config.informative_feeds.set([make_feed(timeframe=Timeframe.H12)])

    config_need(config.pk, True)

    assert [str(feed) for feed in config.informative_feeds.all()] == ["simulator-ETH/USDT-5m"]


def test_an_empty_symbol_is_the_configurations_own_market(looking: type[Looking]) -> None:
    config = a_config()
    Looking.named = (Informative(Timeframe.D1),)

    assert str(ether(config)) == "simulator-BTC/USDT-1d"


# -- tapes -----------------------------------------------------------------------------------------------------------------


def test_trades_are_waited_for_until_they_reach_the_close(looking: type[Looking]) -> None:
    Looking.named, Looking.asked_tapes = (), frozenset({TapeKind.TRADES})
    config = a_config()
    own_candles(config)
    tape = make_tape(config.feed.market, last_at=NOON - timedelta(milliseconds=1), whole_since=NOON - MINUTE)

    evaluate([config.feed_id])
    waiting = answers()
    make_tape(tape.market, last_at=NOON)
    evaluate([config.feed_id])

    assert waiting == []
    assert answers() == [("ENTER_LONG", "")]


def test_trades_that_do_not_come_are_named_after_the_patience(looking: type[Looking]) -> None:
    Looking.named, Looking.asked_tapes = (), frozenset({TapeKind.TRADES})
    config = a_config()
    own_candles(config)
    let_patience_end()

    evaluate([config.feed_id])

    assert answers() == [("NOTHING", "INFORMATIVE_MISSING: trades")]


def test_funding_rates_of_a_spot_market_are_refused_with_words(looking: type[Looking]) -> None:
    Looking.named, Looking.asked_tapes = (), frozenset({TapeKind.FUNDING})

    with pytest.raises(
        ValidationError, match="wanted a market of contracts, for its funding rates are looked at, was BTC/USDT"
    ):
        a_config().clean()
