"""Feeds, read-only: what is collected, when it is due, and the last candles of each."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest

import marketdata.backfill_admin  # noqa: F401  # the page of backfills registers itself
from marketdata.models import Feed
from pipeline.pages import SECTION_ROWS, Fact, ReadOnlyPage, Sections, moment, table


@admin.register(Feed)
class FeedPage(ReadOnlyPage):
    list_display = ("market", "timeframe", "is_needed", "last_open_at", "next_due_at", "stale_since", "last_error")
    list_select_related = ("market__exchange",)
    list_filter = ("is_needed", "timeframe", "market__exchange")
    search_fields = ("market__symbol",)
    ordering = ("-is_needed", "market__symbol", "timeframe")

    def sections(self, request: HttpRequest, row: Feed) -> Sections:
        candles = row.candles.order_by("-open_at")[:SECTION_ROWS]
        return Sections(
            [
                Fact("Collected", "yes" if row.is_needed else "no", row.last_error),
                Fact("Last candle opened", moment(row.last_open_at), "by the exchange's clock"),
                Fact("Next due", moment(row.next_due_at), "by ours"),
                *([Fact("Stale since", moment(row.stale_since), "no entry is decided on it")] if row.stale_since else []),
            ],
            [
                table(
                    "Last candles", ("Open at", "Open", "High", "Low", "Close", "Volume", "Collected at"),
                    ((one.open_at, one.open, one.high, one.low, one.close, one.volume, one.collected_at) for one in candles),
                )
            ],
        )  # fmt: skip
