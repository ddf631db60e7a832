"""Feeds and their closed candles: a candle is stored once per feed and open time, whatever asked for it."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from domain.candles import Timeframe
from exchanges.models import Market
from pipeline.fields import ExactField


class Feed(models.Model):
    """A market and timeframe we can collect. It is collected while ``is_needed``; ``next_due_at`` is when its next candle
    closes, in our time; ``leased_until`` keeps two collectors from asking the venue for the same; ``misses`` counts failures
    while there is a ``last_error``, else looks at which the last candle was not there yet."""

    market = models.ForeignKey(Market, on_delete=models.PROTECT, related_name="feeds")
    timeframe = models.CharField(max_length=4, choices=[(frame.value, frame.value) for frame in Timeframe])
    is_needed = models.BooleanField(default=False)
    next_due_at = models.DateTimeField(null=True)
    leased_until = models.DateTimeField(null=True)
    last_open_at = models.DateTimeField(null=True)
    misses = models.PositiveIntegerField(default=0)
    last_error = models.CharField(max_length=200, blank=True)
    stale_since = models.DateTimeField(null=True, help_text="Set while it is needed and its candles do not come.")
    stale_told_at = models.DateTimeField(null=True, help_text="When the traders whom it concerns were told so.")

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


class Candle(models.Model):
    """One closed candle, named by its open time."""

    pk = models.CompositePrimaryKey("feed_id", "open_at")
    feed = models.ForeignKey(Feed, on_delete=models.CASCADE, related_name="candles", db_index=False)
    open_at = models.DateTimeField()
    open = ExactField()
    high = ExactField()
    low = ExactField()
    close = ExactField()
    volume = ExactField()
    collected_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.feed_id} {self.open_at:%Y-%m-%d %H:%M}"
