"""Feeds and their closed candles: a candle is stored once per feed and open time, whatever asked for it.

What was doubted, changed or missed is kept beside them: a row that failed its checks, both values of a candle that a source
revised, every gap and what became of it, every backfill and how far it is.
"""

from __future__ import annotations

from datetime import datetime

from django.conf import settings
from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.db.models import Q
from django.utils import timezone

from domain.calendars import Calendar
from domain.candles import Timeframe
from domain.informative import TapeKind
from domain.quality import Flaw
from exchanges.models import Market
from pipeline.claims import Guarded, GuardedQuerySet
from pipeline.fields import ExactField


class SourceKind(models.IntegerChoices):
    """Where candles come from; stored with each of them, in two bytes."""

    EXCHANGE = 0, "Exchange"
    YAHOO = 1, "Yahoo Finance"
    ALPHA_VANTAGE = 2, "Alpha Vantage"
    FILE = 3, "File"
    RESAMPLED = 4, "Shorter candles"


class Feed(models.Model):
    """A market and timeframe we can collect. It is collected while ``is_needed``; ``next_due_at`` is when its next candle
    closes, in our time; ``leased_until`` keeps two collectors from asking the venue for the same; ``misses`` counts failures
    while there is a ``last_error``, else looks at which the last candle was not there yet. ``changes`` counts what was
    altered or added before its last candle: what was read of its past before is then no longer all of it."""

    market = models.ForeignKey(Market, on_delete=models.PROTECT, related_name="feeds")
    timeframe = models.CharField(max_length=4, choices=[(frame.value, frame.value) for frame in Timeframe])
    calendar = models.CharField(
        max_length=8,
        choices=[(calendar.value, calendar.value) for calendar in Calendar],
        default=Calendar.ALWAYS.value,
        help_text="When its market is open: a candle that is not expected is not missed.",
    )
    is_needed = models.BooleanField(default=False)
    next_due_at = models.DateTimeField(null=True)
    leased_until = models.DateTimeField(null=True)
    last_open_at = models.DateTimeField(null=True)
    misses = models.PositiveIntegerField(default=0)
    last_error = models.CharField(max_length=200, blank=True)
    stale_since = models.DateTimeField(null=True, help_text="Set while it is needed and its candles do not come.")
    stale_told_at = models.DateTimeField(null=True, help_text="When the traders whom it concerns were told so.")
    source = models.ForeignKey(
        "FeedSource", null=True, on_delete=models.SET_NULL, related_name="+",
        help_text="The one that is asked now; empty: the first.",
    )  # fmt: skip
    changes = models.PositiveBigIntegerField(default=0)
    checked_at = models.DateTimeField(
        default=timezone.now, help_text="When all of its history was last looked through."
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["market", "timeframe"], name="feed_once_per_market_and_timeframe")
        ]
        indexes = [
            # "which feeds are due": the collection sweep, every second
            models.Index(fields=["next_due_at"], condition=Q(is_needed=True), name="feed_due"),
            # "whose standstill, or whose return, has nobody been told of": the sweep
            models.Index(
                fields=["stale_since"],
                condition=Q(stale_since__isnull=False) | Q(stale_told_at__isnull=False),
                name="feed_stale",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.market.exchange.name}-{self.market.symbol}-{self.timeframe}"


class FeedSource(models.Model):
    """One place where a feed's candles may come from; the lowest ``rank`` is asked first. A feed without such rows has one
    source: the exchange of its market."""

    feed = models.ForeignKey(Feed, on_delete=models.CASCADE, related_name="sources")
    rank = models.PositiveSmallIntegerField()
    kind = models.PositiveSmallIntegerField(choices=SourceKind.choices)
    symbol = models.CharField(
        max_length=200,
        blank=True,
        help_text="What it calls the market, or the file; empty: as the market is called here.",
    )
    failures = models.PositiveIntegerField(default=0, editable=False)
    last_error = models.CharField(max_length=200, blank=True, editable=False)
    failed_at = models.DateTimeField(null=True, editable=False, help_text="Since when it fails; empty while it serves.")
    retry_at = models.DateTimeField(null=True, editable=False, help_text="It is not asked before.")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["feed", "rank"], name="source_rank_once_per_feed"),
            models.UniqueConstraint(fields=["feed", "kind", "symbol"], name="source_once_per_feed"),
        ]
        ordering = ("feed_id", "rank")

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.symbol}".strip()


