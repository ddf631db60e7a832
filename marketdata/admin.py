"""Feeds, with where their candles come from and what is doubted about them: gaps, rows in quarantine, revisions.

Candles are read here and never written. Which sources a feed has, and when its market is open, may be changed by whoever
has the permission; a change goes through the same verb as over REST, and into the page's history.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.decorators import action, display

import marketdata.backfill_admin  # noqa: F401  # the page of backfills registers itself
from marketdata.failover import feed_sources_set
from marketdata.models import (
    Backfill,
    Candle,
    CandleGap,
    CandleRevision,
    Feed,
    FeedSource,
    GapStatus,
    QuarantinedCandle,
)
from pipeline.pages import (
    SECTION_ROWS,
    BaseTabularInline,
    Fact,
    LongPage,
    Page,
    Sections,
    actor_of,
    badge,
    link_to_list,
    list_url,
    moment,
    plain,
    table,
)

CHART_CANDLES = 100
CHART_WIDTH, CHART_HEIGHT = 500, 80
GAP_BADGES = {"OPEN": "warning", "FILLED": "success", "CONFIRMED": "info"}
SOURCE_BADGES = {"SERVES": "success", "FAILS": "danger", "WAITS": "default"}


class SourceFormSet(forms.BaseInlineFormSet):  # type: ignore[type-arg]  # not subscriptable at run time
    """The list of sources as a whole: their ranks may change places, so no row is checked or written by itself."""

    def validate_unique(self) -> None:
        """Not by ranks as they are stored: all of them are written anew."""

    def clean(self) -> None:
        super().clean()
        if any(self.errors):
            return
        # What the verb refuses is to be told in the form, before anything of it is saved.
        with transaction.atomic():
            feed_sources_set(self.instance, self.wanted)
            transaction.set_rollback(True)

    @property
    def wanted(self) -> list[tuple[int, str]]:
        """Kind and symbol of each source, the first to ask first."""
        rows = [
            form.cleaned_data
            for form in self.forms
            if form.cleaned_data and not form.cleaned_data.get("DELETE") and "kind" in form.cleaned_data
        ]
        rows.sort(key=lambda row: row["rank"])
        return [(row["kind"], row["symbol"]) for row in rows]


class SourceForm(forms.ModelForm):  # type: ignore[type-arg]
    """One of the list, which is checked as a whole."""

    def validate_unique(self) -> None:
        """By the list."""

    def validate_constraints(self) -> None:
        """By the list."""


class SourceInline(BaseTabularInline):
    model = FeedSource
    form = SourceForm
    formset = SourceFormSet
    fields = ("rank", "kind", "symbol")
    extra = 0
    hide_title = True
    verbose_name_plural = "sources, the lowest rank is asked first; none: the market's exchange"


@admin.register(Feed)
class FeedPage(Page):
    list_display = (
        "market", "timeframe", "is_needed", "last_open_at", "next_due_at", "source", "stale_since", "last_error",
    )  # fmt: skip
    list_select_related = ("market__exchange", "source")
    list_filter = ("is_needed", "timeframe", "calendar", "market__exchange")
    search_fields = ("market__symbol",)
    ordering = ("-is_needed", "market__symbol", "timeframe")
    fields = (("market", "timeframe"), ("calendar", "changes"), ("misses", "last_error"))
    readonly_fields = ("market", "timeframe", "changes", "misses", "last_error")
    inlines = (SourceInline,)
    actions_detail = ("ask_for_history",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_backfill_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        is_there = self.admin_site.is_registered(Backfill)
        return is_there and self.admin_site.get_model_admin(Backfill).has_add_permission(request)

    @action(description="Ask for history", icon="history", permissions=["backfill"])
    def ask_for_history(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return redirect(f"{list_url(Backfill)}add/?feed={int(object_id)}")

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        formset.save(commit=False)  # tells the page's history what was changed
        feed_sources_set(formset.instance, formset.wanted, actor=actor_of(request))

    def sections(self, request: HttpRequest, row: Feed) -> Sections:
        candles = list(row.candles.order_by("-open_at")[:CHART_CANDLES])
        return Sections(
            _facts(row, candles),
            [
                _sources(row),
                _gaps(row),
                table(
                    "Last candles", ("Open at", "Open", "High", "Low", "Close", "Volume", "From", "Collected at"),
                    (
                        (
                            one.open_at, one.open, one.high, one.low, one.close, one.volume, one.get_source_display(),
                            one.collected_at,
                        )
                        for one in candles[:SECTION_ROWS]
                    ),
                ),
            ],
        )  # fmt: skip


def _facts(feed: Feed, candles: Sequence[Candle]) -> list[Fact]:
    first = feed.candles.order_by("open_at").first()
    gaps = feed.gaps.filter(status=GapStatus.OPEN).count()
    doubted = feed.quarantine.filter(released_at=None).count()
    since = f"since {moment(first.open_at)}" if first else "no candle yet"
    facts = [
        Fact("Collected", "yes" if feed.is_needed else "no", feed.last_error),
        Fact("Last candle opened", moment(feed.last_open_at), "by the exchange's clock"),
        Fact("Next due", moment(feed.next_due_at), "by ours"),
    ]
    exchange = feed.market.exchange
    own = "files read in" if exchange.is_only_data else exchange.name
    if feed.stale_since:
        facts.append(Fact("Stale since", moment(feed.stale_since), "no entry is decided on it"))
    facts += [
        Fact("Source", str(feed.source or feed.sources.order_by("rank").first() or own), since),
        Fact("Open gaps", link_to_list(CandleGap, gaps, feed=feed.pk, status__exact=GapStatus.OPEN), "asked for again"),
        Fact("In quarantine", link_to_list(QuarantinedCandle, doubted, feed=feed.pk), "failed a check, not taken"),
        Fact(
            "Revisions", link_to_list(CandleRevision, feed.revisions.count(), feed=feed.pk), "told otherwise later"
        ),
    ]  # fmt: skip
    if candles:
        facts.append(Fact("Last close", plain(candles[0].close), chart(candles[::-1]), is_wide=True))
    return facts


def _sources(feed: Feed) -> Any:
    rows = list(feed.sources.order_by("rank"))
    serving = feed.source_id or (rows[0].pk if rows else None)
    return table(
        "Sources", ("Rank", "Source", "State", "Failures in a row", "Failing since", "Not asked before", "Last error"),
        (
            (
                one.rank, str(one), badge(_state(one, serving), SOURCE_BADGES), one.failures or None, one.failed_at,
                one.retry_at, one.last_error,
            )
            for one in rows
        ),
    )  # fmt: skip


def _state(source: FeedSource, serving: int | None) -> str:
    if source.failed_at is not None:
        return "FAILS"
    return "SERVES" if source.pk == serving else "WAITS"


def _gaps(feed: Feed) -> Any:
    gaps = feed.gaps.order_by("-from_at")[:SECTION_ROWS]
    return table(
        "Gaps", ("From", "To before", "Candles", "Status", "Asked for", "Last error", "Found at"),
        (
            (
                one.from_at, one.until_at, one.missing, badge(one.status, GAP_BADGES), one.attempts or None,
                one.last_error, one.found_at,
            )
            for one in gaps
        ),
        list_url(CandleGap, feed=feed.pk),
    )  # fmt: skip


def chart(candles: Sequence[Candle]) -> SafeString | str:
    """The candles from left to right, from the lowest low to the highest high: risen ones in green, fallen ones in red;
    nothing with less than two."""
    if len(candles) < 2:
        return ""
    low, high = float(min(one.low for one in candles)), float(max(one.high for one in candles))
    reach, step = high - low, CHART_WIDTH / len(candles)

    def y(price: Any) -> str:
        return f"{CHART_HEIGHT * (1 - (float(price) - low) / reach if reach else 0.5):.1f}"

    wicks: dict[bool, list[str]] = {True: [], False: []}
    bodies: dict[bool, list[str]] = {True: [], False: []}
    for number, one in enumerate(candles):
        x, has_risen = f"{(number + 0.5) * step:.1f}", one.close >= one.open
        wicks[has_risen].append(f"M{x} {y(one.high)}V{y(one.low)}")
        # A body is never less high than its outline: where nothing moved there is a dash.
        bodies[has_risen].append(
            f"M{float(x) - step * 0.3:.1f} {y(one.open)}h{step * 0.6:.1f}V{y(one.close)}h-{step * 0.6:.1f}z"
        )
    drawn = format_html_join(
        "", '<path class="{}" d="{}{}" fill="currentColor" stroke="currentColor" stroke-width="0.6"/>',
        (
            (colour, "".join(wicks[has_risen]), "".join(bodies[has_risen]))
            for has_risen, colour in (
                (True, "text-green-700 dark:text-green-400"), (False, "text-red-700 dark:text-red-400"),
            )
        ),
    )  # fmt: skip
    return format_html(
        '<svg viewBox="0 -1 {} {}" class="w-full" role="img" aria-label="Candles from {} to {}">{}</svg>',
        CHART_WIDTH, CHART_HEIGHT + 2, moment(candles[0].open_at), moment(candles[-1].open_at), drawn,
    )  # fmt: skip


@admin.register(CandleGap)
class GapPage(LongPage):
    list_display = (
        "feed", "from_at", "until_at", "missing", "status_shown", "attempts", "not_before_at", "last_error", "found_at",
    )  # fmt: skip
    list_select_related = ("feed__market__exchange",)
    list_filter = ("status", "feed__timeframe", "feed__market__exchange")
    search_fields = ("feed__market__symbol",)
    ordering = ("-from_at", "-id")
    hidden = ("leased_until",)

    @display(description="status", ordering="status", label=GAP_BADGES)
    def status_shown(self, gap: CandleGap) -> str:
        return gap.status


@admin.register(QuarantinedCandle)
class QuarantinePage(LongPage):
    list_display = (
        "feed", "open_at", "flaw", "detail", "source", "times", "last_seen_at", "released_at",
    )  # fmt: skip
    list_select_related = ("feed__market__exchange",)
    list_filter = ("flaw", "source", ("released_at", admin.EmptyFieldListFilter), "feed__market__exchange")
    search_fields = ("feed__market__symbol", "detail")
    ordering = ("-last_seen_at", "-id")


@admin.register(CandleRevision)
class RevisionPage(LongPage):
    list_display = ("feed", "open_at", "was_close", "close", "was_volume", "volume", "was_source", "source", "seen_at")
    list_select_related = ("feed__market__exchange",)
    list_filter = ("source", "feed__timeframe", "feed__market__exchange")
    search_fields = ("feed__market__symbol",)
    ordering = ("-seen_at", "-id")
