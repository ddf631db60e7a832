"""Groups of sessions in the admin: made by one form for several accounts, commanded by buttons, each session answering."""

from __future__ import annotations

from collections import Counter
from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldAdminDecimalFieldWidget, UnfoldAdminSelectMultipleWidget, UnfoldAdminSelectWidget

from domain.sizing import SizingMethod
from exchanges.models import Account
from pipeline.pages import Fact, Page, Sections, actor_of, badge, button, link, plain, table
from sessions.groups import group_command, group_create
from sessions.models import SessionGroup, TradingSession
from sessions.services import UnableToCommand
from strategies.models import StrategyConfig


class GroupForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    """Which configuration on which accounts, and how much on each."""

    request: HttpRequest

    config = forms.ModelChoiceField(
        StrategyConfig.objects.none(), label="Configuration", widget=UnfoldAdminSelectWidget
    )
    accounts = forms.ModelMultipleChoiceField(Account.objects.none(), widget=UnfoldAdminSelectMultipleWidget)
    sizing_method = forms.ChoiceField(
        choices=[(method.value, method.value.replace("_", " ").capitalize()) for method in SizingMethod],
        initial=SizingMethod.PERCENT_OF_EQUITY.value, widget=UnfoldAdminSelectWidget,
    )  # fmt: skip
    sizing_amount = forms.DecimalField(
        initial=10, widget=UnfoldAdminDecimalFieldWidget,
        help_text="Quote currency, percent of equity, or percent of equity at risk, as the method says.",
    )  # fmt: skip

    made: SessionGroup | None = None

    class Meta:
        model = SessionGroup
        fields = ("name",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            return
        for name, model in (("config", StrategyConfig), ("accounts", Account)):
            page = admin.site.get_model_admin(model)
            self.fields[name].queryset = page.get_queryset(self.request)  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if not self.instance.pk and not self.errors:
            # Made here, where an account that does not fit can still be told of at its field.
            try:
                self.made = group_create(**data)
            except ValidationError as error:
                for name, texts in error.message_dict.items():
                    self.add_error(name if name in self.fields else None, texts)
        return data

    def _post_clean(self) -> None:
        if self.instance.pk:
            super()._post_clean()  # type: ignore[misc]  # the model form's own


def _command(request: HttpRequest, group: SessionGroup, command: str) -> str:
    outcomes = group_command(group.pk, command, actor=actor_of(request))
    refused = [one for one in outcomes if not one.is_done]
    names = dict(group.sessions.values_list("pk", "name"))
    if refused:
        texts = "; ".join(f"{names.get(one.session_id, one.session_id)}: {one.detail}" for one in refused)
        raise UnableToCommand(f"{command}: {len(outcomes) - len(refused)} of {len(outcomes)} done; {texts}")
    return f"{command}: {len(outcomes)} of {len(outcomes)} done"


def _start(request: HttpRequest, group: SessionGroup) -> str:
    return _command(request, group, "start")


def _suspend(request: HttpRequest, group: SessionGroup) -> str:
    return _command(request, group, "suspend")


def _recover(request: HttpRequest, group: SessionGroup) -> str:
    return _command(request, group, "recover")


def _stop(request: HttpRequest, group: SessionGroup) -> str:
    return _command(request, group, "stop")


@admin.register(SessionGroup)
class GroupPage(Page):
    form = GroupForm
    owner_path = "owner"
    refusals = (UnableToCommand, ValidationError)
    list_display = ("name", "statuses", "created_at")
    list_select_related = ("owner",)
    search_fields = ("name",)
    ordering = ("-id",)
    actions_detail = ("start", "suspend", "recover", "stop")

    start = button(
        "Start all", _start, icon="play_arrow", variant=ActionVariant.SUCCESS,
        question="Each of its sessions trades from the next signal on.",
    )  # fmt: skip
    suspend = button(
        "Suspend all", _suspend, icon="pause",
        question="No new positions on any account. What is held keeps its exits.",
    )  # fmt: skip
    recover = button(
        "Recover all", _recover, icon="restart_alt", variant=ActionVariant.SUCCESS,
        question="Re-reads each account from its exchange, then trades again.",
    )  # fmt: skip
    stop = button(
        "Stop all", _stop, icon="stop", variant=ActionVariant.WARNING,
        question="Cancels all open orders of its sessions and closes what they hold at market.",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[SessionGroup]:
        rows: QuerySet[SessionGroup] = super().get_queryset(request).prefetch_related("sessions")
        return rows

    @admin.display(description="sessions")
    def statuses(self, group: SessionGroup) -> str:
        counts = Counter(session.status for session in group.sessions.all())
        return ", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "none"

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        # The fields of its sessions are made by the form itself; Django is asked for the model's own.
        form: Any = super().get_form(request, obj, change, **{**kwargs, "fields": ["name"]})
        form.request = request
        if obj is not None:
            form.base_fields = {"name": form.base_fields["name"]}
        return form

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        own = [] if obj else ["config", "accounts", ("sizing_method", "sizing_amount")]
        note = "" if obj else "One session for each account; sizing and exits of each can be changed on its own page."
        return [(None, {"fields": ["name", *own], "description": note})]

    def save_model(self, request: HttpRequest, obj: SessionGroup, form: GroupForm, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
        elif form.made is not None:
            obj.pk = form.made.pk
            obj.refresh_from_db()
            obj._state.adding = False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # its sessions' history speaks of it

    def sections(self, request: HttpRequest, row: SessionGroup) -> Sections:
        sessions = TradingSession.objects.filter(group=row).select_related("account__exchange").order_by("pk")
        return Sections(
            [Fact("Sessions", self.statuses(row))],
            [
                table(
                    "Sessions", ("Session", "Status", "Account", "Sizing", "Why"),
                    (
                        (
                            link(one), badge(one.status), one.account, f"{one.sizing_method} {plain(one.sizing_amount)}",
                            one.status_reason,
                        )
                        for one in sessions
                    ),
                )
            ],
        )  # fmt: skip