class Candle(models.Model):
    """One closed candle, named by its open time. Partitioned by month of it (see ``marketdata/partitions.py``)."""

    pk = models.CompositePrimaryKey("feed_id", "open_at")
    # Without the database's own check: it would cost an import half of its speed, and feeds are not deleted.
    feed = models.ForeignKey(
        Feed, on_delete=models.CASCADE, related_name="candles", db_index=False, db_constraint=False
    )
    open_at = models.DateTimeField()
    open = ExactField()
    high = ExactField()
    low = ExactField()
    close = ExactField()
    volume = ExactField()
    collected_at = models.DateTimeField(auto_now_add=True)
    source = models.PositiveSmallIntegerField(choices=SourceKind.choices, default=SourceKind.EXCHANGE, db_default=0)

    class Meta:
        # "what was there at that time, of every feed": checks and retirement; the primary key serves all else
        indexes = [BrinIndex(fields=["open_at"], name="candle_by_time")]

    def __str__(self) -> str:
        return f"{self.feed_id} {self.open_at:%Y-%m-%d %H:%M}"


class CandleRevision(models.Model):
    """A closed candle that its source tells otherwise than before: both values. The newer one stands in the candle."""

    feed = models.ForeignKey(Feed, on_delete=models.CASCADE, related_name="revisions")
    open_at = models.DateTimeField()
    was_open = ExactField()
    was_high = ExactField()
    was_low = ExactField()
    was_close = ExactField()
    was_volume = ExactField()
    open = ExactField()
    high = ExactField()
    low = ExactField()
    close = ExactField()
    volume = ExactField()
    was_source = models.PositiveSmallIntegerField(choices=SourceKind.choices)
    source = models.PositiveSmallIntegerField(choices=SourceKind.choices)
    seen_at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["feed", "-open_at"], name="revision_by_feed")]

    def __str__(self) -> str:
        return f"{self.feed_id} {self.open_at:%Y-%m-%d %H:%M} revised"


class QuarantinedCandle(models.Model):
    """A row that failed a check and is not among the candles: as it came, why, and how often. ``released_at`` is when it was
    taken after all, because its source said the same again."""

    feed = models.ForeignKey(Feed, on_delete=models.CASCADE, related_name="quarantine")
    open_at = models.DateTimeField()
    flaw = models.CharField(max_length=16, choices=[(flaw.value, flaw.value) for flaw in Flaw])
    detail = models.CharField(max_length=200)
    # As it came, in the words of its source: what is no number fits into no column of numbers.
    row = models.JSONField()
    source = models.PositiveSmallIntegerField(choices=SourceKind.choices)
    times = models.PositiveIntegerField(default=1)
    seen_at = models.DateTimeField(help_text="When it came first.")
    last_seen_at = models.DateTimeField()
    released_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["feed", "open_at", "flaw", "source"], name="quarantined_once_per_flaw")
        ]

    def __str__(self) -> str:
        return f"{self.feed_id} {self.open_at:%Y-%m-%d %H:%M}: {self.flaw}"


class GapStatus(models.TextChoices):
    OPEN = "OPEN"  # to be asked for again
    FILLED = "FILLED"
    CONFIRMED = "CONFIRMED"  # every source was asked often enough: nobody has them


class CandleGap(Guarded):
    """Candles that the calendar expects and that are not there: ``missing`` of them from ``from_at`` to before ``until_at``,
    the next one that is."""

    transitions = {
        GapStatus.OPEN: frozenset({GapStatus.FILLED, GapStatus.CONFIRMED}),
        GapStatus.CONFIRMED: frozenset({GapStatus.FILLED, GapStatus.OPEN}),
        GapStatus.FILLED: frozenset({GapStatus.OPEN}),  # what filled it is no longer there
    }

    feed = models.ForeignKey(Feed, on_delete=models.CASCADE, related_name="gaps")
    from_at = models.DateTimeField()
    until_at = models.DateTimeField()
    missing = models.PositiveIntegerField()
    status = models.CharField(max_length=9, choices=GapStatus.choices, default=GapStatus.OPEN)
    attempts = models.PositiveIntegerField(default=0)
    last_error = models.CharField(max_length=200, blank=True)
    not_before_at = models.DateTimeField(null=True, help_text="It is not asked for before.")
    leased_until = models.DateTimeField(null=True)
    found_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    objects = GuardedQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["feed", "from_at"], name="gap_once_per_feed_and_start")]
        indexes = [
            # "which gaps are to be asked for": the sweep
            models.Index(fields=["not_before_at"], condition=Q(status="OPEN"), name="gap_open")
        ]

    def __str__(self) -> str:
        return f"{self.missing} missing from {self.from_at:%Y-%m-%d %H:%M}"


class BackfillStatus(models.TextChoices):
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


LIVE_BACKFILLS = (BackfillStatus.QUEUED, BackfillStatus.RUNNING)


