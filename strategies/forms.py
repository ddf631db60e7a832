"""Forms in which a strategy is chosen: one field per parameter of each strategy, made of the parameter's own type, bounds
and help, so that a new strategy needs no form of its own. Which values are allowed is decided by the strategy alone."""

from __future__ import annotations

from decimal import Decimal
from enum import Enum
from types import UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin

from django import forms
from django.contrib import admin
from django.contrib.admin.widgets import AutocompleteSelect
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from pydantic import ValidationError as ParametersError
from pydantic.fields import FieldInfo
from unfold.widgets import (
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from domain.candles import Timeframe
from exchanges.models import Market
from marketdata.models import Feed
from strategies.library import LIBRARY
from strategies.models import StrategyConfig, informatives_validated

BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def field_name(strategy: str, parameter: str) -> str:
    """What the form calls a parameter of a strategy."""
    return f"{strategy}__{parameter}"


def parameter_field(info: FieldInfo) -> forms.Field:
    """A form field for one parameter. It reads the type; bounds are told in its help and judged by the strategy."""
    kind, is_optional = _kind_of(info.annotation)
    common: dict[str, Any] = {
        "label": info.title, "help_text": _help_of(info, is_optional), "required": False, "initial": _shown(info.default),
    }  # fmt: skip
    if kind is bool:
        return forms.BooleanField(widget=UnfoldBooleanSwitchWidget, **common)
    if choices := _choices_of(kind):
        return forms.ChoiceField(choices=choices, widget=UnfoldAdminSelectWidget, **common)
    if kind is int:
        return forms.IntegerField(widget=UnfoldAdminIntegerFieldWidget, **common)
    if kind in (float, Decimal):
        # Both are read as exact decimals; the strategy makes of them what it declares.
        return forms.DecimalField(widget=UnfoldAdminDecimalFieldWidget(attrs={"step": "any"}), **common)
    return forms.CharField(widget=UnfoldAdminTextInputWidget, **common)


def _kind_of(annotation: Any) -> tuple[Any, bool]:
    if get_origin(annotation) not in (Union, UnionType):
        return annotation, False
    kinds = [one for one in get_args(annotation) if one is not type(None)]
    return kinds[0], True


def _choices_of(kind: Any) -> list[tuple[Any, str]]:
    if isinstance(kind, type) and issubclass(kind, Enum):
        return [(member.value, str(member.value)) for member in kind]
    return [(value, str(value)) for value in get_args(kind)] if get_origin(kind) is Literal else []


def _help_of(info: FieldInfo, is_optional: bool) -> str:
    bounds = [
        f"{words} {getattr(one, name)}" for one in info.metadata for name, words in BOUNDS.items() if hasattr(one, name)
    ]
    notes = [", ".join(bounds).capitalize() + "." if bounds else "", "Empty: none." if is_optional else ""]
    return " ".join(part for part in (info.description, *notes) if part)


def _shown(value: Any) -> Any:
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    return value.value if isinstance(value, Enum) else value


class ParametersForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    """A form of something with a strategy: a field for each parameter, of each strategy that can be chosen."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for strategy, parameter in parameters_offered(self.instance.strategy if self.instance.pk else None):
            info = LIBRARY[strategy].parameters_type.model_fields[parameter]
            name = field_name(strategy, parameter)
            self.fields[name] = parameter_field(info)
            if self.instance.pk:
                self.initial[name] = self.instance.parameters.get(parameter, self.fields[name].initial)

    def parameters_of(self, strategy: str, data: dict[str, Any]) -> dict[str, Any]:
        """The chosen strategy's parameters as they are stored; what is wrong with one is said at its field."""
        kind = LIBRARY[strategy].parameters_type
        names = {parameter: field_name(strategy, parameter) for parameter in kind.model_fields}
        if any(name in self.errors for name in names.values()):
            return {}
        # An empty field means none where there may be none, and the default elsewhere.
        values = {
            parameter: data.get(name)
            for parameter, name in names.items()
            if data.get(name) is not None or _kind_of(kind.model_fields[parameter].annotation)[1]
        }
        try:
            return kind.model_validate(values).model_dump(mode="json")
        except ParametersError as error:
            for one in error.errors():
                self._add_problem(strategy, one["loc"], one["msg"].removeprefix("Value error, "), one["input"])
            return {}

    def _add_problem(self, strategy: str, loc: tuple[int | str, ...], message: str, found: Any) -> None:
        if loc:
            self.add_error(field_name(strategy, str(loc[0])), f"{message}, was {found}")
        else:
            self.add_error(None, message)  # of several values together: the message names them

    def _post_clean(self) -> None:
        # The model would judge the parameters again and complain of a field that this form shows as several.
        if not self.errors:
            super()._post_clean()  # type: ignore[misc]  # Django's own step after clean


class ConfigForm(ParametersForm):
    """A configuration: what it trades on, which strategy, and that strategy's parameters."""

    trader: ClassVar[User]

    market = forms.ModelChoiceField(
        Market.objects.filter(is_active=True, exchange__is_enabled=True).select_related("exchange"),
        widget=AutocompleteSelect(Feed._meta.get_field("market"), admin.site),
        help_text="Type a part of the symbol. Markets appear here after their exchange was read.",
    )
    strategy = forms.ChoiceField(
        choices=lambda: [("", "---------"), *((name, kind.title) for name, kind in LIBRARY.items())],
        widget=UnfoldAdminSelectWidget,
    )
    timeframe = forms.ChoiceField(
        choices=[(frame.value, frame.value) for frame in Timeframe], widget=UnfoldAdminSelectWidget
    )

    class Meta:
        model = StrategyConfig
        fields = ("name", "strategy")

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        owner = self.instance.owner if self.instance.pk else self.trader
        others = StrategyConfig.objects.filter(owner=owner, name=data.get("name")).exclude(pk=self.instance.pk)
        if others.exists():
            self.add_error("name", f"wanted a name that none of your other configurations has, was {data['name']!r}")
        strategy: str = self.instance.strategy if self.instance.pk else data.get("strategy") or ""
        if strategy in LIBRARY:
            self.instance.parameters = self.parameters_of(strategy, data)
            self._check_beside(strategy, self.instance.feed.market if self.instance.pk else data.get("market"))
        elif strategy:
            self.add_error(None, LIBRARY.wanted(strategy))
        return data

    def _check_beside(self, strategy: str, market: Market | None) -> None:
        """Refuse what looks at a market that there is not."""
        if market is None or self.errors:
            return
        try:
            informatives_validated(LIBRARY[strategy].from_values(self.instance.parameters), market)
        except ValidationError as error:
            self.add_error(None, error.messages)


def parameters_offered(strategy: str | None = None) -> list[tuple[str, str]]:
    """Strategy and parameter of every field: of one strategy, or of all there are."""
    chosen = LIBRARY if strategy is None else [strategy] if strategy in LIBRARY else []
    return [(name, parameter) for name in chosen for parameter in LIBRARY[name].parameters_type.model_fields]
