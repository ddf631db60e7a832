"""The form of a study: what it is of, and for each parameter of the strategy one line that says its value, or among which it
is searched. Which values are allowed is decided by the strategy alone."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.contrib.admin.widgets import AutocompleteSelectMultiple
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from pydantic.fields import FieldInfo
from unfold.forms import BaseDialogForm
from unfold.widgets import (
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from backtesting.models import Study, StudyKind
from backtesting.research.monte_carlo import MonteCarlo
from backtesting.research.words import MonteCarloWords
from backtesting.setups import Asked
from backtesting.studies.setups import StudyAsked, study_validated
from domain.market import ZERO
from marketdata.models import Feed
from strategies.forms import field_name, parameter_field, parameters_offered
from strategies.library import LIBRARY

WALK_FIELDS = ("train", "test", "is_anchored")
LUCK_FIELDS = ("ways", "paths", "reruns", "noise", "ruin_at")
SEARCH_FIELDS = ("method", "trials_wanted")
MOST_COST = Decimal("0.5")
FEE_HELP = "Fraction: 0.001 is 0.1 %. Empty: the highest of the markets'; imported ones have none."
MONEY_FIELDS = ("cash", "amount", "maker_fee", "taker_fee", "slippage")
# What a form whose empty fields mean none says of them; here they mean the default.
OR_NONE = "Empty: none."
TEXT = UnfoldAdminTextInputWidget
HOW_TO_SEARCH = (
    "One value, or several that are searched: 5, 10, 20, or 5:50 from 5 to 50, or 5:50:5 in steps of 5, or * for all. Empty: "
    "the default."
)


def said_of_line(text: str, info: FieldInfo) -> tuple[Any, Any]:
    """What one line says of a parameter: its value, else among what it is searched, as a space takes it. Raises
    ValidationError."""
    if info.annotation is str:  # a list of markets has commas in it
        return text, None
    if text == "*":
        return None, {}
    if ":" in text:
        parts = [part.strip() for part in text.split(":")]
        if not 2 <= len(parts) <= 3:  # two ends, and a step
            raise ValidationError(f"wanted LOW:HIGH or LOW:HIGH:STEP, was {text!r:.60}")
        return None, dict(zip(("low", "high", "step"), map(_number, parts), strict=False))
    if "," in text:
        return None, [_plain(part.strip()) for part in text.split(",") if part.strip()]
    return _plain(text), None


def _number(text: str) -> int | float:
    number = _plain(text)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ValidationError(f"wanted a number, was {text!r:.60}")
    return number


def _plain(text: str) -> Any:
    """A number, a switch, or a word."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _line(info: FieldInfo) -> forms.CharField:
    shown = parameter_field(info)
    is_optional = OR_NONE in shown.help_text
    default = "none" if shown.initial is None else f"{shown.initial}, or none" if is_optional else shown.initial
    help_text = f"{shown.help_text.replace(OR_NONE, '').strip()} Default: {default}."
    return forms.CharField(label=shown.label, required=False, max_length=400, help_text=help_text, widget=TEXT)


def _whole(**kwargs: Any) -> forms.IntegerField:
    return forms.IntegerField(widget=UnfoldAdminIntegerFieldWidget, **kwargs)


def _decimal(**kwargs: Any) -> forms.DecimalField:
    return forms.DecimalField(widget=UnfoldAdminDecimalFieldWidget(attrs={"step": "any"}), **kwargs)


def _default(name: str) -> Any:
    return MonteCarloWords.model_fields[name].default


class StudyForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    """A study of one's own."""

    trader: ClassVar[User]
    asked: StudyAsked

    strategy = forms.ChoiceField(
        choices=lambda: [("", "---------"), *((name, kind.title) for name, kind in LIBRARY.items())],
        widget=UnfoldAdminSelectWidget,
    )
    feeds = forms.ModelMultipleChoiceField(
        Feed.objects.select_related("market__exchange"),
        widget=AutocompleteSelectMultiple(Study._meta.get_field("feeds"), admin.site),
        help_text="One market, or several that share one account. Type a part of the symbol.",
    )
    cash = _decimal(initial=Decimal(10_000), min_value=Decimal(1), help_text="What the account begins with.")
    amount = _decimal(initial=Decimal(10), min_value=Decimal("0.000001"), label="Stake, % of equity")
    maker_fee = _decimal(required=False, min_value=ZERO, max_value=MOST_COST, help_text=FEE_HELP)
    taker_fee = _decimal(required=False, min_value=ZERO, max_value=MOST_COST, help_text=FEE_HELP)
    slippage = _decimal(
        initial=ZERO,
        min_value=ZERO,
        max_value=MOST_COST,
        help_text="Fraction: 0.001 is 0.1 %, worse at each market order.",
    )
    train = forms.CharField(
        required=False, initial="180d", widget=TEXT, help_text="So many candles, or days such as 180d, are searched."
    )
    test = forms.CharField(required=False, initial="60d", widget=TEXT, help_text="So many after those are judged.")
    is_anchored = forms.BooleanField(
        required=False, widget=UnfoldBooleanSwitchWidget, help_text="Every training begins with the first candle."
    )
    ways = forms.MultipleChoiceField(
        required=False, initial=[one.value for one in _default("ways")], widget=forms.CheckboxSelectMultiple,
        choices=[(one.value, one.value.replace("_", " ").capitalize()) for one in MonteCarlo],
        help_text="Jitter and noise are backtests of their own; jitter goes to neighbours on what is searched above.",
    )  # fmt: skip
    paths = _whole(required=False, initial=_default("paths"), help_text="Drawn of what there is.")
    reruns = _whole(required=False, initial=_default("reruns"), help_text="Backtests, of jitter and of noise each.")
    noise = _decimal(required=False, initial=_default("noise"), help_text="Of a candle's range.")
    ruin_at = _decimal(
        required=False, initial=_default("ruin_at"), help_text="A fall from the peak that counts as ruin."
    )

    class Meta:
        model = Study
        fields = (
            "name", "kind", "from_at", "until_at", "method", "objective", "min_trades", "trials_wanted", "seed",
        )  # fmt: skip

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for strategy, parameter in parameters_offered():
            self.fields[field_name(strategy, parameter)] = _line(
                LIBRARY[strategy].parameters_type.model_fields[parameter]
            )

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        parameters, space = self._lines(data)
        if self.errors:
            return data
        settings = {name: str(data[name]) for name in MONEY_FIELDS if data.get(name) is not None}
        setup = Asked(
            strategy=data["strategy"], feeds=list(data["feeds"]), from_at=data["from_at"], until_at=data["until_at"],
            parameters=parameters, settings=settings,
        )  # fmt: skip
        own = {name: data[name] for name in ("kind", "method", "objective", "min_trades", "trials_wanted", "seed")}
        self.asked = StudyAsked(setup=setup, space=space, options=_options(data), **own)
        try:
            study_validated(self.asked)
        except ValidationError as error:
            self._complain(error)
        return data

    def _lines(self, data: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Parameters with one value, and those that are searched."""
        parameters: dict[str, Any] = {}
        space: dict[str, Any] = {}
        strategy = data.get("strategy") or ""
        for _, parameter in parameters_offered(strategy):
            name = field_name(strategy, parameter)
            if not (text := (data.get(name) or "").strip()):
                continue
            try:
                value, searched = said_of_line(text, LIBRARY[strategy].parameters_type.model_fields[parameter])
            except ValidationError as error:
                self.add_error(name, error)
                continue
            if searched is None:
                parameters[parameter] = None if value == "none" else value
            else:
                space[parameter] = searched
        return parameters, space

    def _complain(self, error: ValidationError) -> None:
        for name, texts in error.message_dict.items():
            self.add_error(name if name in self.fields else None, texts)

    def _post_clean(self) -> None:
        # The model would be made of half of it; what is asked was judged as a whole.
        if not self.errors:
            super()._post_clean()  # type: ignore[misc]  # Django's own step after clean


def _options(data: dict[str, Any]) -> dict[str, Any]:
    names = {StudyKind.WALK_FORWARD: WALK_FIELDS, StudyKind.MONTE_CARLO: LUCK_FIELDS}.get(data["kind"], ())
    return {
        name: float(data[name]) if isinstance(data[name], Decimal) else data[name]
        for name in names
        if data.get(name) not in (None, "", [])
    }


class TrialForm(BaseDialogForm):  # type: ignore[misc]  # unfold has no types
    """Which trial."""

    number = _whole(min_value=0, help_text="Of the trial, as the table below has it.")
    fold = _whole(min_value=0, initial=0, required=False, help_text="Of a walk forward.")
