"""The group that makes a member of staff a trader: what they may do in the admin, always with their own rows only."""

from __future__ import annotations

from typing import Any

from django.apps import apps as installed
from django.contrib.auth.management import create_permissions

GROUP = "Traders"

# App and model, and what a trader may do with its rows. Everything else of the platform's is superusers' business.
PERMISSIONS: dict[tuple[str, str], tuple[str, ...]] = {
    ("exchanges", "account"): ("view", "add", "change", "delete"),
    ("exchanges", "riskprofile"): ("view", "add", "change"),
    ("exchanges", "balance"): ("view",),
    ("exchanges", "exchange"): ("view",),
    ("exchanges", "market"): ("view",),
    ("exchanges", "quote"): ("view",),
    ("marketdata", "feed"): ("view",),
    ("marketdata", "backfill"): ("view", "add", "change"),
    ("marketdata", "candlegap"): ("view",),
    ("marketdata", "quarantinedcandle"): ("view",),
    ("marketdata", "candlerevision"): ("view",),
    ("strategies", "strategyconfig"): ("view", "add", "change", "delete"),
    ("strategies", "signal"): ("view",),
    ("trading_sessions", "tradingsession"): ("view", "add", "change", "delete"),
    ("trading_sessions", "sessiongroup"): ("view", "add", "change"),
    ("orders", "order"): ("view",),
    ("orders", "fill"): ("view",),
    ("orders", "funding"): ("view",),
    ("positions", "position"): ("view",),
    ("positions", "discrepancy"): ("view",),
    ("backtesting", "backtestrun"): ("view", "add", "change", "delete"),
    ("backtesting", "study"): ("view", "add", "change", "delete"),
    ("money", "valuation"): ("view",),
    ("money", "equitypoint"): ("view",),
    ("money", "tradinghalt"): ("view", "add", "change"),
    ("pipeline", "event"): ("view",),
    ("knox", "authtoken"): ("view", "delete"),
}


def traders_group_ensure(apps: Any = installed) -> None:
    """Make the group with its permissions where it is missing. ``apps`` is a migration's own registry when it calls."""
    for label in sorted({label for label, _ in PERMISSIONS}):
        # Django makes permissions after all migrations; this needs them now.
        create_permissions(installed.get_app_config(label), apps=apps, verbosity=0)
    group, _ = apps.get_model("auth", "Group").objects.get_or_create(name=GROUP)
    permission = apps.get_model("auth", "Permission")
    for (label, model), actions in PERMISSIONS.items():
        codenames = [f"{verb}_{model}" for verb in actions]
        group.permissions.add(
            *permission.objects.filter(content_type__app_label=label, content_type__model=model, codename__in=codenames)
        )
