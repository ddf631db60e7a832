"""A message makes something happen sooner, and nothing else: what is stored, decided or sent is read by REST."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.utils import timezone

from domain.orders import OrderStatus
from exchanges.accounts import account_pause, account_rekey
from exchanges.credentials import Credentials
from exchanges.models import Account, Exchange, Quote
from marketdata.models import Feed
from marketdata.tasks import collect
from orders.models import Order
from orders.services import order_submit
from orders.tasks import look
from positions.models import Position, Reconciliation
from positions.reconciliation import accounts_to_reconcile
from sessions.models import SessionStatus, TradingSession
from tests.conftest import Bells
from tests.factories import PASSPHRASE, SECRET, make_config, make_feed, make_open_position, make_session
from tests.stream.conftest import listening, topics_of, wait_for_topics
from tests.venue import START_MS, Venue
from tests.workers import wait_until

CANDLES, PRICES, ORDERS = "/market/candles:BTC-USDT_1min", "/market/ticker:BTC-USDT", "/spotMarket/tradeOrders"
START_AT = datetime.fromtimestamp(START_MS / 1000, tz=UTC)
MINUTE = timedelta(minutes=1)

pytestmark = pytest.mark.flow


def collected_feed(venue: Venue) -> Feed:
    """A needed feed that has all candles up to the open one, its next collection an hour away."""
    feed = make_feed(venue.market, is_needed=True, next_due_at=timezone.now())
    collect([feed.pk])
    Feed.objects.filter(pk=feed.pk).update(next_due_at=timezone.now() + timedelta(hours=1))
    feed.refresh_from_db()
    assert feed.last_open_at == START_AT - MINUTE
    return feed


def a_session(venue: Venue) -> TradingSession:
    feed = make_feed(venue.market)
    return make_session(venue.account, make_config(venue.account.owner, feed))


def test_a_candle_that_closed_is_collected_though_no_sweep_runs(venue: Venue, bells: Bells) -> None:
    session = a_session(venue)
    feed = collected_feed(venue)
    bells.clear()
    with listening():
        wait_for_topics(venue, CANDLES)
        venue.advance(61)
        wait_until(lambda: bells.rung("marketdata.collect"), "the bell of the collector", 15)

    assert bells.rung("marketdata.collect") == [{"feed_ids": [feed.pk]}]
    collect([feed.pk])
    feed.refresh_from_db()
    assert feed.last_open_at == START_AT
    assert session.status == SessionStatus.ACTIVE


def test_a_candle_that_is_collected_already_rings_nobody(venue: Venue, bells: Bells) -> None:
    a_session(venue)
    feed = collected_feed(venue)
    bells.clear()
    with listening():
        wait_for_topics(venue, CANDLES, PRICES)
        wait_until(
            lambda: Quote.objects.filter(quoted_at__gt=timezone.now() - timedelta(seconds=1)).exists(), "a price"
        )

    assert bells.rung("marketdata.collect") == []
    before = feed.next_due_at
    feed.refresh_from_db()
    assert feed.next_due_at == before


def test_a_price_is_kept_and_rings_for_the_session_whose_stop_it_crossed(venue: Venue, bells: Bells) -> None:
    crossed, content = make_open_position(a_session(venue)), make_open_position(a_second_session(venue))
    Position.objects.filter(pk=crossed.pk).update(stop_price=Decimal(49500))
    Position.objects.filter(pk=content.pk).update(stop_price=Decimal(49000))
    with listening():
        wait_for_topics(venue, PRICES)
        bells.clear()
        venue.simulator.pin("49400")
        wait_until(lambda: bells.rung("exits.track"), "the bell of the tracker", 15)

    assert bells.rung("exits.track")[0] == {"session_ids": [crossed.session_id]}
    assert Quote.objects.get(market=venue.market).last == 49400
    assert not Order.objects.filter(is_exit=True).exists()


def a_second_session(venue: Venue) -> TradingSession:
    config = make_config(venue.account.owner, make_feed(venue.market), parameters={"fast": 3, "slow": 4})
    return make_session(venue.account, config)


def resting_order(venue: Venue) -> Order:
    """A limit order of ours at the venue, looked at a moment ago."""
    order = venue.ready_order(order_type="LIMIT", price=Decimal(49000))
    assert order_submit(order.pk) == OrderStatus.OPENED
    Order.objects.filter(pk=order.pk).update(not_before_at=timezone.now() + timedelta(hours=1))
    return order


def test_a_fill_of_our_order_rings_for_a_look_and_writes_nothing(venue: Venue, bells: Bells) -> None:
    order = resting_order(venue)
    with listening():
        wait_for_topics(venue, ORDERS)
        bells.clear()
        venue.simulator.pin("48900")
        wait_until(lambda: bells.rung("orders.look"), "the bell of the look-up", 15)

    order.refresh_from_db()
    assert (order.status, order.filled) == (OrderStatus.OPENED, 0)
    assert order.not_before_at is not None
    assert order.not_before_at <= timezone.now()
    assert bells.rung("orders.look")[0] == {"order_ids": [order.pk]}
    look([order.pk])
    order.refresh_from_db()
    assert (order.status, order.filled) == (OrderStatus.CLOSED, Decimal("0.02"))


@pytest.mark.parametrize(
    "trouble",
    [{"duplicate": 99}, {"reorder": 2}, {"lose": 1}, {"delayMs": 300}],
    ids=lambda trouble: next(iter(trouble)),
)
def test_messages_doubled_lost_late_or_out_of_order_change_nothing_but_when(
    venue: Venue, bells: Bells, trouble: dict[str, int]
) -> None:
    order = resting_order(venue)
    with listening():
        wait_for_topics(venue, ORDERS, PRICES)
        bells.clear()
        venue.simulator.control("stream", topic="/spotMarket/*", **trouble)
        venue.simulator.pin("48900")
        wait_until(lambda: bells.rung("orders.look"), "the bell of the look-up", 15)
        for bell in bells.rung("orders.look") * 2:
            look(**bell)

    order.refresh_from_db()
    assert (order.status, order.filled, order.fills.count()) == (OrderStatus.CLOSED, Decimal("0.02"), 1)
    assert len(venue.orders()) == 1


def test_an_order_made_by_hand_asks_for_a_reconciliation_of_its_account_once(venue: Venue, bells: Bells) -> None:
    a_session(venue)
    Reconciliation.objects.create(account=venue.account, due_at=timezone.now() + timedelta(hours=1))
    with listening():
        wait_for_topics(venue, ORDERS)
        bells.clear()
        client = venue.simulator.client()
        client.load_markets()
        client.create_order("BTC/USDT", "limit", "buy", 0.001, 40_000, {"clientOid": "by-hand"})
        wait_until(lambda: bells.rung("positions.reconcile"), "the bell of the reconciliation", 15)

    assert bells.rung("positions.reconcile") == [{"account_ids": [venue.account.pk]}]
    assert accounts_to_reconcile(timezone.now()) == [venue.account.pk]
    assert bells.rung("orders.look") == []


def test_subscriptions_follow_the_database(venue: Venue) -> None:
    session = a_session(venue)
    with listening():
        wait_for_topics(venue, PRICES, ORDERS)
        Feed.objects.filter(pk=session.config.feed_id).update(is_needed=True)
        wait_for_topics(venue, CANDLES)
        TradingSession.objects.update(status=SessionStatus.STOPPED)
        Feed.objects.update(is_needed=False)
        wait_until(lambda: topics_of(venue) == set(), "no subscription", 15)


def pause(venue: Venue) -> None:
    account_pause(venue.account.pk, "keys refused")


def switch_off(venue: Venue) -> None:
    Exchange.objects.filter(pk=venue.exchange.pk).update(is_enabled=False)


@pytest.mark.parametrize(("change", "left"), [(pause, {PRICES}), (switch_off, set())])
def test_a_paused_account_is_not_listened_to_nor_is_an_exchange_that_is_switched_off(
    venue: Venue, change: Callable[[Venue], None], left: set[str]
) -> None:
    a_session(venue)
    with listening():
        wait_for_topics(venue, PRICES, ORDERS)
        change(venue)
        wait_until(lambda: topics_of(venue) == left, f"only {left} listened to", 15)


def test_a_paper_account_s_market_is_listened_to_and_the_account_is_not(venue: Venue) -> None:
    Account.objects.filter(pk=venue.account.pk).update(is_paper=True)
    a_session(venue)
    with listening():
        wait_for_topics(venue, PRICES)
        price_before = Quote.objects.get(market=venue.market).quoted_at
        wait_until(lambda: Quote.objects.get(market=venue.market).quoted_at > price_before, "a price")

        assert ORDERS not in topics_of(venue)


def test_keys_that_were_replaced_are_listened_with_anew(venue: Venue) -> None:
    a_session(venue)
    venue.simulator.open_account("key-of-bob", USDT="10")
    with listening():
        wait_for_topics(venue, ORDERS)
        account_rekey(venue.account.pk, Credentials("key-of-bob", SECRET, PASSPHRASE))
        wait_until(lambda: keys_connected(venue) == ["key-of-bob"], "a connection with the new keys only", 15)


def test_a_secret_that_was_mistyped_and_put_right_is_listened_with_anew(venue: Venue) -> None:
    a_session(venue)
    right = venue.account.credentials.reveal()
    wrong = Credentials(right.api_key, "mistyped", right.passphrase)
    Account.objects.filter(pk=venue.account.pk).update(credentials=wrong)
    with listening():
        wait_for_topics(venue, PRICES)
        assert keys_connected(venue) == []
        Account.objects.filter(pk=venue.account.pk).update(credentials=right)
        wait_until(lambda: keys_connected(venue) == [right.api_key], "a connection with the right secret", 15)


def keys_connected(venue: Venue) -> list[str]:
    connections = venue.simulator.get("/_sim/stream")["connections"]
    return [one["apiKey"] for one in connections if one["apiKey"] is not None]
