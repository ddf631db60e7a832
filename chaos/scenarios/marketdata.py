"""Candles and prices come late, twice, changed or not at all: only what has closed counts, once, and nothing old does."""

from __future__ import annotations

from datetime import timedelta

from django.db.models import F
from django.utils import timezone

from chaos.scenarios import scenario
from chaos.scenarios.acts import let_go_by
from chaos.world import World
from domain.candles import Timeframe
from domain.orders import Denial, OrderStatus
from exchanges.models import Quote
from exchanges.services import exchange_clock_sync
from marketdata.models import Candle, Feed
from orders.models import Order
from sessions.models import SessionStatus
from sessions.services import session_start, session_stop
from strategies.models import Signal

S = OrderStatus
CANDLES = "/api/v1/market/candles"


def _asked(stage: World) -> int:
    return sum(line["path"] == CANDLES for line in stage.oracle(requests=20_000)["requests"])


def _collected(stage: World, feed: Feed) -> None:
    now = stage.exchange.time_at(timezone.now())
    last = Timeframe(feed.timeframe).open_of(now) - Timeframe(feed.timeframe).length
    mine = Feed.objects.filter(pk=feed.pk, last_open_at__gte=last)
    stage.wait(mine.exists, f"{feed} to be collected up to {last:%H:%M}")


@scenario("open-candle", rows=(50,), needs_stage=False)
def open_candle(stage: World) -> None:
    """The venue shows the candle that is still open along with the closed ones: it is neither stored nor spoken about."""
    stage.advance(90)
    session = stage.session()
    session_start(session.pk)
    feed = session.config.feed
    _collected(stage, feed)
    stage.wait(Signal.objects.filter(config=session.config).exists, "the strategy to be asked")
    now = stage.exchange.time_at(timezone.now())
    early = Candle.objects.filter(feed=feed, open_at__gt=now - Timeframe(feed.timeframe).length).count()
    stage.expect(early == 0, f"wanted no candle that is still open, were {early}")


@scenario("many-collectors", rows=(16, 50), needs_stage=False)
def many_collectors(stage: World) -> None:
    """A candle has closed and ten collectors come while the venue takes its time: it is asked once, and stored once."""
    session = stage.session()
    session_start(session.pk)
    feed = session.config.feed
    _collected(stage, feed)
    stage.wait(lambda: Feed.objects.get(pk=feed.pk).leased_until is None, "the collector to be done")
    stage.fault(method="GET", path=CANDLES, kind="delay", when="after", seconds=1.5 * stage.pace, count=None)
    before = _asked(stage)
    stage.advance(60)
    Feed.objects.filter(pk=feed.pk).update(next_due_at=timezone.now())
    for _ in range(10):
        stage.ring("marketdata.collect", feed_ids=[feed.pk])
        stage.pause()
    stage.count("bell", 10)
    _collected(stage, feed)
    let_go_by(stage, 2 * stage.pace)
    asked = _asked(stage) - before
    # Once, and once more where its answer came too late for the first.
    stage.expect(1 <= asked <= 2, f"wanted the venue asked once, was asked {asked} times")


@scenario("old-candle", rows=(50, 51), needs_stage=False)
def old_candle(stage: World) -> None:
    """The feed has stood still for minutes while the market went on: what it last showed is no news."""
    first = stage.session()
    session_start(first.pk)
    _collected(stage, first.config.feed)
    session_stop(first.pk)
    stage.fault(method="GET", path=CANDLES, kind="http", status=502, count=None)
    stage.advance(300)
    session = stage.session(config=stage.config(first.config.feed))
    session_start(session.pk)
    said = Signal.objects.filter(config=session.config)
    stage.wait(said.exists, "the strategy to be asked")
    reason = said.get().reason
    stage.expect(reason.startswith("STALE"), f"wanted the candle called stale, was {said.get().kind} {reason}")


@scenario("prices-stop", rows=(51,), needs_stage=False)
def prices_stop(stage: World) -> None:
    """Prices stop coming while everything else goes on: nothing is bought at a price of long ago."""
    session = stage.session(status=SessionStatus.ACTIVE)
    stage.fault(method="GET", path="/api/v1/market/allTickers", kind="http", status=503, count=None)
    # A reading that was on its way is over by then.
    let_go_by(stage, 0.5)
    Quote.objects.update(quoted_at=F("quoted_at") - timedelta(seconds=60))
    order = stage.ready_order(session=session, status=S.REQUESTED, quantity=None, valued_at=None)
    stage.ring("money.value", order_ids=[order.pk])
    stage.wait(Order.objects.filter(pk=order.pk).exclude(status=S.REQUESTED).exists, f"{order} to be valued")
    stage.expect_order(order, S.DENIED, accepted=0, sent=0)
    stage.expect(order.reason == Denial.NO_FRESH_PRICE, f"wanted NO_FRESH_PRICE, was {order.reason}")
    stage.heal()
    stage.read_prices()


@scenario("candle-gap", rows=(49,), needs_stage=False)
def candle_gap(stage: World) -> None:
    """A minute without a candle: it is looked for a few times and then taken for what it is; what comes after is stored."""
    session = stage.session()
    session_start(session.pk)
    feed = session.config.feed
    _collected(stage, feed)
    now_ms = stage.oracle()["now_ms"] // 60_000 * 60_000
    stage.sim(f"market/{feed.market.symbol.replace('/', '-')}/gap", **{"from": now_ms, "to": now_ms + 60_000})
    stage.count("exchange")
    stage.advance(180)
    Feed.objects.filter(pk=feed.pk).update(next_due_at=timezone.now())
    _collected(stage, feed)
    twice = [at for at in Candle.objects.filter(feed=feed).values_list("open_at", flat=True)]
    stage.expect(len(twice) == len(set(twice)), "wanted each candle once, one was there twice")
    gap = [at for at in twice if int(at.timestamp() * 1000) == now_ms]
    stage.expect(gap == [], f"wanted no candle at {now_ms}, were {gap}")


@scenario("candle-revised", rows=(50,), needs_stage=False)
def candle_revised(stage: World) -> None:
    """The venue changes a candle after it was stored and spoken about: it is spoken about once, and no second signal."""
    session = stage.session()
    session_start(session.pk)
    feed = session.config.feed
    _collected(stage, feed)
    said = Signal.objects.filter(config=session.config)
    stage.wait(said.exists, "the strategy to be asked")
    last = Candle.objects.filter(feed=feed).order_by("-open_at").first()
    assert last is not None
    at_ms = int(last.open_at.timestamp() * 1000)
    row = [at_ms, *[float(last.close) * 1.05] * 4, 1.0]
    stage.sim(
        f"market/{feed.market.symbol.replace('/', '-')}/revision", candles=[[row[0], *(round(v, 1) for v in row[1:])]]
    )
    stage.count("exchange")
    Feed.objects.filter(pk=feed.pk).update(next_due_at=timezone.now())
    stage.ring("marketdata.collect", feed_ids=[feed.pk])
    stage.ring("strategies.evaluate", feed_ids=[feed.pk])
    let_go_by(stage, 0.5)
    count = said.filter(candle_open_at=last.open_at).count()
    stage.expect(count == 1, f"wanted one answer for the candle, were {count}")
    exchange_clock_sync(stage.exchange.pk)
