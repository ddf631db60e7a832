"""The form that asks for a backtest: the strategy's parameters and the words of the account as fields of their own, made of
types, bounds and help; what is wrong is said at the field that it is about."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.contrib.admin.widgets import AutocompleteSelectMultiple
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from pydantic.fields import FieldInfo
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextareaWidget

from backtesting.models import BacktestRun
from backtesting.runs import UnableToBacktest, room_check
from backtesting.setups import Asked, setup_validated
from backtesting.words import SettingsWords
from domain.exit_plan import ExitPlan
from domain.sizing import SizingMethod
from exchanges.models import Account
from marketdata.models import Feed
from strategies.forms import ParametersForm, field_name, parameter_field, parameters_offered
from strategies.library import LIBRARY

SETTINGS = "settings"
# What most ask for stands open, the rest is folded.
FIRST_SETTINGS = ("cash", "sizing", "amount", "maker_fee", "taker_fee", "slippage")
MORE_SETTINGS = tuple(name for name in SettingsWords.model_fields if name not in FIRST_SETTINGS)
LIMITS_HELP = (
    'JSON; empty: those of the account, where one is chosen, else none. Example: {"max_open_positions": 3, '
    '"max_exposure_percent": "50"}. The names are those of a risk profile.'
)
EXITS_HELP = (
    "JSON; empty: the strategy's exits. Any of "
    + ", ".join(ExitPlan.model_fields)
    + '. Example: {"trailing_percent": "1.5", "targets": [{"percent": "5"}]}.'
)


class JsonField(forms.JSONField):
    """An object of JSON, written as text; empty is none of it."""

    def __init__(self, help_text: str) -> None:
        super().__init__(
            required=False, help_text=help_text,
            widget=UnfoldAdminTextareaWidget(attrs={"rows": 3, "spellcheck": "false"}),
        )  # fmt: skip

    def prepare_value(self, value: Any) -> Any:
        return "" if value in (None, {}) else super().prepare_value(value)


class BacktestForm(ParametersForm):
    """On which feeds, with which strategy, with what money, and when."""

    trader: ClassVar[User]
    asked: Asked

    feeds: Any = forms.ModelMultipleChoiceField(
        Feed.objects.select_related("market__exchange"),
        widget=AutocompleteSelectMultiple(BacktestRun._meta.get_field("feeds"), admin.site),
        help_text="Type a part of the symbol. Several share one account.",
    )
    strategy = forms.ChoiceField(
        choices=lambda: [("", "---------"), *((name, kind.title) for name, kind in LIBRARY.items())],
        widget=UnfoldAdminSelectWidget,
    )
    account: Any = forms.ModelChoiceField(
        Account.objects.none(), required=False, widget=UnfoldAdminSelectWidget,
        help_text="Whose fees and limits are taken where nothing else is said.",
    )  # fmt: skip
    limits = JsonField(LIMITS_HELP)
    exits = JsonField(EXITS_HELP)

    class Meta:
        model = BacktestRun
        fields = ("name", "strategy", "from_at", "until_at", "detail_timeframe", "limits", "exits")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        like = kwargs.get("initial", {}).pop("like", None)
        super().__init__(*args, **kwargs)
        for name, info in SettingsWords.model_fields.items():
            self.fields[field_name(SETTINGS, name)] = _setting_field(name, info)
        accounts: Any = self.fields["account"]
        accounts.queryset = Account.objects.filter(owner=self.trader).select_related("exchange")
        self.fields["detail_timeframe"].required = False
        if like is not None:
            self.initial = {**words_of(like), **self.initial}

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        strategy: str = data.get("strategy") or ""
        parameters = self.parameters_of(strategy, data) if strategy in LIBRARY else {}
        if self.errors:
            return data
        names = {name: data.get(field_name(SETTINGS, name)) for name in SettingsWords.model_fields}
        self.asked = Asked(
            strategy=strategy, feeds=_in_order(data["feeds"], self.data), from_at=data["from_at"],
            until_at=data["until_at"], parameters=parameters, detail_timeframe=data.get("detail_timeframe") or "",
            settings={name: value for name, value in names.items() if value not in (None, "")},
            limits=data.get("limits") or {}, exits=data.get("exits") or {}, account=data.get("account"),
        )  # fmt: skip
        try:
            room_check(self.trader)
            setup_validated(self.asked)
        except UnableToBacktest as error:
            self.add_error(None, str(error))
        except ValidationError as error:
            self._say(strategy, error)
        return data

    def _say(self, strategy: str, error: ValidationError) -> None:
        """What is wrong, at the field that it is about: settings and parameters are fields of their own here."""
        groups = {"settings": SETTINGS, "parameters": strategy}
        for field, texts in error.message_dict.items():
            for text in texts:
                name, _, rest = text.partition(": ")
                own = field_name(groups[field], name) if field in groups else field
                is_known = own in self.fields
                self.add_error(own if is_known else None, rest if is_known and own != field else text)


def _setting_field(name: str, info: FieldInfo) -> forms.Field:
    field = parameter_field(info)
    field.label = name.removeprefix("is_").replace("_", " ").capitalize()
    if name in ("maker_fee", "taker_fee", "price_margin"):
        field.help_text = str(field.help_text).removesuffix(" Empty: none.")  # but what its help says
    if isinstance(field, forms.ChoiceField):
        field.choices = [(method.value, method.value.replace("_", " ").capitalize()) for method in SizingMethod]
    return field


def words_of(run: BacktestRun) -> dict[str, Any]:
    """What the form shows of a run that the next one is to be like."""
    said = {name: getattr(run, name) for name in ("name", "strategy", "from_at", "until_at", "detail_timeframe")}
    parameters = {
        field_name(strategy, parameter): run.parameters[parameter]
        for strategy, parameter in parameters_offered(run.strategy)
        if parameter in run.parameters
    }
    settings = {field_name(SETTINGS, name): value for name, value in run.settings.items()}
    feeds = [place.feed_id for place in run.places.all()]
    return {**said, **parameters, **settings, "limits": run.limits, "exits": run.exits, "feeds": feeds}


def _in_order(feeds: Any, data: Any) -> list[Feed]:
    """As they were named; a query knows no such order."""
    named = [str(one) for one in data.getlist("feeds")]
    return sorted(feeds, key=lambda feed: named.index(str(feed.pk)) if str(feed.pk) in named else len(named))
