"""How the exchange behaves where a real one varies: policies, delays, limits. Set by POST /_sim/settings at any moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any


class DuplicatePolicy(StrEnum):
    """When a client order id may not be used again."""

    ACTIVE = "active"  # while an order with it is live
    ALWAYS = "always"  # ever again
    NEVER = "never"  # it always may


class Status(StrEnum):
    OPEN = "open"
    CANCEL_ONLY = "cancelonly"
    CLOSE = "close"


# Weights per 30 seconds: KuCoin's for an ordinary account (VIP 0).
LIMIT_WINDOW_MS = 30_000
POOLS = {"spot": 4_000, "futures": 2_000, "management": 2_000, "public": 2_000}


@dataclass(slots=True)
class Settings:
    """Wall-clock milliseconds for what happens to requests, market-time seconds for what happens in the market."""

    duplicates: DuplicatePolicy = DuplicatePolicy.ACTIVE
    status: Status = Status.OPEN
    status_message: str = ""
    cancel_delay_ms: int = 0  # a cancel takes effect so much later; until then the order may fill
    read_lag_ms: int = 0  # reads of orders and fills show what was true so long ago
    fill_ratio: Decimal = Decimal(1)  # how much of a resting order fills each time the price meets it
    fill_pause_ms: int = 1_000  # market time from one partial fill to the next chance
    keep_filled_s: int | None = None  # how long a done order can be read; None: for ever
    keep_canceled_s: int | None = None
    candle_lag_ms: int = 0  # candles show what was true so long ago
    clock_offset_ms: int = 0  # the exchange's clock, by which it judges signatures, is ahead by so much
    enforces_limits: bool = False  # the pools are always counted and shown; over the limit requests fail only if True
    limits: dict[str, int] = field(default_factory=lambda: dict(POOLS))
    changes: int = 0  # how often somebody changed them

    def wire(self) -> dict[str, Any]:
        """Everything, in the names of the control API."""
        return {name: _shown(getattr(self, attribute)) for name, (attribute, _) in _SETTINGS.items()}

    def change(self, body: Mapping[str, Any]) -> None:
        """Take over what ``body`` names, all or nothing; ValueError says what is wrong with it."""
        unknown = sorted(set(body) - set(_SETTINGS))
        if unknown:
            raise ValueError(f"wanted fields among {', '.join(_SETTINGS)}, was {', '.join(unknown)}")
        changes = {}
        for name, value in body.items():
            attribute, read = _SETTINGS[name]
            changes[attribute] = read(name, value)
        self.changes += 1
        for attribute, value in changes.items():
            if attribute == "limits":
                value = {**self.limits, **value}
            setattr(self, attribute, value)


def _shown(value: Any) -> Any:
    return str(value) if isinstance(value, Decimal | StrEnum) else value


def _choice(choices: type[StrEnum]) -> Callable[[str, Any], StrEnum]:
    def read(name: str, value: Any) -> StrEnum:
        if value not in list(choices):
            *first, last = choices
            raise ValueError(f"wanted {name} to be {', '.join(first)} or {last}, was {value!r}")
        return choices(value)

    return read


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 10**9:
        raise ValueError(f"wanted {name} to be a whole number from 0 to 1000000000, was {value!r}")
    return value


def _whole_or_none(name: str, value: Any) -> int | None:
    return None if value is None else _whole(name, value)


def _signed(name: str, value: Any) -> int:
    return -_whole(name, -value) if isinstance(value, int) and value < 0 else _whole(name, value)


def _ratio(name: str, value: Any) -> Decimal:
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        number = Decimal("NaN")
    if isinstance(value, bool) or not number.is_finite() or not 0 < number <= 1:
        raise ValueError(f"wanted {name} to be above 0 and at most 1, was {value!r}")
    return number


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"wanted {name} to be text, was {value!r}")
    return value


def _truth(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"wanted {name} to be true or false, was {value!r}")
    return value


def _limits(name: str, value: Any) -> dict[str, int]:
    if not isinstance(value, dict) or not set(value) <= set(POOLS):
        raise ValueError(f'wanted {name} such as {{"spot": 4000}}, of {", ".join(POOLS)}, was {value!r}')
    return {pool: max(1, _whole(f"{name}.{pool}", weight)) for pool, weight in value.items()}


_SETTINGS: dict[str, tuple[str, Callable[[str, Any], Any]]] = {
    "duplicateClientOid": ("duplicates", _choice(DuplicatePolicy)),
    "status": ("status", _choice(Status)),
    "statusMessage": ("status_message", _text),
    "cancelDelayMs": ("cancel_delay_ms", _whole),
    "readLagMs": ("read_lag_ms", _whole),
    "fillRatio": ("fill_ratio", _ratio),
    "fillPauseMs": ("fill_pause_ms", _whole),
    "keepFilledS": ("keep_filled_s", _whole_or_none),
    "keepCanceledS": ("keep_canceled_s", _whole_or_none),
    "candleLagMs": ("candle_lag_ms", _whole),
    "clockOffsetMs": ("clock_offset_ms", _signed),
    "enforceRateLimits": ("enforces_limits", _truth),
    "rateLimits": ("limits", _limits),
}
