"""Reading the world into rows: each reading once, with the time before it was asked, and never older over newer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from exchanges import services
from exchanges.ccxt_gateway import CcxtGateway
from exchanges.gateway import QuoteReport
from exchanges.models import Exchange, Market, Quote
from exchanges.services import (
    exchange_clock_sync,
    exchange_sync,
    exchanges_due,
    gateway_for,
    quotes_refresh,
    quotes_store,
    rests_exits,
)
from exchanges.tasks import sweep_exchanges, sync
from tests.conftest import Bells
from tests.factories import make_account, make_exchange, make_market
from tests.race import at_once, elsewhere, happens_after
from tests.simulator.conftest import START_MS
from tests.venue import Venue

START_AT = datetime.fromtimestamp(START_MS / 1000, tz=UTC)
SECOND = timedelta(seconds=1)
HTML = "<html>maintenance</html>"


def market_rows() -> list[Any]:
    fields = ("symbol", "tick_size", "lot_size", "min_notional", "taker_fee", "is_active")
    return list(Market.objects.order_by("symbol").values_list(*fields))


def make_due(exchange: Exchange) -> None:
    Exchange.objects.filter(pk=exchange.pk).update(markets_synced_at=timezone.now() - timedelta(hours=7))


# -- exchanges.sync ---------------------------------------------------------------------------------------------------


def test_the_sync_task_reads_clock_and_markets(venue: Venue) -> None:
    Market.objects.all().delete()
    Exchange.objects.update(markets_synced_at=None, clock_anchor_at=None, clock_venue_at=None)

    sync([venue.exchange.pk])

    venue.exchange.refresh_from_db()
    assert [(row[0], row[-1]) for row in market_rows()] == [("BTC/USDT", True), ("ETH/USDT", True)]
    assert venue.exchange.clock_venue_at == START_AT
    assert venue.exchange.markets_synced_at is not None
    assert exchanges_due(timezone.now()) == []


def test_a_second_sync_changes_no_market(venue: Venue) -> None:
    before, ids = market_rows(), set(Market.objects.values_list("pk", flat=True))

    sync([venue.exchange.pk])
    sync([venue.exchange.pk])

    assert market_rows() == before
    assert set(Market.objects.values_list("pk", flat=True)) == ids


def test_a_lost_sync_bell_is_rung_again_by_the_sweep(venue: Venue, bells: Bells) -> None:
    account = venue.account
    make_due(account.exchange)
    bells.clear()

    sweep_exchanges()

    assert bells.rung("exchanges.sync") == [{"exchange_ids": [venue.exchange.pk]}]


def test_the_sweep_leaves_alone_what_was_read_lately_is_switched_off_or_is_used_by_nobody(
    venue: Venue, bells: Bells
) -> None:
    account = venue.account
    make_exchange("unused", markets_synced_at=None)
    off = make_exchange("off", markets_synced_at=None, is_enabled=False)
    make_account(account.owner, off, name="at the one that is off")
    bells.clear()

    sweep_exchanges()

    assert bells.rung("exchanges.sync") == []


def test_two_syncs_at_once_leave_one_row_a_market(venue: Venue) -> None:
    Market.objects.all().delete()

    results = at_once([lambda: exchange_sync(venue.exchange.pk)] * 4)

    assert results == [2, 2, 2, 2]
    assert len(market_rows()) == 2


def test_a_venue_that_is_away_stays_due_and_its_markets_stay_as_they_were(venue: Venue) -> None:
    make_due(venue.account.exchange)
    before = market_rows()
    venue.fault(kind="http", status=503, body=HTML, count=9)

    sync([venue.exchange.pk])

    assert exchanges_due(timezone.now()) == [venue.exchange.pk]
    assert market_rows() == before


@pytest.mark.parametrize("body", [HTML, "", '{"code":"200000","data":[]}'])
def test_a_page_that_is_no_list_of_markets_delists_nothing(venue: Venue, body: str) -> None:
    make_due(venue.account.exchange)
    venue.fault(kind="body", body=body, path="/api/v2/symbols", count=1)

    sync([venue.exchange.pk])

    assert [row[-1] for row in market_rows()] == [True, True]
    assert exchanges_due(timezone.now()) == [venue.exchange.pk]


def test_a_venue_whose_clock_could_not_be_read_is_still_due(venue: Venue) -> None:
    make_due(venue.account.exchange)
    venue.fault(kind="body", body=HTML, path="/api/v1/timestamp", count=1)

    sync([venue.exchange.pk])

    assert exchanges_due(timezone.now()) == [venue.exchange.pk]


def test_a_market_that_is_no_longer_traded_is_kept_and_marked(venue: Venue) -> None:
    venue.simulator.control("symbols", symbol="ETH-USDT", enableTrading=False)

    exchange_sync(venue.exchange.pk)

    assert [(row[0], row[-1]) for row in market_rows()] == [("BTC/USDT", True), ("ETH/USDT", False)]


def test_a_market_that_is_no_longer_listed_is_kept_and_marked_until_it_is_back(venue: Venue) -> None:
    gone = make_market(venue.exchange, "OLD/USDT", synced_at=timezone.now() - timedelta(days=1))

    exchange_sync(venue.exchange.pk)
    gone.refresh_from_db()
    was_active = gone.is_active
    venue.simulator.control("symbols", symbol="OLD-USDT")
    exchange_sync(venue.exchange.pk)

    gone.refresh_from_db()
    assert (was_active, gone.is_active) == (False, True)


def test_another_venues_markets_are_not_touched(venue: Venue) -> None:
    elsewhere_market = make_market(make_exchange("other"), "OLD/USDT", synced_at=timezone.now() - timedelta(days=1))

    exchange_sync(venue.exchange.pk)

    elsewhere_market.refresh_from_db()
    assert elsewhere_market.is_active


def test_rules_that_changed_at_the_venue_change_here(venue: Venue) -> None:
    venue.simulator.control(
        "symbols", symbol="BTC-USDT", baseIncrement="0.001", baseMinSize="0.002", minFunds="5", takerFee="0.0007"
    )

    exchange_sync(venue.exchange.pk)

    rules = venue.market.rules
    assert (rules.lot_size, rules.min_quantity) == (Decimal("0.001"), Decimal("0.002"))
    assert (rules.min_notional, rules.taker_fee) == (Decimal(5), Decimal("0.0007"))


# -- clocks -----------------------------------------------------------------------------------------------------------


def test_our_notion_of_the_venues_clock_is_never_ahead_of_it(venue: Venue, monkeypatch: pytest.MonkeyPatch) -> None:
    venue.exchange.clock_speed = 60
    venue.exchange.save()
    venue.simulator.control("clock", speed=60)
    # An answer that is long on its way must not make the venue look later than it is.
    venue.fault(kind="delay", when="after", seconds=0.3, path="/api/v1/timestamp")

    exchange_clock_sync(venue.exchange.pk)

    venue.exchange.refresh_from_db()
    for _ in range(20):
        ours = venue.exchange.time_at(timezone.now())
        theirs = gateway_for(venue.exchange).time()
        assert ours <= theirs
    assert theirs - ours > timedelta(seconds=60 * 0.3)


def test_a_clock_nobody_has_read_is_ours() -> None:
    now = timezone.now()

    assert Exchange().time_at(now) == now


@pytest.mark.parametrize(
    ("speed", "delay", "wall"), [(1.0, 60, 60.0), (60.0, 300, 5.0), (0.5, 60, 120.0), (0.0, 300, 1.0)]
)
def test_a_delay_of_the_venues_lasts_as_long_for_us_as_its_clock_is_slow(speed: float, delay: int, wall: float) -> None:
    assert Exchange(clock_speed=speed).wall_delay(timedelta(seconds=delay)) == timedelta(seconds=wall)


@pytest.mark.parametrize(
    ("speed", "venue_seconds", "seconds"), [(1.0, -3, -3.0), (60.0, -90, -1.5), (1.0, 5, 0.0), (0.0, -500, 0.0)]
)
def test_a_moment_of_the_venues_is_a_moment_of_ours_and_never_in_our_future(
    speed: float, venue_seconds: int, seconds: float
) -> None:
    now, venue_now = timezone.now(), START_AT
    exchange = Exchange(clock_speed=speed, clock_anchor_at=now, clock_venue_at=venue_now)

    ours = exchange.our_time_of(venue_now + timedelta(seconds=venue_seconds), now)

    assert ours == now + timedelta(seconds=seconds)
    assert Exchange().our_time_of(now - SECOND, now) == now - SECOND


# -- quotes -----------------------------------------------------------------------------------------------------------


def test_quotes_of_many_markets_are_one_request_and_one_row_each(venue: Venue) -> None:
    venue.simulator.control("market/ETH-USDT/price", price="3000.01")
    before = len(venue.requests_of("GET", "*"))

    assert quotes_refresh(venue.exchange.pk, ["BTC/USDT", "ETH/USDT"]) == 2
    assert quotes_refresh(venue.exchange.pk, ["ETH/USDT", "BTC/USDT", "ETH/USDT"]) == 2

    assert len(venue.requests_of("GET", "*")) == before + 2
    assert dict(Quote.objects.values_list("market__symbol", "last")) == {
        "BTC/USDT": 50000,
        "ETH/USDT": Decimal("3000.01"),
    }


def test_quotes_of_markets_nobody_knows_are_none_and_no_request(venue: Venue) -> None:
    before = len(venue.requests_of("GET", "*"))

    assert quotes_refresh(venue.exchange.pk, ["NOPE/USDT"]) == 0

    assert len(venue.requests_of("GET", "*")) == before


def test_a_quote_is_as_old_as_the_moment_before_it_was_asked(venue: Venue) -> None:
    venue.fault(kind="delay", seconds=0.2, path="*/allTickers")
    before = timezone.now()

    quotes_refresh(venue.exchange.pk, ["BTC/USDT"])

    assert before <= Quote.objects.get().quoted_at < timezone.now() - timedelta(seconds=0.2)


def test_quotes_refreshed_at_once_in_any_order_do_not_wait_for_each_other_in_vain(venue: Venue) -> None:
    forward, backward = ["BTC/USDT", "ETH/USDT"], ["ETH/USDT", "BTC/USDT"]

    results = at_once(
        [lambda: quotes_refresh(venue.exchange.pk, forward), lambda: quotes_refresh(venue.exchange.pk, backward)] * 4
    )

    assert results == [2] * 8


def test_a_price_that_was_asked_for_earlier_does_not_overwrite_a_later_one(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile() -> None:
        venue.price("51000")

    with monkeypatch.context() as patch:
        happens_after(patch, CcxtGateway, "quotes", meanwhile)
        quotes_refresh(venue.exchange.pk, ["BTC/USDT"])

    assert Quote.objects.get().last == 51000


def priced(price: str) -> QuoteReport:
    return QuoteReport("BTC/USDT", Decimal(price) - 1, Decimal(price) + 1, Decimal(price))


@pytest.mark.django_db
def test_prices_that_came_by_themselves_are_one_statement_and_one_row_a_market(
    django_assert_num_queries: Callable[..., Any],
) -> None:
    bitcoin, ether, now = make_market(), make_market(symbol="ETH/USDT"), timezone.now()
    rows = [
        (ether.pk, priced("3000"), now),
        (bitcoin.pk, priced("50000"), now),
        (bitcoin.pk, priced("49000"), now - SECOND),
    ]

    with django_assert_num_queries(1):
        assert quotes_store(rows) == 2

    assert quotes_store([]) == 0
    assert dict(Quote.objects.values_list("market_id", "last")) == {bitcoin.pk: 50000, ether.pk: 3000}
    quote = Quote.objects.get(market=bitcoin)
    assert (quote.bid, quote.ask, quote.quoted_at) == (49999, 50001, now)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("age", "is_newer"), [(SECOND, True), (timedelta(0), False), (-SECOND, False), (-timedelta(minutes=2), True)]
)
def test_a_price_that_came_by_itself_does_not_overwrite_a_later_one_unless_our_clock_was_set_back(
    age: timedelta, is_newer: bool
) -> None:
    market, now = make_market(), timezone.now()
    quotes_store([(market.pk, priced("50000"), now - age)])

    assert quotes_store([(market.pk, priced("49000"), now)]) == int(is_newer)

    assert Quote.objects.get().last == (49000 if is_newer else 50000)


# -- gateways ---------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_gateway_is_kept_per_account_and_thread() -> None:
    account = make_account()
    mine = gateway_for(account.exchange, account)

    assert gateway_for(account.exchange, account) is mine
    assert gateway_for(account.exchange) is not mine


def test_two_threads_never_share_a_gateway(venue: Venue) -> None:
    account = venue.account

    theirs = elsewhere(lambda: gateway_for(account.exchange, account))

    assert theirs is not gateway_for(account.exchange, account)


def test_a_thread_keeps_the_gateways_it_used_last_and_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "GATEWAYS_PER_THREAD", 2)
    one, two, three = (Exchange(ccxt_id="kucoin", base_url=f"http://127.0.0.1:{number}") for number in (1, 2, 3))

    used = elsewhere(lambda: [gateway_for(exchange) for exchange in (one, two, one, three, one, two)])

    assert used[0] is used[2] is used[4]
    assert used[1] is not used[5]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("ccxt_id", "is_paper", "rests"),
    [
        ("kucoin", False, True),
        ("kucoin", True, True),
        ("kucoinfutures", False, True),
        ("binance", False, False),
        ("binance", True, True),
        ("mexc", False, False),
    ],
)
def test_exits_rest_where_stop_orders_are_found_again_and_hold_nothing(
    ccxt_id: str, is_paper: bool, rests: bool
) -> None:
    account = make_account(exchange=make_exchange(ccxt_id=ccxt_id))
    account.is_paper = is_paper

    assert rests_exits(account) is rests
