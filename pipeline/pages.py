"""What every page of the admin shares: a trader sees rows of their own accounts only, what services own is read and never
written, numbers are exact and short, and a button is a POST that calls one verb and says what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Context, Decimal
from functools import cache, partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, cast

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold import admin as unfold
from unfold.decorators import action
from unfold.enums import ActionVariant
from unfold.paginator import InfinitePaginator
from unfold.widgets import UnfoldAdminDecimalFieldWidget

from pipeline.fields import ExactField

if TYPE_CHECKING:
    # unfold has no types; its classes are Django's in another coat.
    class BasePage(admin.ModelAdmin[Any]):
        list_display: Any
        list_filter: ClassVar[Any]
        actions: Any
        actions_detail: Any

        def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]: ...

    BaseStackedInline = admin.StackedInline[Any, Any]
    BaseTabularInline = admin.TabularInline[Any, Any]
else:
    BasePage, BaseStackedInline, BaseTabularInline = unfold.ModelAdmin, unfold.StackedInline, unfold.TabularInline

# Rows that a section of a page shows; its heading leads to the rest.
SECTION_ROWS = 20
FILTER_CHOICES = 100
# Fields of a read-only page that stand on one line.
LINE_FIELDS = 2
SHOWN_DIGITS = Context(prec=12)

# What the colours of status badges mean, over all tables: green works, orange waits or is cut back, red is a refusal.
BADGES: dict[str, str] = {
    status: colour
    for colour, statuses in {
        "success": "ACTIVE OPEN OPENED FULLY_EXECUTED APPROVED PASSED BUY ENTER_LONG TAKE_PROFIT",
        "warning": "CUT SUSPENDED STOPPING PENDING REQUESTED READY SUBMITTING PARTIALLY_EXECUTED SELL EXIT_LONG CANCEL_ONLY",
        "danger": "HALTED PAUSED DENIED REJECTED UNKNOWN NOT_PLACED STOP_LOSS ENTER_SHORT UNREACHABLE HALT REDUCE_ONLY "
        "FLATTEN",
        "info": "CREATED EXIT_SHORT",
    }.items()
    for status in statuses.split()
}


def plain(value: Decimal | int | None) -> str:
    """A number as a person writes it: no trailing zeros, no exponent, twelve digits at most."""
    if value is None:
        return "-"
    short = SHOWN_DIGITS.create_decimal(value)
    return "0" if not short else f"{short.normalize():f}"


def moment(at: datetime | None) -> str:
    """A time to the second, UTC, or a dash."""
    return f"{at:%Y-%m-%d %H:%M:%S}" if at else "-"


def badge(text: str | None, colours: Mapping[str, str] = BADGES) -> SafeString | str:
    """A status in its colour."""
    if not text:
        return "-"
    return render_to_string(
        "unfold/helpers/label.html", {"text": text, "type": colours.get(text, "default"), "size": "md"}
    )


def signed(value: Decimal | None, currency: str = "") -> SafeString | str:
    """A profit in green, a loss in red."""
    if value is None:
        return "-"
    colour = (
        "text-green-700 dark:text-green-400" if value > 0 else "text-red-700 dark:text-red-400" if value < 0 else ""
    )
    return format_html('<span class="{}">{}{} {}</span>', colour, "+" if value > 0 else "", plain(value), currency)


def link(row: models.Model | None, text: Any = None) -> SafeString | str:
    """The row's own page, under ``text`` or its name."""
    if row is None:
        return "-"
    shown = text if text is not None else (str(row) or row.pk)
    return format_html('<a class="text-link" href="{}">{}</a>', change_url(type(row), row.pk), shown)


