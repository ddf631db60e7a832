"""Evaluating strategies: one answer per configuration and candle, with its reason, whoever asks and however often."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar

import numpy as np
import pytest
from django.utils import timezone

from domain.candles import Candles, Timeframe
from domain.strategy import Parameters, SignalArrays, SignalKind, Strategy
from marketdata.models import Feed
from marketdata.services import candles_store
from strategies import services
from strategies.library import LIBRARY
from strategies.models import Signal, StrategyConfig
from strategies.services import config_need, feed_evaluate, feeds_unevaluated, signals_latest
from strategies.tasks import evaluate, sweep_candles
from tests.conftest import Bells
from tests.factories import (
    NOON,
    events,
    make_account,
    make_candles,
    make_config,
    make_exchange,
    make_feed,
    make_market,
    make_session,
    make_signal,
    make_user,
)
from tests.marketdata.conftest import candle
from tests.race import at_once, happens_before

pytestmark = pytest.mark.django_db
in_the_open = pytest.mark.django_db(transaction=True)  # with bells that ring, or more than one connection

MINUTE = timedelta(minutes=1)
LAST = NOON - MINUTE
RISING_AT_LAST = [10.0, 9.0, 8.0, 7.0, 12.0]
FALLING_AT_LAST = [7.0, 8.0, 9.0, 10.0, 5.0]
ALWAYS_FALLING = [10.0, 9.0, 8.0, 7.0, 6.0]


def feed_with(closes: list[float], last_open_at: datetime = LAST) -> Feed:
    """A 1m feed of a venue whose clock stands at half a minute past noon."""
    stopped = make_exchange(clock_speed=0.0, clock_anchor_at=NOON, clock_venue_at=NOON + timedelta(seconds=30))
    feed = make_feed(make_market(stopped))
    make_candles(feed, closes, last_open_at)
    feed.refresh_from_db()
    return feed


def needed_config(feed: Feed, **fields: Any) -> StrategyConfig:
    return make_config(feed=feed, is_needed=True, **fields)


def answers() -> list[tuple[str, str]]:
    return list(Signal.objects.order_by("config_id", "candle_open_at").values_list("kind", "reason"))


class Odd(Strategy[Parameters]):
    """Does what the test sets."""

    name = "odd"
    title = "Odd"
    parameters_type = Parameters
    error: ClassVar[Exception | None] = None
    said: ClassVar[Any] = 0
    words: ClassVar[dict[str, float]] = {}

    @property
    def warm_up(self) -> int:
        return 2

    def signals(self, candles: Candles) -> SignalArrays:
        if self.error is not None:
            raise self.error
        entries = np.full(len(candles), self.said)
        beside = {name: np.full(len(candles), value) for name, value in self.words.items()}
        return SignalArrays(entries=entries, exits=np.zeros(len(candles), dtype=np.int8), **beside)


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> type[Odd]:
    monkeypatch.setitem(LIBRARY, "odd", Odd)
    monkeypatch.setattr(Odd, "error", None)
    monkeypatch.setattr(Odd, "said", 0)
    monkeypatch.setattr(Odd, "words", {})
    return Odd


# -- strategies.evaluate: its work, twice, lost, second ------------------------------------------------------------------


@in_the_open
def test_a_candle_that_means_something_becomes_a_signal_and_is_published(bells: Bells) -> None:
    feed = feed_with(RISING_AT_LAST)
    config = needed_config(feed)

    evaluate([feed.pk])

    signal = Signal.objects.get()
    assert (signal.config_id, signal.kind, signal.reason) == (config.pk, SignalKind.ENTER_LONG, "")
    assert (signal.candle_open_at, signal.candle_close_at) == (LAST, NOON)
    assert signal.price == 12
    assert bells.rung("positions.fan_out") == [{"signal_ids": [signal.pk]}]
    assert [event["kind"] for event in events("signals")] == ["ENTER_LONG"]


def test_one_that_came_to_have_callbacks_says_nothing_and_why(odd: type[Odd], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(odd, "said", 1)
    monkeypatch.setattr(odd, "callbacks", ("custom_exit",))
    feed = feed_with(RISING_AT_LAST)
    needed_config(feed, strategy="odd")

    evaluate([feed.pk])

    assert answers() == [("NOTHING", "UNUSABLE: it has a word in custom_exit")]


@in_the_open
def test_a_second_evaluation_changes_and_publishes_nothing(bells: Bells) -> None:
    feed = feed_with(RISING_AT_LAST)
    needed_config(feed)
    evaluate([feed.pk])
    before = Signal.objects.values().get()

    evaluate([feed.pk])
    evaluate([feed.pk, feed.pk])

    assert Signal.objects.values().get() == before
    assert len(bells.rung("positions.fan_out")) == 1
    assert len(events("signals")) == 1


@in_the_open
def test_a_lost_evaluation_bell_is_rung_again_by_the_sweep(bells: Bells) -> None:
    feed = feed_with(RISING_AT_LAST)
    needed_config(feed)

    sweep_candles()

    assert bells.rung("strategies.evaluate") == [{"feed_ids": [feed.pk]}]


@in_the_open
def test_of_many_evaluators_at_once_one_stores_and_publishes(bells: Bells) -> None:
    feed = feed_with(RISING_AT_LAST)
    for _ in range(7):
        needed_config(feed)

    results = at_once([lambda: feed_evaluate(feed.pk)] * 5)

    said = [signal_id for result in results for signal_id in result]
    assert sorted(said) == sorted(Signal.objects.values_list("pk", flat=True))
    assert len(said) == 7
    assert len(events("signals")) == 7
    assert sorted(pk for bell in bells.rung("positions.fan_out") for pk in bell["signal_ids"]) == sorted(said)


@in_the_open
def test_an_evaluator_that_comes_second_says_nothing(monkeypatch: pytest.MonkeyPatch, bells: Bells) -> None:
    feed = feed_with(RISING_AT_LAST)
    needed_config(feed)
    happens_before(monkeypatch, services, "_insert_new", lambda: feed_evaluate(feed.pk))

    assert feed_evaluate(feed.pk) == []

    assert len(bells.rung("positions.fan_out")) == 1
    assert len(events("signals")) == 1


def test_a_configuration_is_evaluated_once_however_many_sessions_share_it(odd: type[Odd]) -> None:
    feed = feed_with(RISING_AT_LAST)
    config = needed_config(feed)
    for name in ("one", "two", "three"):
        make_session(make_account(config.owner, feed.market.exchange, name=name), config)

    assert len(feed_evaluate(feed.pk)) == 1

    assert Signal.objects.count() == 1
    assert len(events("signals")) == 1


def test_every_needed_configuration_of_a_feed_is_asked_and_no_other() -> None:
    feed, other = feed_with(RISING_AT_LAST), make_feed(timeframe=Timeframe.H1)
    needed = [needed_config(feed), needed_config(feed, owner=make_user("bob"))]
    make_config(feed=feed, is_needed=False)
    needed_config(other)

    feed_evaluate(feed.pk)

    assert set(Signal.objects.values_list("config_id", flat=True)) == {config.pk for config in needed}


# -- what is answered, and why -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("closes", "kind", "reason"),
    [
        (RISING_AT_LAST, "ENTER_LONG", ""),
        (FALLING_AT_LAST, "EXIT_LONG", ""),
        (ALWAYS_FALLING, "NOTHING", "NO_SIGNAL"),
        (RISING_AT_LAST[-4:], "ENTER_LONG", ""),
        (RISING_AT_LAST[-3:], "NOTHING", "WARMING_UP: 3 of 4 candles"),
    ],
)
def test_an_answer_comes_with_its_reason(closes: list[float], kind: str, reason: str) -> None:
    feed = feed_with(closes)
    needed_config(feed)

    feed_evaluate(feed.pk)

    assert answers() == [(kind, reason)]


@in_the_open
def test_nothing_is_recorded_and_rings_nobody(bells: Bells) -> None:
    feed = feed_with(ALWAYS_FALLING)
    needed_config(feed)

    assert feed_evaluate(feed.pk) == []

    assert answers() == [("NOTHING", "NO_SIGNAL")]
    assert bells.rung("positions.fan_out") == []
    assert events("signals") == []
    assert feeds_unevaluated(timezone.now()) == []


def test_a_candle_older_than_its_successors_close_is_old_news() -> None:
    feed = feed_with(RISING_AT_LAST, last_open_at=LAST - MINUTE)
    needed_config(feed)

    assert feed_evaluate(feed.pk) == []

    assert answers() == [("NOTHING", "STALE: a newer candle has closed since")]


def test_the_very_moment_a_successor_closes_a_candle_is_news_still() -> None:
    feed = feed_with(RISING_AT_LAST)
    exchange = feed.market.exchange
    exchange.clock_venue_at = NOON + MINUTE
    exchange.save()
    needed_config(feed)

    feed_evaluate(feed.pk)

    assert answers() == [("ENTER_LONG", "")]


def test_a_strategy_that_raises_does_not_keep_its_neighbours_from_being_asked(odd: type[Odd]) -> None:
    feed = feed_with(RISING_AT_LAST)
    odd.error = RuntimeError("division of the sea")
    needed_config(feed, strategy="odd")
    needed_config(feed)

    feed_evaluate(feed.pk)

    assert answers() == [("NOTHING", "FAILED: RuntimeError: division of the sea"), ("ENTER_LONG", "")]
    assert feeds_unevaluated(timezone.now()) == []


@pytest.mark.parametrize(
    "said",
    ["a\0b", "lone \ud800 surrogate", "x" * 5000, "two\nlines", ""],
    ids=["NUL", "lone surrogate", "very long", "lines", "nothing"],
)
def test_whatever_a_strategy_says_when_it_fails_can_be_stored(
    odd: type[Odd], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A captured log with a lone surrogate in it cannot be sent from one test process to another.
    monkeypatch.setattr(services, "logger", logging.getLogger("nobody listens"))
    services.logger.disabled = True
    feed = feed_with(RISING_AT_LAST)
    odd.error = ValueError(said)
    needed_config(feed, strategy="odd")
    needed_config(feed)

    feed_evaluate(feed.pk)

    [(kind, reason), neighbour] = answers()
    assert kind == "NOTHING"
    assert reason.startswith("FAILED: ValueError")
    assert len(reason) <= 200
    assert neighbour == ("ENTER_LONG", "")


@pytest.mark.parametrize("said", [float("nan"), None, "up"])
def test_a_signal_that_is_no_number_is_a_failure_of_the_strategy(odd: type[Odd], said: object) -> None:
    feed = feed_with(RISING_AT_LAST)
    odd.said = said
    needed_config(feed, strategy="odd")

    feed_evaluate(feed.pk)

    [(kind, reason)] = answers()
    assert kind == "NOTHING"
    assert reason.startswith("FAILED: ")


def test_parameters_that_no_longer_fit_are_told_and_leave_the_neighbours_alone() -> None:
    feed = feed_with(RISING_AT_LAST)
    needed_config(feed, parameters={"fast": 3, "slow": 2})
    needed_config(feed, strategy="gone_with_an_upgrade")
    needed_config(feed)

    feed_evaluate(feed.pk)

    [(first, why), (second, unknown), neighbour] = answers()
    assert (first, second) == ("NOTHING", "NOTHING")
    assert why.startswith("UNUSABLE: ")
    assert unknown == "UNUSABLE: wanted a strategy that there is, was 'gone_with_an_upgrade'"
    assert neighbour == ("ENTER_LONG", "")


def test_a_price_is_the_candles_close_to_the_last_digit() -> None:
    feed = feed_with(RISING_AT_LAST, last_open_at=LAST - MINUTE)
    candles_store(feed.pk, [candle(LAST, "12.123456789012345678")])
    Feed.objects.update(last_open_at=LAST)
    needed_config(feed)

    feed_evaluate(feed.pk)

    assert Signal.objects.get().price == Decimal("12.123456789012345678")


def test_one_feed_that_breaks_does_not_keep_the_others_of_its_message_waiting() -> None:
    feed, broken = feed_with(RISING_AT_LAST), make_feed(timeframe=Timeframe.H1)
    Feed.objects.filter(pk=broken.pk).update(timeframe="7s")
    candles_store(broken.pk, [candle(LAST)])
    needed_config(broken)
    needed_config(feed)

    evaluate([broken.pk, 12345, feed.pk])

    assert answers() == [("ENTER_LONG", "")]


def test_a_feed_without_candles_or_without_needed_configurations_is_answered_with_nothing_at_all() -> None:
    empty = make_feed()
    needed_config(empty)

    assert feed_evaluate(empty.pk) == []
    assert feed_evaluate(12345) == []
    assert answers() == []


# -- the sweep's question -----------------------------------------------------------------------------------------------


def test_a_feed_is_unevaluated_until_each_of_its_needed_configurations_has_answered_its_last_candle() -> None:
    feed = feed_with(RISING_AT_LAST)
    needed_config(feed)
    feed_evaluate(feed.pk)

    assert feeds_unevaluated(timezone.now()) == []

    late = make_config(feed=feed)
    assert feeds_unevaluated(timezone.now()) == []

    config_need(late.pk, True)
    assert feeds_unevaluated(timezone.now()) == [feed.pk]

    feed_evaluate(feed.pk)
    assert feeds_unevaluated(timezone.now()) == []

    candles_store(feed.pk, [candle(NOON)])
    Feed.objects.update(last_open_at=NOON)
    assert feeds_unevaluated(timezone.now()) == [feed.pk]


def test_a_feed_that_was_never_collected_is_not_asked_about() -> None:
    needed_config(make_feed())

    assert feeds_unevaluated(timezone.now()) == []


# -- the last word -------------------------------------------------------------------------------------------------------


def test_the_latest_signal_of_a_configuration_is_the_last_that_said_something() -> None:
    feed = feed_with(RISING_AT_LAST)
    one, two, silent = needed_config(feed), needed_config(feed), needed_config(feed)
    for config, kind, minute in (
        *((one, "ENTER_LONG", 1), (one, "EXIT_LONG", 3), (one, "NOTHING", 4)),
        *((two, "ENTER_LONG", 2), (silent, "NOTHING", 4)),
    ):
        make_signal(config, SignalKind(kind), closed_at=NOON + minute * MINUTE)

    latest = signals_latest([one.pk, two.pk, silent.pk])

    assert {pk: signal.candle_close_at for pk, signal in latest.items()} == {
        one.pk: NOON + 3 * MINUTE,
        two.pk: NOON + 2 * MINUTE,
    }


# -- what is said beside a signal ----------------------------------------------------------------------------------------

NO_WORDS = (None, None, None)


@pytest.mark.parametrize(
    ("words", "stored"),
    [
        ({}, NO_WORDS),
        ({"confidence": 0.7, "stops": 4.96, "targets": 9.0}, (Decimal("0.7"), Decimal("4.9"), 9)),
        ({"confidence": float("nan"), "stops": float("nan"), "targets": float("nan")}, NO_WORDS),
        ({"confidence": 1.4, "stops": -3.0, "targets": float("inf")}, (1, None, None)),
        ({"confidence": 1 / 3, "stops": 0.01, "targets": 1e300}, (Decimal("0.333333"), None, None)),
    ],
)
def test_what_an_entry_says_of_itself_is_stored_as_figures_or_not_at_all(
    odd: type[Odd], words: dict[str, float], stored: tuple[Any, ...]
) -> None:
    feed = feed_with(RISING_AT_LAST)
    needed_config(feed, strategy="odd")
    odd.said, odd.words = 1, words

    evaluate([feed.pk])

    signal = Signal.objects.get()
    assert (signal.confidence, signal.stop_price, signal.target_price) == stored
    assert signal.atr is None  # five candles are too few


@pytest.mark.parametrize(("said", "is_measured"), [(1, True), (0, False)])
def test_a_signal_that_speaks_knows_the_range_of_its_candles(odd: type[Odd], said: int, is_measured: bool) -> None:
    feed = feed_with([100.0 + index % 2 for index in range(20)])
    needed_config(feed, strategy="odd")
    odd.said = said

    evaluate([feed.pk])

    assert Signal.objects.get().atr == (1 if is_measured else None)


def test_words_of_another_length_than_the_candles_are_a_failure(
    odd: type[Odd], monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = feed_with(RISING_AT_LAST)
    needed_config(feed, strategy="odd")
    short = SignalArrays(np.ones(5, dtype=np.int8), np.zeros(5, dtype=np.int8), confidence=np.ones(2))
    monkeypatch.setattr(odd, "signals", lambda self, candles: short)

    evaluate([feed.pk])

    [(kind, reason)] = answers()
    assert kind == SignalKind.NOTHING
    assert reason.startswith("FAILED: IndexError")
