"""How a feed's row reads after it was looked at: when it is due again, what failed, and whether it is stale.

Nothing here asks or writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from marketdata.looks import Look
from marketdata.quarantine import Sifted

# A venue may publish a candle a little after its close; after this many looks a bucket without trades is taken as such.
LOOKS_BEFORE_GAP = 5
LOOK_AGAIN = timedelta(seconds=1)
LONGEST_BACK_OFF = timedelta(seconds=60)
STALE_AFTER_FAILURES = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a feed's row reads after a look."""

    look: Look
    next_due_at: datetime
    last_open_at: datetime | None
    misses: int = 0
    last_error: str = ""
    stale_since: datetime | None = None
    leased_until: datetime | None = None


def outcome_of(look: Look, sifted: Sifted | None, now: datetime) -> Outcome:
    if sifted is not None:
        return _answered(look, sifted, now)
    pauses = [error.retry_after for _, error in look.failures]
    if pauses and all(pause is not None for pause in pauses):
        return _refused(look, min(pause for pause in pauses if pause is not None), now)
    return _failed(look, now)


def _answered(look: Look, sifted: Sifted, now: datetime) -> Outcome:
    feed, asked_at, venue_now = look.feed, look.asked_at, look.venue_now
    exchange, length = feed.market.exchange, look.timeframe.length
    opens = [row.open_at for row in sifted.good] + ([feed.last_open_at] if feed.last_open_at else [])
    last_open_at = max(opens, default=None)
    has_all = last_open_at is not None and look.next_open(last_open_at) + length > venue_now
    looks = 0 if feed.last_error else feed.misses
    is_looking_again = (not has_all or bool(sifted.doubted)) and looks < LOOKS_BEFORE_GAP
    stale_at = look.stale_at(last_open_at)
    if is_looking_again:
        next_due_at = now + min(LOOK_AGAIN, exchange.wall_delay(length))
    else:
        closes_in = look.next_open(venue_now - length) + length - venue_now
        next_due_at = asked_at + exchange.wall_delay(closes_in)
        if stale_at is not None and stale_at > asked_at:
            next_due_at = min(next_due_at, stale_at)  # to say so when it is so, not a candle later
    is_stale = stale_at is not None and stale_at <= asked_at
    return Outcome(
        look,
        next_due_at,
        last_open_at,
        misses=looks + 1 if is_looking_again else 0,
        stale_since=(feed.stale_since or asked_at) if is_stale else None,
    )


def _failed(look: Look, now: datetime) -> Outcome:
    feed = look.feed
    failures = feed.misses if feed.last_error else 0
    pause = min(timedelta(seconds=2 ** min(failures, 6)), LONGEST_BACK_OFF)
    stale_at = look.stale_at(feed.last_open_at)
    is_stale = stale_at is not None and stale_at <= now and failures + 1 >= STALE_AFTER_FAILURES
    return Outcome(
        look,
        now + pause,
        feed.last_open_at,
        misses=failures + 1,
        last_error=_reason(look),
        stale_since=feed.stale_since or (now if is_stale else None),
    )


def _refused(look: Look, pause: timedelta, now: datetime) -> Outcome:
    """Nobody looked at the request: no failure is counted, and the feed keeps its place among those that wait. It is leased
    to nobody until it may be asked for again; the second refusal in a row of a feed that is stale says so."""
    feed = look.feed
    stale_at = look.stale_at(feed.last_open_at)
    is_stale = stale_at is not None and stale_at <= now and bool(feed.last_error)
    return Outcome(
        look,
        feed.next_due_at or now,
        feed.last_open_at,
        misses=feed.misses if feed.last_error else 0,
        last_error=_reason(look),
        stale_since=feed.stale_since or (now if is_stale else None),
        leased_until=now + min(pause, LONGEST_BACK_OFF),
    )


def _reason(look: Look) -> str:
    errors = [str(error) for _, error in look.failures]
    return ("; ".join(errors) or "wanted a source to ask, all of them are left alone for a while")[:200]
