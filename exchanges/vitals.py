"""Whether the stream of an exchange is alive, and who is told when it is not: once when it is lost, once when it is back.

Nothing depends on a stream but how soon things happen: prices, candles and orders are polled all the time, and the alert
says so. ``Exchange.stream_seen_at`` is empty while nobody listens.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone

from exchanges.models import Account, Exchange
from pipeline.models import Event
from pipeline.topics import Note, Topic, publish_all

logger = logging.getLogger(__name__)

# How often a stream that is alive is written down.
SEEN_EVERY = timedelta(seconds=3)
# A stream process that is alive writes more often; one that died says nothing.
SEEN_IS_OLD_AFTER = timedelta(seconds=60)
# Whoever switched the platform off for longer knows that nothing was streamed.
LOST_IS_NEWS_FOR = timedelta(days=1)
# How far back what was last told is looked for.
TOLD_WITHIN = timedelta(days=30)


def stream_seen(exchange_id: int) -> None:
    """The exchange's stream is alive; its return is told to those who were told of its loss."""
    now = timezone.now()
    mine = Exchange.objects.filter(pk=exchange_id)
    if mine.filter(stream_seen_at__lt=now - SEEN_EVERY).update(stream_seen_at=now):
        return
    with transaction.atomic():
        if mine.filter(stream_seen_at=None).update(stream_seen_at=now) and _is_told_lost(exchange_id):
            _tell(exchange_id, "STREAM_BACK", "the stream is back")


def stream_lost(exchange_id: int, reason: str, *, not_since: datetime | None = None) -> bool:
    """Tell, once, that the stream is gone and polling goes on; whether it was this call that told. With ``not_since`` only
    if it was seen, and not since then."""
    with transaction.atomic():
        # Locked, so that of two who notice the second sees what the first has told.
        exchange = Exchange.objects.select_for_update().get(pk=exchange_id)
        seen_at = exchange.stream_seen_at
        if not_since is not None and (seen_at is None or seen_at >= not_since):
            return False
        if seen_at is None and _is_told_lost(exchange_id):
            return False
        Exchange.objects.filter(pk=exchange_id).update(stream_seen_at=None)
        _tell(exchange_id, "STREAM_DOWN", f"{reason}; candles, prices and orders are polled meanwhile")
    logger.warning("the stream of %s is lost (%s); polling goes on", exchange.name, reason)
    return True


def stream_ended(exchange_id: int) -> None:
    """Nobody listens any more, and that is as it should be."""
    Exchange.objects.filter(pk=exchange_id).exclude(stream_seen_at=None).update(stream_seen_at=None)


def streams_lost_alert(now: datetime) -> int:
    """Tell, once a stream, of those whose process went away without a word; how many."""
    not_since = now - SEEN_IS_OLD_AFTER
    old = Exchange.objects.filter(stream_seen_at__lt=not_since)
    old.filter(stream_seen_at__lt=now - LOST_IS_NEWS_FOR).update(stream_seen_at=None)
    told = 0
    for exchange_id, seen_at in list(old.values_list("pk", "stream_seen_at")):
        reason = f"its process was last seen at {seen_at:%H:%M:%S} UTC"
        told += stream_lost(exchange_id, reason, not_since=not_since)
    return told


def _is_told_lost(exchange_id: int) -> bool:
    """Whether the last word on this exchange's stream was that it is lost."""
    told = Event.objects.filter(
        topic=Topic.ALERTS,
        at__gt=timezone.now() - TOLD_WITHIN,
        ids__exchange_id=exchange_id,
        data__alert__in=["STREAM_DOWN", "STREAM_BACK"],
    )
    last: str | None = told.order_by("-pk").values_list("data__alert", flat=True).first()
    return last == "STREAM_DOWN"


def _tell(exchange_id: int, alert: str, reason: str) -> None:
    """One alert for each trader with an account in use there, keyed by the first of those accounts."""
    accounts = Account.objects.filter(exchange=exchange_id, status=Account.Status.ACTIVE)
    first = accounts.order_by("owner_id", "pk").distinct("owner_id").values_list("pk", "owner_id", "exchange__name")
    publish_all(
        Topic.ALERTS,
        [
            Note(
                key=account_id,
                ids={"account_id": account_id, "owner_id": owner_id, "exchange_id": exchange_id},
                data={"alert": alert, "exchange": name, "reason": reason[:200]},
            )
            for account_id, owner_id, name in first
        ],
    )
