"""Which source is asked, who is left alone and for how long, and that a switch is told once and undone."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.core.exceptions import ValidationError
from django.db import transaction

from domain.candles import Timeframe
from exchanges.gateway import CandleReport
from marketdata.failover import (
    Choice,
    feed_sources_set,
    may_tell,
    may_tell_all,
    source_failed,
    source_served,
    sources_to_ask,
)
from marketdata.models import Feed, FeedSource, SourceKind
from marketdata.sources import SourceFailed
from marketdata.storage import candles_merge
from tests.conftest import Bells
from tests.factories import NOON, events, make_feed
from tests.marketdata.conftest import candle
from tests.race import at_once, elsewhere

pytestmark = pytest.mark.django_db
in_the_open = pytest.mark.django_db(transaction=True)  # with bells that ring, or more than one connection

MINUTE = timedelta(minutes=1)
EXCHANGE, YAHOO, ALPHA = SourceKind.EXCHANGE, SourceKind.YAHOO, SourceKind.ALPHA_VANTAGE
AWAY = SourceFailed("wanted an answer, was ConnectionError")


@pytest.fixture
def feed() -> Feed:
    feed = make_feed()
    feed_sources_set(feed, [(EXCHANGE, ""), (YAHOO, "BTC-USD"), (ALPHA, "BTC/USD")])
    return feed


def ranks(feed: Feed, at: object = NOON) -> list[int]:
    """The ranks of the sources that are asked, in their order."""
    return [choice.row.rank for choice in sources_to_ask(feed, at) if choice.row]  # type: ignore[arg-type]


def choice(feed: Feed, rank: int) -> Choice:
    """The source of that rank as a collection holds it."""
    row = FeedSource.objects.get(feed=feed, rank=rank)
    return Choice(SourceKind(row.kind), sources_to_ask(feed, NOON)[0].source, row)


def served(feed: Feed, rank: int) -> None:
    feed.refresh_from_db()
    with transaction.atomic():
        source_served(feed, choice(feed, rank), NOON)
    feed.refresh_from_db()


def failed(feed: Feed, rank: int, error: SourceFailed = AWAY) -> FeedSource:
    source_failed(feed, choice(feed, rank), error, NOON)
    return FeedSource.objects.get(feed=feed, rank=rank)


def given_by(kind: SourceKind, feed: Feed, *reports: CandleReport) -> None:
    with transaction.atomic():
        candles_merge([(feed.pk, report, kind) for report in reports])


def switches() -> list[tuple[str, str, bool]]:
    return [(event["was"], event["source"], event["is_back"]) for event in events("marketdata") if "was" in event]


# -- who is asked -------------------------------------------------------------------------------------------------------


def test_a_feed_that_lists_none_has_its_exchange_and_nothing_of_it_is_noted(feed: Feed) -> None:
    plain = make_feed(timeframe=Timeframe.H1)

    [only] = sources_to_ask(plain, NOON)
    source_failed(plain, only, AWAY, NOON)
    with transaction.atomic():
        source_served(plain, only, NOON)

    plain.refresh_from_db()
    assert (only.kind, only.row, plain.source_id) == (EXCHANGE, None, None)
    assert switches() == []


def test_sources_are_asked_in_their_order(feed: Feed) -> None:
    assert [asked.kind for asked in sources_to_ask(feed, NOON)] == [EXCHANGE, YAHOO, ALPHA]


def test_many_feeds_sources_are_read_with_two_queries(feed: Feed, django_assert_num_queries: object) -> None:
    make_feed(timeframe=Timeframe.H1)

    with django_assert_num_queries(2):  # type: ignore[operator]
        for each in Feed.objects.select_related("market__exchange").prefetch_related("sources"):
            sources_to_ask(each, NOON)


def test_one_that_failed_is_left_alone_and_asked_first_again_afterwards(feed: Feed) -> None:
    failed(feed, 1)

    assert ranks(feed) == [2, 3]
    assert ranks(feed, NOON + timedelta(seconds=9)) == [2, 3]
    assert ranks(feed, NOON + timedelta(seconds=10)) == [1, 2, 3]


def test_the_pause_grows_and_ends_at_five_minutes(feed: Feed) -> None:
    pauses = []
    for _ in range(7):
        row = failed(feed, 1)
        assert row.retry_at is not None
        pauses.append((row.retry_at - NOON).total_seconds())

    assert pauses == [10, 20, 40, 80, 160, 300, 300]
    assert (row.failures, row.last_error, row.failed_at) == (7, str(AWAY), NOON)


@pytest.mark.parametrize(("error", "pause"), [
    (SourceFailed("its rate", retry_after=timedelta(hours=7)), timedelta(hours=7)),
    (SourceFailed("unknown symbol", is_final=True), timedelta(hours=1)),
])  # fmt: skip
def test_one_that_says_when_is_asked_then_and_one_that_waits_for_a_person_every_hour(
    feed: Feed, error: SourceFailed, pause: timedelta
) -> None:
    assert failed(feed, 2, error).retry_at == NOON + pause


def test_one_that_wants_to_be_asked_some_seconds_later_has_not_failed(feed: Feed) -> None:
    row = failed(feed, 1, SourceFailed("its rate", retry_after=timedelta(seconds=10)))

    assert (row.failures, row.retry_at) == (0, None)
    assert ranks(feed) == [1, 2, 3]


def test_where_all_have_to_be_left_alone_the_one_that_may_be_asked_first_is(feed: Feed) -> None:
    for rank, seconds in ((1, 30), (2, 20), (3, 40)):
        failed(feed, rank, SourceFailed("away", retry_after=timedelta(seconds=seconds)))

    assert ranks(feed) == [2]


def test_an_error_of_any_length_and_letters_is_kept_as_far_as_it_fits(feed: Feed) -> None:
    assert failed(feed, 1, SourceFailed("no\0good\n" + "x" * 500)).last_error == "nogood " + "x" * 193


def test_a_row_that_nothing_can_open_fails_for_good_and_keeps_no_other_from_being_asked(feed: Feed) -> None:
    FeedSource.objects.filter(feed=feed, rank=1).update(kind=SourceKind.RESAMPLED, symbol="7s")

    broken, *others = sources_to_ask(feed, NOON)

    with pytest.raises(SourceFailed, match="wanted a source that can be opened, was Shorter candles 7s") as raised:
        broken.source.candles(NOON, 1)
    assert raised.value.is_final
    assert [other.kind for other in others] == [YAHOO, ALPHA]


# -- switches -----------------------------------------------------------------------------------------------------------


@in_the_open
def test_a_switch_is_journaled_once_with_its_reason_and_wakes_no_strategy(feed: Feed, bells: Bells) -> None:
    served(feed, 1)
    failed(feed, 1)
    served(feed, 2)
    served(feed, 2)

    told = [event for event in events("marketdata") if "was" in event]
    assert told == [{
        "feed": "simulator-BTC/USDT-1m", "was": "Exchange", "source": "Yahoo Finance BTC-USD", "is_back": False,
        "reason": "wanted an answer, was ConnectionError",
    }]  # fmt: skip
    assert bells.rung("strategies.evaluate") == []
    assert feed.source is not None
    assert feed.source.rank == 2


def test_the_first_source_needs_no_switch_to_serve(feed: Feed) -> None:
    served(feed, 1)

    assert switches() == []


def test_a_switch_is_undone_when_an_earlier_source_serves_again_and_that_is_told_too(feed: Feed) -> None:
    failed(feed, 1)
    failed(feed, 2)
    served(feed, 3)
    served(feed, 2)
    served(feed, 1)

    assert switches() == [
        ("Exchange", "Alpha Vantage BTC/USD", False),
        ("Alpha Vantage BTC/USD", "Yahoo Finance BTC-USD", True),
        ("Yahoo Finance BTC-USD", "Exchange", True),
    ]
    rows = FeedSource.objects.filter(feed=feed).values_list("failures", "last_error", "failed_at", "retry_at")
    assert set(rows) == {(0, "", None, None)}


def test_what_serves_without_news_costs_no_query(feed: Feed, django_assert_num_queries: object) -> None:
    served(feed, 1)
    serving = choice(feed, 1)

    with transaction.atomic(), django_assert_num_queries(0):  # type: ignore[operator]
        source_served(feed, serving, NOON)


@in_the_open
def test_of_many_collectors_that_see_the_same_switch_one_tells_it(feed: Feed) -> None:
    served(feed, 1)
    failed(feed, 1)
    taken = choice(feed, 2)

    def collect() -> None:
        with transaction.atomic():
            source_served(feed, taken, NOON)

    assert at_once([collect] * 5) == [None] * 5

    assert len(switches()) == 1


@in_the_open
def test_a_source_that_was_taken_off_the_list_meanwhile_serves_no_more(feed: Feed) -> None:
    gone = choice(feed, 2)
    elsewhere(lambda: feed_sources_set(feed, [(EXCHANGE, "")]))

    with transaction.atomic():
        source_served(feed, gone, NOON)
    source_failed(feed, gone, AWAY, NOON)

    feed.refresh_from_db()
    assert feed.source_id is None
    assert switches() == []


# -- who is right about a past candle -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("stored", "rank", "may"), [
    (EXCHANGE, 1, True), (EXCHANGE, 2, False), (EXCHANGE, 3, False),
    (YAHOO, 1, True), (YAHOO, 2, True), (YAHOO, 3, False),
    (ALPHA, 1, True), (ALPHA, 2, True), (ALPHA, 3, True),
    (SourceKind.FILE, 3, True),  # of no rank: whoever is listed may
])  # fmt: skip
def test_a_source_never_revises_what_one_before_it_gave(feed: Feed, stored: SourceKind, rank: int, may: bool) -> None:
    given_by(stored, feed, candle(NOON))

    told = may_tell(feed, choice(feed, rank), [candle(NOON, "49000"), candle(NOON + MINUTE)])

    assert [report.open_at for report in told] == ([NOON] if may else []) + [NOON + MINUTE]


def test_two_files_are_of_one_word(feed: Feed) -> None:
    FeedSource.objects.create(feed=feed, rank=4, kind=SourceKind.FILE, symbol="a.csv")
    FeedSource.objects.create(feed=feed, rank=5, kind=SourceKind.FILE, symbol="b.csv")
    given_by(SourceKind.FILE, feed, candle(NOON))
    second = Choice(SourceKind.FILE, sources_to_ask(make_feed(timeframe=Timeframe.H1), NOON)[0].source,
                    FeedSource.objects.get(rank=5))  # fmt: skip

    assert may_tell(feed, second, [candle(NOON)]) == [candle(NOON)]


def test_many_feeds_are_told_by_one_query_each_by_its_own_ranks(feed: Feed, django_assert_num_queries: object) -> None:
    other = make_feed(timeframe=Timeframe.H1)
    feed_sources_set(other, [(YAHOO, "BTC-USD"), (EXCHANGE, "")])
    for each in (feed, other):
        given_by(EXCHANGE, each, candle(NOON))
        given_by(YAHOO, each, candle(NOON + MINUTE))
    reports = [candle(NOON), candle(NOON + MINUTE), candle(NOON + 2 * MINUTE)]
    feeds = {each.pk: each for each in Feed.objects.prefetch_related("sources")}
    told = [
        (feeds[feed.pk], choice(feed, 2), reports), (feeds[other.pk], choice(other, 2), reports),
        (feeds[other.pk], choice(other, 1), reports), (feeds[feed.pk], choice(feed, 3), []),
    ]  # fmt: skip

    with django_assert_num_queries(1):  # type: ignore[operator]
        assert may_tell_all(told) == [reports[1:], [reports[0], reports[2]], reports, []]


def test_the_first_source_may_tell_anything_and_the_database_is_not_asked(
    feed: Feed, django_assert_num_queries: object
) -> None:
    of_feed = Feed.objects.prefetch_related("sources").get(pk=feed.pk)
    first = choice(feed, 1)

    with django_assert_num_queries(0):  # type: ignore[operator]
        assert may_tell(of_feed, first, [candle(NOON)]) == [candle(NOON)]


# -- the list -----------------------------------------------------------------------------------------------------------


def listed(feed: Feed) -> list[tuple[int, int, str]]:
    return list(FeedSource.objects.filter(feed=feed).values_list("rank", "kind", "symbol"))


def test_sources_are_listed_in_the_order_given_and_journaled_with_who_did_it(feed: Feed) -> None:
    assert feed_sources_set(feed, [(YAHOO, " BTC-USD "), (EXCHANGE, "BTC/USDT")], actor="alice")

    assert listed(feed) == [(1, YAHOO, "BTC-USD"), (2, EXCHANGE, "BTC/USDT")]
    assert events("marketdata")[-1] == {
        "feed": "simulator-BTC/USDT-1m", "sources": ["Yahoo Finance BTC-USD", "Exchange BTC/USDT"],
    }  # fmt: skip


def test_the_same_list_again_changes_nothing(feed: Feed) -> None:
    failed(feed, 1)
    before = list(FeedSource.objects.values())

    assert not feed_sources_set(feed, [(EXCHANGE, ""), (YAHOO, "BTC-USD"), (ALPHA, "BTC/USD")])

    assert list(FeedSource.objects.values()) == before
    assert len(events("marketdata")) == 1


def test_a_new_list_asks_everyone_anew_and_forgets_who_served(feed: Feed) -> None:
    failed(feed, 1)
    served(feed, 2)

    feed_sources_set(feed, [(EXCHANGE, ""), (YAHOO, "BTC-USD")])

    feed.refresh_from_db()
    assert feed.source_id is None
    assert ranks(feed) == [1, 2]


def test_an_empty_list_is_the_exchange(feed: Feed) -> None:
    feed_sources_set(feed, [])

    assert [(asked.kind, asked.row) for asked in sources_to_ask(feed, NOON)] == [(EXCHANGE, None)]


@pytest.mark.parametrize(("sources", "words"), [
    ([(9, "")], "wanted a kind of source, one of 0 (Exchange), 1 (Yahoo Finance), 2 (Alpha Vantage), "),
    ([(EXCHANGE, ""), (EXCHANGE, "")], "wanted each source once, was Exchange  twice"),
    ([(EXCHANGE, "ETH/USDT")], "wanted no symbol for the market's own exchange, was ETH/USDT"),
    ([(YAHOO, "")], "wanted what Yahoo Finance calls the market, such as AAPL, was ''"),
    ([(YAHOO, "a b?c")], "wanted what Yahoo Finance calls the market, such as AAPL, was 'a b?c'"),
    ([(ALPHA, "x" * 65)], "wanted what Alpha Vantage calls the market, such as AAPL, was "),
    ([(SourceKind.RESAMPLED, "1m")], "wanted a timeframe that 1m is made of (there is none), was '1m'"),
])  # fmt: skip
def test_a_list_that_cannot_serve_is_refused_with_what_was_wanted(
    feed: Feed, sources: list[tuple[int, str]], words: str
) -> None:
    before = listed(feed)

    with pytest.raises(ValidationError) as raised:
        feed_sources_set(feed, sources)

    assert raised.value.messages[0].startswith(words)
    assert listed(feed) == before


@pytest.mark.parametrize(("kind", "symbol", "timeframe", "words"), [
    (YAHOO, "AAPL", Timeframe.H4, "wanted a timeframe that Yahoo Finance has (1m, 5m, 15m, 1h, 1d), was 4h"),
    (ALPHA, "IBM", Timeframe.M3, "wanted a timeframe that Alpha Vantage has (1m, 5m, 15m, 30m, 1h, 1d), was 3m"),
    (SourceKind.RESAMPLED, "", Timeframe.M5, "wanted a timeframe that 5m is made of (1m), was ''"),
    (SourceKind.RESAMPLED, "3m", Timeframe.M5, "wanted a timeframe that 5m is made of (1m), was '3m'"),
    (SourceKind.RESAMPLED, "1h", Timeframe.H1, "wanted a timeframe that 1h is made of (1m, 3m, 5m, 15m, 30m), was '1h'"),
])  # fmt: skip
def test_a_timeframe_that_a_source_cannot_have_is_refused(
    kind: SourceKind, symbol: str, timeframe: Timeframe, words: str
) -> None:
    with pytest.raises(ValidationError) as raised:
        feed_sources_set(make_feed(timeframe=timeframe), [(kind, symbol)])

    assert raised.value.messages == [words]
