"""The red button: halt a session, an account, all of one's own or the platform, and lift it with a word why; and the badge on
each session that a halt holds."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.decorators import display
from unfold.enums import ActionVariant
from unfold.forms import BaseDialogForm
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget, UnfoldBooleanWidget

from money.halts import NOTE_LENGTH, halt_is_liftable, halt_lift, halt_subject, halt_trip, halts_of_owner, with_halt
from money.models import HaltScope, TradingHalt
from pipeline.pages import BADGES, Fact, LongPage, Sections, actor_of, badge, button, link, moment
from positions.admin import HoldingSessionPage
from sessions.models import TradingSession

SCOPES = {
    HaltScope.SESSION: "one session",
    HaltScope.ACCOUNT: "one account",
    HaltScope.OWNER: "everything of one trader",
    HaltScope.PLATFORM: "the whole platform",
}


class HaltForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    """Whose trading, how far, why; and a tick, for it is felt at once."""

    request: HttpRequest

    scope = forms.ChoiceField(widget=UnfoldAdminSelectWidget)
    is_confirmed = forms.BooleanField(label="Yes, halt it now", widget=UnfoldBooleanWidget)

    class Meta:
        model = TradingHalt
        fields = ("session", "account", "owner", "mode", "cause")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            return
        hidden = () if self.request.user.is_superuser else (HaltScope.PLATFORM,)
        scopes = [(scope.value, text) for scope, text in SCOPES.items() if scope not in hidden]
        self.fields["scope"].choices = scopes  # type: ignore[attr-defined]  # a ChoiceField's
        self.fields["cause"].widget = UnfoldAdminTextInputWidget()

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        scope = data.get("scope")
        if scope == HaltScope.OWNER and not data.get("owner"):
            data["owner"] = self.request.user
        for name in ("session", "account", "owner"):
            if scope and name.upper() == scope and not data.get(name):
                self.add_error(name if name in self.fields else None, f"wanted the {name} to halt, was none")
            if scope and name.upper() != scope:
                data[name] = None
        return data


class LiftForm(BaseDialogForm):  # type: ignore[misc]  # unfold has no types
    note = forms.CharField(max_length=NOTE_LENGTH, label="Why trading may go on", widget=UnfoldAdminTextInputWidget)


def _lift(request: HttpRequest, halt: TradingHalt, note: str) -> str:
    user = request.user
    if not halt_is_liftable(halt, actor_of(request), is_superuser=bool(user.is_superuser)):
        raise ValidationError("wanted a superuser to lift what the platform decided, was an ordinary trader")
    done = halt_lift(halt.pk, note, actor=actor_of(request))
    return "lifted" if done else "was lifted already"


class ForceFilter(admin.SimpleListFilter):
    title = "in force"
    parameter_name = "is_in_force"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "in force"), ("no", "lifted")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[TradingHalt]) -> QuerySet[TradingHalt]:
        return queryset.filter(lifted_at__isnull=self.value() == "yes") if self.value() else queryset


@admin.register(TradingHalt)
class HaltPage(LongPage):
    """Tripped by adding, ended by lifting; nothing of it is edited, and none is deleted."""

    form = HaltForm
    refusals = (ValidationError,)
    list_display = (
        "id",
        "mode_shown",
        "subject",
        "cause",
        "rule",
        "tripped_by",
        "tripped_at",
        "lifted_by",
        "lifted_at",
    )
    list_display_links = ("id", "mode_shown")
    list_select_related = ("session", "account__exchange", "owner")
    list_filter = (ForceFilter, "mode", "rule")
    ordering = ("-id",)
    autocomplete_fields = ("session", "account")
    # Only what is to be halted is asked for; of a halt that stands the facts above say what it halts.
    conditional_fields = {name: f"scope === '{name.upper()}'" for name in ("session", "account", "owner")}
    hidden = ("session", "account", "owner")
    actions_detail = ("lift",)

    lift = button(
        "Lift", _lift, icon="lock_open", variant=ActionVariant.SUCCESS, form_class=LiftForm, permission="lift",
        question="Entries are taken again. What the halt has cancelled or closed, or begun to, stays so.",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[TradingHalt]:
        rows: QuerySet[TradingHalt] = super().get_queryset(request)
        if request.user.is_superuser:
            return rows
        return rows.filter(pk__in=TradingHalt.objects.filter(halts_of_owner(request.user.pk or 0)).values("pk"))

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("money.add_tradinghalt")

    def has_lift_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("money.change_tradinghalt")

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """The way out, while there is something to lift."""
        halt = self.get_object(request, str(object_id))
        return list(super().get_actions_detail(request, object_id)) if halt and halt.lifted_at is None else []

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form: Any = super().get_form(request, obj, change, **kwargs)
        form.request = request
        return form

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is not None:
            return super().get_fields(request, obj)
        whose = ["scope", "session", "account", *(["owner"] if request.user.is_superuser else [])]
        return [*whose, "mode", "cause", "is_confirmed"]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return super().get_readonly_fields(request, obj) if obj is not None else ()

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is not None:
            return super().get_fieldsets(request, obj)
        note = (
            "HALT takes no new entries. REDUCE_ONLY cancels entries that are at work, too. FLATTEN closes positions at "
            "market, too. Exits go on in each. It holds until somebody lifts it."
        )
        return [(None, {"fields": self.get_fields(request), "description": note})]

    def save_model(self, request: HttpRequest, obj: TradingHalt, form: HaltForm, change: bool) -> None:
        data = form.cleaned_data
        where = {f"{name}_id": data[name].pk for name in ("session", "account", "owner") if data.get(name)}
        tripped = halt_trip(data["mode"], data["cause"], **where, actor=actor_of(request))
        obj.pk = tripped.pk
        obj.refresh_from_db()

    @display(description="mode", ordering="mode", label={**BADGES, "LIFTED": "success"})
    def mode_shown(self, halt: TradingHalt) -> str:
        return "LIFTED" if halt.lifted_at else halt.mode

    @admin.display(description="halts")
    def subject(self, halt: TradingHalt) -> str:
        row = halt_subject(halt)
        return f"{halt.scope.label.lower()} {row}" if row else "the platform"

    def sections(self, request: HttpRequest, row: TradingHalt) -> Sections:
        subject = halt_subject(row)
        is_linked = row.scope in (HaltScope.SESSION, HaltScope.ACCOUNT)
        lifted = f"by {row.lifted_by}: {row.lift_note}" if row.lifted_at else "until somebody lifts it"
        return Sections(
            [
                Fact("Mode", badge(row.mode), row.cause),
                Fact("Halts", link(subject) if is_linked else subject or "the platform", row.scope.label),
                Fact("Tripped", moment(row.tripped_at), f"by {row.tripped_by}"),
                Fact("Lifted", moment(row.lifted_at), lifted),
            ]
        )


admin.site.unregister(TradingSession)


@admin.register(TradingSession)
class HaltedSessionPage(HoldingSessionPage):
    """What a session holds and did, and the halt that holds it."""

    list_display: Any = (*HoldingSessionPage.list_display[:2], "halt_shown", *HoldingSessionPage.list_display[2:])

    def get_queryset(self, request: HttpRequest) -> QuerySet[TradingSession]:
        return with_halt(super().get_queryset(request))

    @display(description="halt", label=BADGES)
    def halt_shown(self, session: Any) -> str:
        return session.halt["mode"] if session.halt else ""

    def sections(self, request: HttpRequest, row: Any) -> Sections:
        sections = super().sections(request, row)
        if row.halt:
            halt = link(TradingHalt(pk=row.halt["id"]), badge(row.halt["mode"]))
            sections.facts.insert(1, Fact("Halted", halt, row.halt["cause"]))
        return sections
