"""The words of a backtest as its caller gives them: every one checked by itself, said wrong by its name, and written down in
full, so that a run means the same when defaults have changed. Pure: no Django.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from decimal import Decimal
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails

from backtesting.engine.inputs import HUNDRED, MOST_MONEY, Settings
from backtesting.wording import complaint_text
from domain.exit_plan import ExitPlan
from domain.limits import Limits
from domain.market import ONE, ZERO
from domain.sizing import SizingMethod

M = TypeVar("M", bound=BaseModel)

# Beyond these no number means anything here, and one such as 1e999999 would be written out in a megabyte.
MOST_PLACES = 40
LARGEST_COUNT = 2**31 - 1

# Of these limits a backtest, which sees its own book only, can tell nothing.
BY_HISTORY = frozenset(
    {
        "max_correlated_exposure_percent", "max_var_percent", "max_cvar_percent", "var_method", "var_confidence",
        "var_horizon_hours",
    }
)  # fmt: skip


class SettingsWords(BaseModel):
    """The engine's ``Settings`` but its limits, by the same names. Fees that are left out are those of the markets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cash: Decimal = Field(
        Decimal(10_000),
        gt=0,
        le=MOST_MONEY,
        description="What the account begins with, in the markets' quote currency.",
    )
    sizing: SizingMethod = Field(SizingMethod.PERCENT_OF_EQUITY, description="How an entry's size is found.")
    amount: Decimal = Field(
        Decimal(10), gt=0, le=MOST_MONEY,
        description="Quote currency, percent of equity, percent of equity at risk, or percent of Kelly, as the method says.",
    )  # fmt: skip
    is_confidence_weighted: bool = Field(False, description="A signal's confidence scales the size.")
    kelly_min_trades: int = Field(20, ge=1, le=1000, description="By Kelly: not before so many closed trades.")
    kelly_cap_percent: Decimal = Field(
        HUNDRED, gt=0, le=1000, description="By Kelly: never more than so much of equity."
    )
    maker_fee: Decimal | None = Field(
        None,
        ge=0,
        lt=1,
        description="Of a resting order's worth: 0.001 is 0.1 %. Left out: the highest of the markets'.",
    )
    taker_fee: Decimal | None = Field(
        None, ge=0, lt=1, description="Of a market order's worth. Left out: the highest of the markets'."
    )
    slippage: Decimal = Field(ZERO, ge=0, lt=1, description="By how much of the price a market order fills worse.")
    spread: Decimal = Field(ZERO, ge=0, lt=1, description="Of the price; market orders pay half of it.")
    price_margin: Decimal | None = Field(
        None, ge=0, lt=1,
        description="Kept back of the balance on top of an entry's worth. Left out: what it costs beyond its price.",
    )  # fmt: skip
    volume_share: Decimal | None = Field(
        None, gt=0, le=1, description="No order takes more of a candle's volume; the rest waits for the next."
    )
    max_entries: int = Field(1, ge=1, le=50, description="How many entry signals may add to one position.")
    leverage: Decimal = Field(ONE, ge=1, le=125, description="On markets of contracts; 1 everywhere else.")
    rests_targets: bool = Field(True, description="Targets rest at the venue and pay the maker's fee.")
    is_closed_at_end: bool = Field(False, description="What is still open at the end is closed there, not valued.")


def _limits_words() -> type[BaseModel]:
    hints = get_type_hints(Limits)
    words: dict[str, Any] = {
        one.name: (hints[one.name], Field(one.default, gt=0)) for one in fields(Limits) if one.name not in BY_HISTORY
    }
    return create_model("LimitsWords", __config__=ConfigDict(extra="forbid", frozen=True), **words)


# The fields of ``domain.limits.Limits`` that a book alone can be judged by.
LimitsWords = _limits_words()


class WrongWords(ValueError):
    """Something that was asked for makes no sense; ``problems`` are sentences by the name of the field they are about."""

    def __init__(self, problems: dict[str, list[str]]) -> None:
        super().__init__("; ".join(one for some in problems.values() for one in some))
        self.problems = problems


def settings_said(words: dict[str, Any]) -> SettingsWords:
    """The words of ``Settings`` as given. Raises WrongWords."""
    return _said("settings", SettingsWords, words)


def limits_said(words: dict[str, Any]) -> dict[str, Any]:
    """The limits that were named, as JSON. Raises WrongWords."""
    named = sorted(BY_HISTORY & set(words)) if isinstance(words, dict) else []
    if named:
        problem = (
            f"{named[0]}: wanted a limit that a book alone can be judged by, was one that needs returns of markets"
        )
        raise WrongWords({"limits": [problem]})
    said = _said("limits", LimitsWords, words).model_dump(mode="json", exclude_unset=True)
    return {name: _plain(value) for name, value in said.items()}


def plan_said(plan: ExitPlan, words: dict[str, Any]) -> ExitPlan:
    """``plan`` changed by the fields of an exit plan that ``words`` name. Raises WrongWords."""
    if not isinstance(words, dict):
        raise WrongWords({"exits": [f"wanted an object of exits, was {type(words).__name__}"]})
    return _said("exits", ExitPlan, plan.model_dump() | words)


def settings_from(settings: dict[str, Any], limits: dict[str, Any]) -> Settings:
    """The settings that were written down. Raises WrongWords."""
    terms = settings_said(settings).model_dump()
    for fee in ("maker_fee", "taker_fee"):
        terms[fee] = ZERO if terms[fee] is None else terms[fee]
    try:
        return Settings(**terms, limits=Limits(**_said("limits", LimitsWords, limits).model_dump()))
    except ValueError as error:
        raise WrongWords({"settings": [str(error)]}) from error


def written(words: SettingsWords) -> dict[str, Any]:
    """The words as they are stored, all of them."""
    return {name: _plain(value) for name, value in words.model_dump(mode="json").items()}


def _said(field: str, kind: type[M], words: Any) -> M:
    if not isinstance(words, dict):
        raise WrongWords({field: [f"wanted an object, was {type(words).__name__}"]})
    try:
        said = kind.model_validate(words)
    except ValidationError as error:
        raise WrongWords({field: [complaint(one, kind.model_fields) for one in error.errors()]}) from error
    endless = [f"{name}: {why}, was {str(value)[:60]}" for name, value in said if (why := _too_long(value))]
    if endless:
        raise WrongWords({field: endless})
    return said


def _too_long(value: Any) -> str:
    """Why a number is not taken; empty where it is."""
    if isinstance(value, Decimal) and (
        len(value.as_tuple().digits) > MOST_PLACES or abs(value.adjusted()) > MOST_PLACES
    ):
        return f"wanted a number of at most {MOST_PLACES} places"
    if isinstance(value, int) and value > LARGEST_COUNT:
        return f"wanted at most {LARGEST_COUNT}"
    return ""


def complaint(error: ErrorDetails, known: Sequence[str] | dict[str, Any]) -> str:
    """What is wrong with one word: what was wanted, and what was found."""
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{place}: wanted one of {', '.join(known)}, was none of them"
    message = complaint_text(error["msg"])
    value = error["input"]
    found = "" if isinstance(value, dict) else f", was {value if isinstance(value, Decimal) else repr(value):.60}"
    return f"{place}: {message}{found}" if place else message


def _plain(value: Any) -> Any:
    """Numbers without the zeros that they were typed with: the same words are the same text."""
    if not isinstance(value, str):
        return value
    try:
        return f"{Decimal(value).normalize():f}"
    except ArithmeticError:
        return value