class Backfill(Guarded):
    """History asked for: candles of a feed that open from ``from_at`` to before ``until_at``; all before ``cursor_at`` is
    done, whatever worker died since."""

    transitions = {
        BackfillStatus.QUEUED: frozenset({BackfillStatus.RUNNING, BackfillStatus.CANCELED}),
        BackfillStatus.RUNNING: frozenset({BackfillStatus.DONE, BackfillStatus.FAILED, BackfillStatus.CANCELED}),
        BackfillStatus.FAILED: frozenset({BackfillStatus.QUEUED}),
        BackfillStatus.CANCELED: frozenset({BackfillStatus.QUEUED}),
    }

    feed = models.ForeignKey(Feed, on_delete=models.CASCADE, related_name="backfills")
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+", editable=False
    )
    from_at = models.DateTimeField(help_text="Open time of the first candle wanted, UTC.")
    until_at = models.DateTimeField(help_text="Candles that open at this time or later are not wanted, UTC.")
    cursor_at = models.DateTimeField(editable=False)
    status = models.CharField(
        max_length=8, choices=BackfillStatus.choices, default=BackfillStatus.QUEUED, editable=False
    )
    rows_seen = models.PositiveBigIntegerField(default=0, editable=False)
    rows_new = models.PositiveBigIntegerField(default=0, editable=False)
    failures = models.PositiveIntegerField(default=0, editable=False, help_text="In a row.")
    last_error = models.CharField(max_length=200, blank=True, editable=False)
    not_before_at = models.DateTimeField(null=True, editable=False)
    leased_until = models.DateTimeField(null=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, editable=False)
    ended_at = models.DateTimeField(null=True, editable=False)

    objects = GuardedQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(until_at__gt=models.F("from_at")), name="backfill_goes_forward"),
            models.UniqueConstraint(
                fields=["feed", "from_at", "until_at"], condition=Q(status__in=["QUEUED", "RUNNING"]),
                name="backfill_once_at_a_time",
            ),
        ]  # fmt: skip
        indexes = [
            # "which backfills go on": the sweep
            models.Index(fields=["not_before_at"], condition=Q(status__in=["QUEUED", "RUNNING"]), name="backfill_live")
        ]

    def __str__(self) -> str:
        return f"{self.feed} {self.from_at:%Y-%m-%d} to {self.until_at:%Y-%m-%d}"


class Tape(models.Model):
    """Trades, or funding rates, of a market that a strategy asks for; collected like a feed, while ``is_needed``. All up to
    ``last_at`` (the venue's time) is stored, from ``whole_since`` on. A venue that shows its latest trades only may show
    fewer than there were between two readings: then the count of ``holes`` rises, and ``whole_since`` is after the hole."""

    market = models.ForeignKey(Market, on_delete=models.PROTECT, related_name="tapes")
    kind = models.CharField(max_length=7, choices=[(kind.value, kind.value.capitalize()) for kind in TapeKind])
    is_needed = models.BooleanField(default=False)
    next_due_at = models.DateTimeField(null=True)
    leased_until = models.DateTimeField(null=True)
    last_at = models.DateTimeField(null=True)
    whole_since = models.DateTimeField(null=True)
    holes = models.PositiveIntegerField(default=0)
    misses = models.PositiveIntegerField(default=0, help_text="Failures in a row.")
    last_error = models.CharField(max_length=200, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["market", "kind"], name="tape_once_per_market_and_kind")]
        indexes = [
            # "which tapes are due": the collection sweep, every second
            models.Index(fields=["next_due_at"], condition=Q(is_needed=True), name="tape_due")
        ]

    def __str__(self) -> str:
        return f"{self.kind.lower()} of {self.market}"

    def reaches(self, at: datetime) -> bool:
        """Whether all before ``at`` (the venue's time) is stored that there is to have."""
        return self.last_at is not None and self.last_at >= at


class MarketTrade(models.Model):
    """One trade between others on a market, once; ``is_buy`` is whether the taker bought."""

    pk = models.CompositePrimaryKey("market_id", "traded_at", "trade_id")
    market = models.ForeignKey(Market, on_delete=models.PROTECT, related_name="trades", db_index=False)
    traded_at = models.DateTimeField()
    trade_id = models.CharField(max_length=64)
    is_buy = models.BooleanField()
    price = ExactField()
    quantity = ExactField()

    def __str__(self) -> str:
        return f"{self.quantity} at {self.price}"


class FundingRate(models.Model):
    """What longs pay shorts (negative: shorts pay longs) on a market of contracts at one time, as a fraction of the value."""

    pk = models.CompositePrimaryKey("market_id", "paid_at")
    market = models.ForeignKey(Market, on_delete=models.PROTECT, related_name="funding_rates", db_index=False)
    paid_at = models.DateTimeField()
    rate = ExactField()

    def __str__(self) -> str:
        return f"{self.rate} at {self.paid_at:%Y-%m-%d %H:%M}"
