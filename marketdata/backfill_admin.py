"""Backfills: ask for history, watch how far it is, stop it and go on. Every trader sees them all; who asked for one commands
it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import display
from unfold.enums import ActionVariant

from marketdata.backfills import (
    UnableToBackfill,
    backfill_cancel,
    backfill_is_commanded_by,
    backfill_request,
    backfill_retry,
    progress,
    span_check,
)
from marketdata.models import LIVE_BACKFILLS, Backfill, BackfillStatus
from pipeline.pages import Fact, LongPage, Sections, actor_of, badge, button, moment

BACKFILL_BADGES = {"DONE": "success", "RUNNING": "info", "QUEUED": "info", "CANCELED": "warning", "FAILED": "danger"}
RETRIED = (BackfillStatus.FAILED, BackfillStatus.CANCELED)


class BackfillForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    """Which feed, from when, until when."""

    class Meta:
        model = Backfill
        fields = ("feed", "from_at", "until_at")

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if all(data.get(name) for name in self.Meta.fields):
            span_check(data["feed"], data["from_at"], data["until_at"], timezone.now())
        return data

    def validate_constraints(self) -> None:
        """What is asked for twice is no error: it is the same backfill."""


def _cancel(request: HttpRequest, backfill: Backfill) -> str:
    _require_own(request, backfill)
    return "stopped" if backfill_cancel(backfill.pk, actor=actor_of(request)) else "had ended already"


def _retry(request: HttpRequest, backfill: Backfill) -> str:
    _require_own(request, backfill)
    backfill_retry(backfill.pk, actor=actor_of(request))
    return "goes on"


def _require_own(request: HttpRequest, backfill: Backfill) -> None:
    if not backfill_is_commanded_by(backfill, request.user):
        raise ValidationError("wanted who asked for it, or a superuser, was another trader")


def bar(percent: float) -> SafeString:
    """How much of it is done, to be seen at a glance."""
    return format_html(
        '<div class="bg-base-200 rounded-default dark:bg-base-800" style="height: 0.5rem; min-width: 6rem" '
        'role="progressbar" aria-valuenow="{0}" aria-valuemin="0" aria-valuemax="100">'
        '<div class="bg-primary-600 rounded-default" style="height: 0.5rem; width: {0}%"></div></div>',
        percent,
    )


@admin.register(Backfill)
class BackfillPage(LongPage):
    """Begun by adding, ended by cancelling; nothing of it is edited, and none is deleted."""

    form = BackfillForm
    refusals = (ValidationError, UnableToBackfill)
    live_seconds = 2
    list_display = (
        "id", "feed", "from_at", "until_at", "status_shown", "percent_shown", "rows_new", "created_at", "last_error",
    )  # fmt: skip
    list_display_links = ("id", "feed")
    list_select_related = ("feed__market__exchange",)
    list_filter = ("status", "feed__timeframe", "feed__market__exchange")
    search_fields = ("feed__market__symbol",)
    ordering = ("-id",)
    autocomplete_fields = ("feed",)
    # Who asked is theirs to tell; the rest stands above, where it is kept fresh.
    hidden = (
        "requested_by", "leased_until", "cursor_at", "status", "rows_seen", "rows_new", "failures", "last_error",
        "not_before_at",
    )  # fmt: skip
    actions_detail = ("cancel", "retry")

    cancel = button(
        "Cancel", _cancel, icon="stop_circle", variant=ActionVariant.DANGER, permission="command",
        question="It ends where it is. What was stored stays.",
    )  # fmt: skip
    retry = button(
        "Go on", _retry, icon="play_circle", variant=ActionVariant.PRIMARY, permission="command",
        question="It goes on where it stopped.",
    )  # fmt: skip

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("marketdata.add_backfill")

    def has_command_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("marketdata.change_backfill")

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """What can be done about it now, for whom it is to do."""
        backfill = self.get_object(request, str(object_id))
        if backfill is None or not backfill_is_commanded_by(backfill, request.user):
            return []
        allowed = {"cancel": LIVE_BACKFILLS, "retry": RETRIED}
        shown = super().get_actions_detail(request, object_id)
        return [
            one
            for one in shown
            if any(name in one.action_name for name, of in allowed.items() if backfill.status in of)
        ]

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return super().get_fields(request, obj) if obj is not None else ["feed", "from_at", "until_at"]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return super().get_readonly_fields(request, obj) if obj is not None else ()

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is not None:
            return super().get_fieldsets(request, obj)
        note = (
            "Candles that open from the first time to before the second are fetched behind what is collected live, each "
            "once. Times are UTC, and opens of the feed's candles."
        )
        return [(None, {"fields": self.get_fields(request), "description": note})]

    def save_model(self, request: HttpRequest, obj: Backfill, form: Any, change: bool) -> None:
        asked = backfill_request(obj.feed, obj.from_at, obj.until_at, request.user)  # type: ignore[arg-type]
        obj.pk = asked.pk
        obj.refresh_from_db()

    @display(description="status", ordering="status", label=BACKFILL_BADGES)
    def status_shown(self, backfill: Backfill) -> str:
        return backfill.status

    @admin.display(description="done")
    def percent_shown(self, backfill: Backfill) -> SafeString:
        return bar(progress(backfill, timezone.now()).percent)

    def sections(self, request: HttpRequest, row: Backfill) -> Sections:
        told = progress(row, timezone.now())
        pace = "-" if told.rows_per_second is None else f"{told.rows_per_second:,.0f} rows/s"
        waits = row.not_before_at is not None and row.not_before_at > timezone.now()
        return Sections(
            [
                Fact("Status", badge(row.status, BACKFILL_BADGES), row.last_error),
                Fact("Done", f"{told.percent:g} %", bar(told.percent)),
                Fact("Candles", f"{told.rows_new:,} new", f"of {told.rows_seen:,} that came"),
                Fact("Pace", pace, "since it began"),
                *([Fact("Left", _in_words(told.left), "at that pace")] if row.status in LIVE_BACKFILLS else []),
                Fact("Up to", moment(row.cursor_at), f"of {moment(row.until_at)}"),
                *(
                    [Fact("Waits until", moment(row.not_before_at), f"{row.failures} failures in a row")]
                    if waits
                    else []
                ),
            ]
        )


def _in_words(left: timedelta | None) -> str:
    return "-" if left is None else str(timedelta(seconds=int(left.total_seconds())))