def change_url(model: type[models.Model], pk: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_change", args=[pk])


def list_url(model: type[models.Model], **filters: Any) -> str:
    url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
    return url + ("?" + "&".join(f"{name}={value}" for name, value in filters.items()) if filters else "")


def link_to_list(model: type[models.Model], text: Any, **filters: Any) -> SafeString:
    """The list of ``model`` narrowed by ``filters``."""
    return format_html('<a class="text-link" href="{}">{}</a>', list_url(model, **filters), text)


def actor_of(request: HttpRequest) -> str:
    """Who presses the button, as the journal names them."""
    return request.user.get_username()


@dataclass(frozen=True, slots=True)
class Table:
    """A section of a page: rows that belong to its row, the newest first, and where to see all of them."""

    title: str
    headers: Sequence[str]
    rows: list[list[Any]]
    more_url: str = ""


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing worth knowing at a glance; ``note`` stands small below it. A wide one has a line to itself."""

    name: str
    value: Any
    note: Any = ""
    is_wide: bool = False


@dataclass(slots=True)
class Sections:
    facts: list[Fact] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


class ExactFormField(forms.DecimalField):
    """A number typed and shown without the zeros that fill its column."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.widget.attrs["step"] = "any"

    def prepare_value(self, value: Any) -> Any:
        return f"{value.normalize():f}" if isinstance(value, Decimal) else value


def exact_widget() -> dict[str, Any]:
    """How a form shows an exact column."""
    return {"form_class": ExactFormField, "widget": UnfoldAdminDecimalFieldWidget}


@cache
def exact(model: type[models.Model], name: str) -> Callable[[Any], str]:
    """A column or line showing ``name`` of ``model`` without the zeros that fill its column."""

    column = model._meta.get_field(name)

    @admin.display(description=str(cast("models.Field[Any, Any]", column).verbose_name), ordering=name)
    def shown(row: Any) -> str:
        return plain(getattr(row, name))

    shown.__name__ = name
    return shown


class OwnRelatedFilter(admin.RelatedFieldListFilter):
    """Rows of one related row. The newest of those that the user may see are offered; its page's link reaches the others."""

    def field_choices(self, field: Any, request: HttpRequest, model_admin: Any) -> Any:
        page = model_admin.admin_site.get_model_admin(field.remote_field.model)
        rows = page.get_queryset(request).select_related(*(page.list_select_related or ()))
        return [(row.pk, str(row)) for row in rows.order_by("-pk")[:FILTER_CHOICES]]


# Does one thing to one row and says what it did; raises one of its page's refusals when it could not.
Verb = Callable[..., str]


class Page(BasePage):
    """A model's list and pages. With ``owner_path`` a trader sees only rows that lead to themselves by it; superusers see
    all, with an owner column. A page that has sections shows them around its form and keeps them fresh while it is open."""

    owner_path: ClassVar[str] = ""
    refusals: ClassVar[tuple[type[Exception], ...]] = (ValidationError,)
    live_seconds: ClassVar[int] = 5
    formfield_overrides = {ExactField: exact_widget()}
    list_per_page = 50
    list_fullwidth = True
    change_form_outer_before_template = "pipeline/facts.html"
    change_form_outer_after_template = "pipeline/tables.html"

    def sections(self, request: HttpRequest, row: Any) -> Sections:
        """What the row's page shows besides its fields."""
        return Sections()

    # Rows of one's own

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows = super().get_queryset(request)
        if self.owner_path and not request.user.is_superuser:
            rows = rows.filter(**{self.owner_path: request.user.pk})
        return rows

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        related = self.admin_site._registry.get(db_field.remote_field.model)
        if related is not None and "queryset" not in kwargs:
            kwargs["queryset"] = related.get_queryset(request)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        columns = [self._column(name) for name in super().get_list_display(request)]
        if self.owner_path.endswith("owner") and request.user.is_superuser:
            columns.append("owner_shown")
        return columns

    @admin.display(description="owner")
    def owner_shown(self, row: Any) -> str:
        return str(attrgetter(self.owner_path.replace("__", "."))(row))

    def _column(self, name: Any) -> Any:
        if not isinstance(name, str) or not any(one.name == name for one in self.model._meta.fields):
            return name
        return exact(cast(Any, self.model), name) if isinstance(self.model._meta.get_field(name), ExactField) else name

    # What is written

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """On a change only what was changed is written: a status that moved meanwhile is not moved back."""
        columns = {one.name for one in self.model._meta.concrete_fields}
        if not change:
            super().save_model(request, obj, form, change)
        elif changed := sorted(columns & set(form.changed_data)):
            obj.save(update_fields=changed)

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        # Rows are deleted one by one, each after a look at what goes with it.
        return {name: one for name, one in super().get_actions(request).items() if name != "delete_selected"}

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        # What falls with a row is read-only by itself; PROTECT is what keeps history.
        names, counts, _, protected = super().get_deleted_objects(objs, request)
        return names, counts, set(), protected

    # Sections

    def render_change_form(
        self,
        request: HttpRequest,
        context: Any,
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Any = None,
    ) -> Any:
        if obj is not None:
            context["sections"] = self.sections(request, obj)
            context["sections_url"] = reverse(self._sections_name, args=[obj.pk])
            context["live_seconds"] = self.live_seconds
        return super().render_change_form(request, context, add, change, form_url, obj)

    @property
    def _sections_name(self) -> str:
        return f"admin:{self.opts.app_label}_{self.opts.model_name}_sections"

    def get_urls(self) -> list[URLPattern]:
        name = self._sections_name.removeprefix("admin:")
        view = self.admin_site.admin_view(self.sections_view)
        return [path("<path:object_id>/sections/", view, name=name), *super().get_urls()]

    def sections_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """The sections alone, for a page that is open."""
        row = self.get_object(request, unquote(object_id))
        if row is None or not self.has_view_permission(request, row):
            return HttpResponse(status=404)
        context = {"sections": self.sections(request, row)}
        return TemplateResponse(request, "pipeline/sections.html", context)

    # Buttons

    def carry_out(self, request: HttpRequest, label: str, verb: Verb, row: Any) -> bool:
        """Call the verb and tell the trader what came of it; whether it was done."""
        try:
            done = verb(request, row)
        except self.refusals as error:
            reason = "; ".join(error.messages) if isinstance(error, ValidationError) else str(error)
            messages.error(request, f"{row}: {reason}")
            return False
        self.log_change(request, row, f"Pressed “{label}”.")
        messages.success(request, f"{row}: {done}")
        return True


def button(
    label: str,
    verb: Verb,
    *,
    icon: str,
    question: str,
    variant: ActionVariant = ActionVariant.DEFAULT,
    permission: str = "change",
    form_class: type[forms.Form] | None = None,
) -> Any:
    """A button on a row's page: it asks, then POSTs, and ``verb`` is called with the row if the trader may see it, and with
    the answers by name where ``form_class`` (one of unfold's dialog forms) asks for any."""

    def pressed(self: Page, request: HttpRequest, form: Any, object_id: str) -> HttpResponseBase:
        row = self.get_object(request, unquote(object_id))
        if row is None:
            url = list_url(self.model)
            messages.error(request, f"wanted one of your {self.opts.verbose_name_plural}, was {object_id}")
        else:
            url = change_url(self.model, row.pk)
            answers = {name: form.cleaned_data[name] for name in (form_class.declared_fields if form_class else ())}
            answers.pop("_form_submitted", None)
            self.carry_out(request, label, partial(verb, **answers), row)
        # The dialog posts by htmx, which follows this header and would show a redirect's page inside the dialog.
        return HttpResponse(headers={"HX-Redirect": url}) if "HX-Request" in request.headers else redirect(url)

    pressed.__name__ = verb.__name__.strip("_")
    dialog = {"title": label, "description": question, "form_class": form_class, "form_submit_text": label}
    return action(description=label, icon=icon, variant=variant, permissions=[permission], dialog=dialog)(pressed)


def batch(label: str, verb: Verb, *, permission: str = "change") -> Any:
    """The same verb for every row selected in the list."""

    def pressed(self: Page, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        for row in queryset:
            self.carry_out(request, label, verb, row)

    pressed.__name__ = f"{verb.__name__.strip('_')}_selected"
    return admin.action(description=label, permissions=[permission])(pressed)


class ReadOnlyPage(Page):
    """A model that services own: everything about it is shown and nothing can be edited here."""

    hidden: ClassVar[Sequence[str]] = ()

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return [self._column(one.name) for one in self.model._meta.fields if one.name not in self.hidden]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.get_fields(request, obj)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        names = self.get_fields(request, obj)
        rows = [tuple(names[start : start + LINE_FIELDS]) for start in range(0, len(names), LINE_FIELDS)]
        return [(None, {"fields": rows})]


class LongPage(ReadOnlyPage):
    """A read-only table that grows without end: its rows are never counted."""

    paginator = InfinitePaginator
    show_facets = admin.ShowFacets.NEVER
    show_full_result_count = False


class SupervisedPage(Page):
    """A model that only superusers may add to or alter; it decides where the platform connects to."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.is_superuser)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.is_superuser)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.is_superuser)


def table(title: str, headers: Sequence[str], rows: Iterable[Sequence[Any]], more_url: str = "") -> Table:
    """A section of a page. The query behind ``rows`` is the caller's to bound, by ``SECTION_ROWS``."""
    return Table(title, headers, [[cell(value) for value in row] for row in rows], more_url)


def cell(value: Any) -> Any:
    """A value as a table shows it: numbers short, times on one line, a dash for nothing."""
    if isinstance(value, datetime):
        return format_html('<span class="whitespace-nowrap">{}</span>', moment(value))
    if isinstance(value, Decimal):
        return plain(value)
    return "-" if value in (None, "") else value
