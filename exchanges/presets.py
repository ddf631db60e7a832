"""Risk profiles to begin with: every limit of an account set at once, as data.

A preset says something of each limit; what it leaves out is no limit. A profile that is changed afterwards is nobody's
preset any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from exchanges.models import RiskProfile

P = RiskProfile.Preset

# Everything that a preset sets or clears: all limits, and what they are measured by.
_FIELDS = {
    field.name: field for field in RiskProfile._meta.concrete_fields if field.name not in ("id", "account", "preset")
}
LIMIT_FIELDS: tuple[str, ...] = tuple(_FIELDS)

PRESETS: Mapping[str, Mapping[str, Any]] = {
    P.CONSERVATIVE: {
        "max_open_positions": 3,
        "max_exposure_percent": Decimal(50),
        "max_net_exposure_percent": Decimal(50),
        "max_market_exposure_percent": Decimal(20),
        "max_currency_exposure_percent": Decimal(25),
        "max_leverage": Decimal(1),
        "max_risk_per_trade_percent": Decimal("0.5"),
        "max_open_risk_percent": Decimal(2),
        "max_orders_per_minute": 5,
        "max_daily_loss_percent": Decimal(2),
        "max_drawdown_percent": Decimal(10),
        "cooldown_losses": 3,
        "cooldown_minutes": 240,
        "price_band_percent": Decimal(2),
    },
    P.BALANCED: {
        "max_open_positions": 6,
        "max_exposure_percent": Decimal(100),
        "max_net_exposure_percent": Decimal(100),
        "max_market_exposure_percent": Decimal(35),
        "max_currency_exposure_percent": Decimal(40),
        "max_leverage": Decimal(2),
        "max_risk_per_trade_percent": Decimal(1),
        "max_open_risk_percent": Decimal(5),
        "max_orders_per_minute": 10,
        "max_daily_loss_percent": Decimal(4),
        "max_drawdown_percent": Decimal(20),
        "cooldown_losses": 4,
        "cooldown_minutes": 60,
        "price_band_percent": Decimal(5),
    },
    P.AGGRESSIVE: {
        "max_open_positions": 12,
        "max_exposure_percent": Decimal(300),
        "max_net_exposure_percent": Decimal(200),
        "max_market_exposure_percent": Decimal(100),
        "max_currency_exposure_percent": Decimal(100),
        "max_leverage": Decimal(5),
        "max_risk_per_trade_percent": Decimal(2),
        "max_open_risk_percent": Decimal(12),
        "max_orders_per_minute": 30,
        "max_daily_loss_percent": Decimal(8),
        "max_drawdown_percent": Decimal(35),
        "cooldown_losses": 6,
        "cooldown_minutes": 30,
        "price_band_percent": Decimal(10),
    },
}


def preset_values(preset: str) -> dict[str, Any]:
    """Every limit field as the preset has it. Raises KeyError for one that is not in the table."""
    chosen = PRESETS[preset]
    return {name: chosen.get(name, _unset(name)) for name in LIMIT_FIELDS}


def preset_of(values: Mapping[str, Any]) -> str:
    """The preset that these limits are, or CUSTOM."""
    return next((name for name in PRESETS if preset_values(name) == {**values}), P.CUSTOM)


def _unset(name: str) -> Any:
    return None if _FIELDS[name].null else _FIELDS[name].get_default()
