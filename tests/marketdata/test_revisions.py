"""A candle that is told otherwise later: a strategy is not asked about it again, whatever it would say now."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from domain.strategy import SignalKind
from exchanges.gateway import CandleReport
from marketdata.collection import feed_collect
from strategies import services as strategies
from strategies.models import Signal
from strategies.tasks import evaluate, sweep_candles
from tests.conftest import Bells
from tests.factories import NOON, events, make_candles, make_config
from tests.marketdata.conftest import MINUTE, Shelf, candle, needed_feed

pytestmark = pytest.mark.django_db(transaction=True)  # with bells that ring

LAST = NOON - MINUTE
# Falling, so that the average of two candles overtakes that of three when the last one jumps.
FALL = [50000.0, 49990.0, 49980.0]


@pytest.mark.parametrize(
    ("first", "revised", "said"),
    [("51000", "49970", SignalKind.ENTER_LONG), ("49970", "51000", SignalKind.NOTHING)],
)
def test_a_revision_fires_no_signal_and_takes_none_back(
    shelf: Shelf, bells: Bells, monkeypatch: pytest.MonkeyPatch, first: str, revised: str, said: SignalKind
) -> None:
    feed = needed_feed(shelf, last_open_at=None)
    make_candles(feed, FALL, LAST - MINUTE)
    config = make_config(feed=feed, is_needed=True)
    monkeypatch.setattr(strategies, "timezone", SimpleNamespace(now=lambda: shelf.now))
    closes = {LAST - MINUTE: "49980", LAST: first}
    usual = shelf.candles

    def told(*asked: Any) -> list[CandleReport]:
        return [candle(row.open_at, closes.get(row.open_at, "49960")) for row in usual(*asked)]

    monkeypatch.setattr(shelf, "candles", told)
    feed_collect(feed.pk)
    for bell in bells.rung("strategies.evaluate"):
        evaluate(**bell)
    bells.clear()

    closes[LAST] = revised
    shelf.now = NOON + 55 * timedelta(seconds=1)
    type(feed).objects.update(next_due_at=shelf.now)
    feed_collect(feed.pk)
    rung = bells.rung("strategies.evaluate")
    sweep_candles()
    rung += bells.rung("strategies.evaluate")
    evaluate([feed.pk])

    [signal] = Signal.objects.filter(config=config)
    assert (signal.kind, signal.candle_open_at, str(signal.price)) == (said, LAST, f"{first}.000000000000000000")
    assert rung == []
    assert [str(revision.close) for revision in feed.revisions.all()] == [f"{revised}.000000000000000000"]
    assert len(events("marketdata")) == 1
    assert len(events("signals")) == (said is not SignalKind.NOTHING)
