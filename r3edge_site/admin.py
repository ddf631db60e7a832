"""The pages of what the platform stands on, in the same coat as its own: users, groups, tokens, periodic tasks."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.db.models import QuerySet
from django.http import HttpRequest
from django_celery_beat import admin as beat
from django_celery_beat.models import ClockedSchedule, CrontabSchedule, IntervalSchedule, PeriodicTask, SolarSchedule
from knox.models import AuthToken
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from pipeline.pages import BasePage, ReadOnlyPage
from r3edge_site.tokens import PREFIX_LENGTH

admin.site.index_title = "Trading"
admin.site.index_template = "r3edge_site/index.html"

for model in (User, Group, AuthToken, PeriodicTask, ClockedSchedule, CrontabSchedule, IntervalSchedule, SolarSchedule):
    admin.site.unregister(model)


@admin.register(User)
class UserPage(UserAdmin, BasePage):  # type: ignore[type-arg]  # not subscriptable at run time
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "is_active", "is_staff", "is_superuser", "last_login")


@admin.register(Group)
class GroupPage(GroupAdmin, BasePage):
    pass


@admin.register(AuthToken)
class TokenPage(ReadOnlyPage):
    """Tokens are made by the API or by ``manage token``, which can show them once; here they are ended."""

    owner_path = "user"
    list_display = ("prefix", "user", "created", "expiry")
    # A token's page would have its digest as address.
    list_display_links = None
    list_select_related = ("user",)
    search_fields = ("user__username",)
    ordering = ("-created",)
    actions = ("end_selected",)

    @admin.display(description="token")
    def prefix(self, token: Any) -> str:
        return f"{token.digest[:PREFIX_LENGTH]}…"

    def has_end_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("knox.delete_authtoken")

    @admin.action(description="End selected tokens", permissions=["end"])
    def end_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        count, _ = queryset.delete()
        self.message_user(request, f"{count} tokens are no longer valid")


class TaskSelect(UnfoldAdminSelectWidget, beat.TaskSelectWidget):  # type: ignore[misc]
    """The names of the tasks there are."""


class PeriodicTaskForm(beat.PeriodicTaskForm):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["task"].widget = UnfoldAdminTextInputWidget()
        self.fields["regtask"].widget = TaskSelect()


@admin.register(PeriodicTask)
class PeriodicTaskPage(beat.PeriodicTaskAdmin, BasePage):  # type: ignore[misc]
    form = PeriodicTaskForm
    date_hierarchy = None
    list_filter = ("enabled", "one_off")


@admin.register(IntervalSchedule)
class IntervalPage(BasePage):
    pass


@admin.register(CrontabSchedule)
class CrontabPage(beat.CrontabScheduleAdmin, BasePage):  # type: ignore[misc]
    inlines = ()


@admin.register(ClockedSchedule)
class ClockedPage(BasePage):
    list_display = ("clocked_time",)


@admin.register(SolarSchedule)
class SolarPage(BasePage):
    pass
