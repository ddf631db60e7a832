"""Ticks: every session that is due, exactly once, however many schedulers there are and however long they slept."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from decimal import Decimal

import pytest
from django.utils import timezone

from sessions import services
from sessions.models import SessionStatus, SessionTick, TradingSession
from sessions.services import ticks_claim
from sessions.tasks import tick
from strategies.models import StrategyConfig
from tests.conftest import Bells
from tests.factories import NOON, events, make_account, make_feed, make_market, make_session
from tests.race import at_once

pytestmark = pytest.mark.django_db
in_the_open = pytest.mark.django_db(transaction=True)  # with bells that ring, or more than one connection

FIVE_MINUTES = timedelta(minutes=5)


def make_ticks(count: int, **fields: object) -> list[int]:
    """Active sessions with a tick each, due at NOON unless ``fields`` say otherwise; their ids."""
    account = make_account()
    feed = make_feed(make_market(account.exchange))
    configs = StrategyConfig.objects.bulk_create(
        [
            StrategyConfig(owner=account.owner, name=f"c-{number}", feed=feed, strategy="sma_cross")
            for number in range(count)
        ]
    )
    sessions = TradingSession.objects.bulk_create(
        [
            TradingSession(
                account=account, config=config, name=config.name, status=SessionStatus.ACTIVE, sizing_amount=Decimal(10)
            )
            for config in configs
        ]
    )
    defaults = {"due_at": NOON, "every": FIVE_MINUTES}
    SessionTick.objects.bulk_create([SessionTick(session=session, **{**defaults, **fields}) for session in sessions])
    return [session.pk for session in sessions]


def ticked(bells: Bells) -> Counter[int]:
    return Counter(pk for message in bells.rung("positions.tick") for pk in message["session_ids"])


@in_the_open
def test_a_session_that_is_due_ticks_and_is_due_again_a_period_later(bells: Bells) -> None:
    [session_id] = make_ticks(1)

    assert ticks_claim(NOON + timedelta(seconds=1)) == 1

    assert bells.rung("positions.tick") == [{"session_ids": [session_id]}]
    assert SessionTick.objects.get().due_at == NOON + FIVE_MINUTES
    assert events("sessionRequest") == []


@in_the_open
def test_claiming_twice_ticks_once(bells: Bells) -> None:
    make_ticks(3)
    now = NOON + timedelta(seconds=1)

    assert (ticks_claim(now), ticks_claim(now)) == (3, 0)

    assert len(bells.rung("positions.tick")) == 1


@in_the_open
def test_a_session_is_due_from_the_very_moment_on_and_not_before(bells: Bells) -> None:
    make_ticks(1)

    assert ticks_claim(NOON - timedelta(microseconds=1)) == 0
    assert ticks_claim(NOON) == 1


@in_the_open
@pytest.mark.parametrize("late", [FIVE_MINUTES, FIVE_MINUTES + timedelta(seconds=1), timedelta(days=3)])
def test_a_scheduler_that_slept_ticks_once_and_goes_on_from_now(bells: Bells, late: timedelta) -> None:
    make_ticks(2)
    now = NOON + late

    assert (ticks_claim(now), ticks_claim(now)) == (2, 0)

    assert set(SessionTick.objects.values_list("due_at", flat=True)) == {now + FIVE_MINUTES}


@in_the_open
def test_a_tick_a_little_late_does_not_shift_those_after_it(bells: Bells) -> None:
    make_ticks(1)

    ticks_claim(NOON + FIVE_MINUTES - timedelta(seconds=1))

    assert SessionTick.objects.get().due_at == NOON + FIVE_MINUTES


@in_the_open
def test_schedulers_side_by_side_tick_every_session_once(bells: Bells, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = make_ticks(60)
    monkeypatch.setattr(services, "TICKS_PER_CLAIM", 4)
    now = NOON + timedelta(seconds=1)

    results = at_once([lambda: ticks_claim(now)] * 4)
    total = sum(results) + ticks_claim(now)

    assert total == 60
    assert ticked(bells) == Counter(ids)


@in_the_open
def test_a_flood_of_ticks_is_worked_off_in_bounded_claims_oldest_first(
    bells: Bells, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = make_ticks(7)
    SessionTick.objects.filter(session_id=ids[-1]).update(due_at=NOON - timedelta(hours=1))
    monkeypatch.setattr(services, "TICKS_PER_CLAIM", 2)
    monkeypatch.setattr(services, "TICK_CLAIMS_PER_SWEEP", 2)

    assert ticks_claim(NOON + timedelta(seconds=1)) == 4

    assert ids[-1] in bells.rung("positions.tick")[0]["session_ids"]
    assert SessionTick.objects.filter(due_at__lte=NOON).count() == 3


@in_the_open
def test_the_tick_task_claims_by_our_own_clock(bells: Bells) -> None:
    [session_id] = make_ticks(1, due_at=timezone.now() - timedelta(seconds=1))

    tick()
    tick()

    assert ticked(bells) == Counter([session_id])


@in_the_open
def test_a_claim_that_is_not_committed_ticks_nobody_and_stays_due(
    bells: Bells, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_ticks(1)

    def broken(*_: object) -> None:
        raise RuntimeError("no journal")

    with monkeypatch.context() as patch:
        patch.setattr(services, "publish_all", broken)
        with pytest.raises(RuntimeError):
            ticks_claim(NOON)

    assert SessionTick.objects.get().due_at == NOON
    assert bells.rung("positions.tick") == []
    assert ticks_claim(NOON) == 1


def test_a_tick_leaves_with_its_session() -> None:
    session = make_session()
    SessionTick.objects.create(session=session, due_at=NOON, every=FIVE_MINUTES)

    session.delete()

    assert not SessionTick.objects.exists()
