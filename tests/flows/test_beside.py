"""What a strategy sees beside its candles, from the venue to its answer: another timeframe and the trades of its market."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from django.utils import timezone

from domain.candles import Candles, Timeframe
from domain.informative import Informative, Others, TapeKind
from domain.strategy import Parameters, SignalArrays, Strategy
from marketdata.models import Feed, Tape
from marketdata.tapes import SOONEST
from marketdata.tasks import collect, collect_tapes
from sessions.services import session_start
from strategies.library import LIBRARY
from strategies.models import Signal
from strategies.tasks import evaluate
from tests.factories import make_config, make_feed, make_session
from tests.venue import START_MS, Venue

HOURLY = Informative(Timeframe.H1)
MINUTE_MS = 60_000


class Seeing(Strategy[Parameters]):
    """Buys where the last whole minute had as many trades as it must, and keeps what it saw."""

    name, title, parameters_type = "seeing", "Seeing", Parameters
    warm_up = 1
    informative = (HOURLY,)
    tapes = frozenset({TapeKind.TRADES})
    seen: ClassVar[list[tuple[Candles, Others]]] = []

    def signals_with(self, candles: Candles, others: Others) -> SignalArrays:
        self.seen.append((candles, others))
        entries = (others.align_trades(np.ones(len(others.trades))) == 30).astype(np.int8)
        return SignalArrays(entries, np.zeros_like(entries))


def test_a_strategy_is_asked_when_candles_hours_and_trades_are_there_and_sees_them_as_of_its_close(
    venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LIBRARY, "seeing", Seeing)
    monkeypatch.setattr(Seeing, "seen", [])
    config = make_config(venue.account.owner, make_feed(venue.market), "seeing")
    session_start(make_session(venue.account, config, status="CREATED").pk)
    own, [hourly], [tape] = config.feed, config.informative_feeds.all(), config.tapes.all()
    venue.advance(2)  # a trade is shown a moment after it happened

    outcomes, began = [], timezone.now()
    for task, pk in ((collect, own.pk), (collect_tapes, tape.pk), (collect, hourly.pk)):
        task([pk])
        evaluate([own.pk, hourly.pk])
        outcomes.append(list(Signal.objects.values_list("kind", flat=True)))

    assert outcomes == [[], [], ["ENTER_LONG"]]
    [(candles, others)] = Seeing.seen
    close_ms = int(candles.open_ms[-1]) + MINUTE_MS
    hours = others[HOURLY].open_ms + 60 * MINUTE_MS
    assert close_ms == START_MS // MINUTE_MS * MINUTE_MS
    assert 0 <= close_ms - hours[-1] < 60 * MINUTE_MS
    assert others.trades.at_ms.max() < close_ms
    # The venue shows its last hundred trades, one every two seconds: three whole minutes at most.
    sums = others.align_trades(others.trades.quantity)
    assert np.isnan(sums[:-3]).all()
    assert np.isfinite(sums[-1])
    assert Feed.objects.filter(is_needed=True).count() == 2
    assert (Tape.objects.get().holes, Tape.objects.get().last_error) == (0, "")
    # On a busy machine it is due again by now: that is so long after it was read.
    due_at = Tape.objects.get().next_due_at
    assert due_at is not None
    assert began + SOONEST < due_at < timezone.now() + SOONEST
