"""The settings of a class written for freqtrade as ours: its parameters with their bounds, and how its positions are left.

Percentages of ours are parts of theirs; a stop is of the price. Its table of gains counts from the entry, as ours does.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal

from pydantic import Field, create_model

from domain.exit_plan import ExitPlan, RoiStep, TargetLevel
from domain.strategy import Parameters
from strategies.freqtrade.shims import IStrategy, Parameter, Unsupported

HUNDRED = Decimal(100)
NO_STAKE = "USDT"
# Plans end at so many times the price: a table that asks for more never asks.
MOST_GAIN = 10
# By the name that is asked for, the older names that mean the same.
OLDER = {
    "custom_exit": "custom_sell",
    "populate_entry_trend": "populate_buy_trend",
    "populate_exit_trend": "populate_sell_trend",
    "use_exit_signal": "use_sell_signal",
    "exit_profit_only": "sell_profit_only",
    "exit_profit_offset": "sell_profit_offset",
    "timeframe": "ticker_interval",
}


def saved_apply(kind: type[IStrategy], saved: dict[str, Any]) -> None:
    """What an optimiser of theirs found, saved beside the file."""
    if "roi" in saved:
        kind.minimal_roi = saved["roi"]
    kind.stoploss = saved.get("stoploss", {}).get("stoploss", kind.stoploss)
    for name, value in saved.get("trailing", {}).items():
        setattr(kind, name, value)
    for space, values in saved.items():
        if space not in ("roi", "stoploss", "trailing", "max_open_trades"):
            setattr(kind, f"{space}_params", {**getattr(kind, f"{space}_params", {}), **values})


def parameters_of(kind: type[IStrategy], parameters: dict[str, Parameter], *, asks_for_stake: bool) -> type[Parameters]:
    stop = Decimal(str(kind.stoploss)) * -HUNDRED
    fields: dict[str, Any] = {
        "stop_loss_percent": (
            Decimal | None,
            Field(
                default=stop if 0 < stop < HUNDRED else None, gt=0, lt=100, title="Stop-loss, %",
                description="Leave when the price is this far against us.",
            ),
        ),
        "take_profit_percent": (
            Decimal | None,
            Field(
                default=None, gt=0, le=1000, title="Take-profit, %",
                description="Leave when the price is this far for us, beside its own table of gains.",
            ),
        ),
    }  # fmt: skip
    if asks_for_stake:
        fields["stake_currency"] = (
            str,
            Field(
                default=NO_STAKE, title="Stake currency", description="What the markets that it looks at are quoted in."
            ),
        )
    for name, one in parameters.items():
        fields[name] = _field(name, one, _chosen(kind, name, one))
    return create_model(f"{kind.__name__}Parameters", __base__=Parameters, **fields)


def _chosen(kind: type[IStrategy], name: str, one: Parameter) -> Any:
    """A parameter's value: of the dictionary of its space, else its default."""
    space = one.space or name.partition("_")[0]
    values = getattr(kind, f"{space}_params", None) or {}
    return values.get(name, one.default)


def _field(name: str, one: Any, value: Any) -> tuple[Any, Any]:
    told: dict[str, Any] = {"title": name.replace("_", " ").capitalize(), "description": "Of the strategy's file."}
    if one.kind == "bool":
        return bool, Field(default=bool(value), **told)
    if one.kind == "category":
        if value not in one.opt_range:
            raise ValueError(f"wanted for {name} one of {one.opt_range}, was {value!r}")
        names = tuple(str(category) for category in one.opt_range)
        return Literal[names], Field(default=str(value), **told)
    bounds: dict[str, Any] = {"ge": one.low, "le": one.high}
    if one.kind == "int":
        return int, Field(default=int(value), **bounds, **told)
    if one.kind == "float":
        return float, Field(default=float(value), **bounds, **told)
    exact: dict[str, Any] = {edge: Decimal(str(bound)) for edge, bound in bounds.items()}
    return Decimal, Field(
        default=Decimal(str(round(value, one.decimals))), decimal_places=one.decimals, **exact, **told
    )


def value_of(one: Any, value: Any) -> Any:
    """The value that the strategy's own code sees."""
    if one.kind == "category":
        return next(category for category in one.opt_range if str(category) == value)
    return float(value) if one.kind == "decimal" else value


# -- exits ----------------------------------------------------------------------------------------------------------------


def exits_of(kind: type[IStrategy], parameters: Parameters, *, is_advised: bool) -> dict[str, Any]:
    """What of its settings our plan says. Where it has an adviser, exit signals are that one's: it knows the position."""
    target = parameters.take_profit_percent
    plan: dict[str, Any] = {
        "is_exit_signal_used": bool(setting_of(kind, "use_exit_signal")) and not is_advised,
        "targets": () if target is None else (TargetLevel(percent=target),),
        **_gains(kind.minimal_roi),
    }
    if kind.trailing_stop:
        stop = abs(Decimal(str(kind.stoploss)))
        near = kind.trailing_stop_positive
        distance = stop if near is None or second_trailing(kind) else Decimal(str(near))
        plan["trailing_percent"] = distance * HUNDRED if distance < 1 else None
        if kind.trailing_only_offset_is_reached:
            plan["trailing_activation_percent"] = Decimal(str(kind.trailing_stop_positive_offset)) * HUNDRED
    return plan


def plan_levered(plan: ExitPlan, leverage: Decimal) -> ExitPlan:
    """A plan whose parts are of the margin, as one whose parts are of the price."""
    changes: dict[str, Any] = {
        name: None if (percent := getattr(plan, name)) is None else percent / leverage
        for name in ("stop_loss_percent", "trailing_percent", "trailing_activation_percent")
    }
    changes["roi"] = tuple(RoiStep(minutes=one.minutes, percent=one.percent / leverage) for one in plan.roi)
    changes["targets"] = tuple(TargetLevel(percent=one.percent / leverage) for one in plan.targets)
    return plan.model_copy(update=changes)


def _gains(table: dict[Any, float]) -> dict[str, Any]:
    """A table of gains by minutes as steps, and what asks for a loss of everything as the longest time to hold."""
    steps, longest = [], None
    for minutes, gain in sorted((int(minutes), Decimal(str(gain))) for minutes, gain in table.items()):
        if gain <= -1:
            longest = max(minutes, 1)
            break
        if gain < 0:
            raise Unsupported(f"wanted in minimal_roi gains, or -1 to leave, was {gain} after {minutes} minutes")
        steps.append(RoiStep(minutes=minutes, percent=min(gain, Decimal(MOST_GAIN)) * HUNDRED))
    return {"roi": tuple(steps), "max_hold_minutes": longest}


def second_trailing(kind: type[IStrategy]) -> tuple[float, float, float] | None:
    """A trailing stop that comes nearer once the gain was far enough: no plan of ours says this, so its adviser does."""
    near, offset = kind.trailing_stop_positive, kind.trailing_stop_positive_offset
    if not kind.trailing_stop or near is None or offset <= 0 or kind.trailing_only_offset_is_reached:
        return None
    return abs(kind.stoploss), near, offset


def setting_of(kind: type[IStrategy], name: str) -> Any:
    """A setting by its name, or by the older one where the class says only that."""
    older = OLDER.get(name, name)
    for one in kind.__mro__:
        if one is IStrategy:
            break
        for known in (name, older):
            if known in vars(one):
                return vars(one)[known]
    return getattr(IStrategy, name)


def has_one(kind: type[IStrategy], name: str) -> bool:
    return hasattr(kind, name) or hasattr(kind, OLDER.get(name, name))
