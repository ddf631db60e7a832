"""Accounts and their keys: which may be used, what they may do, and what an account holds.

Keys that may withdraw are never saved, and never used again once the venue says so. What keys may do is written only of the
keys that were asked about: an account that was given others meanwhile is neither paused nor approved for the old ones. No
verb here holds a transaction while it calls a venue.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from domain.limits import Limits
from exchanges.ccxt_gateway import CcxtGateway
from exchanges.credentials import Credentials, SealedCredentials, UnableToDecrypt
from exchanges.gateway import BalanceReport, ExchangeUnavailable, KeyRights
from exchanges.guarded_gateway import GuardedGateway
from exchanges.models import Account, Balance, Exchange, PaperBalance, RiskProfile
from exchanges.presets import LIMIT_FIELDS, preset_of, preset_values
from exchanges.services import OVERTAKEN_WITHIN, gateway_for
from exchanges.venues import venue_of
from pipeline.topics import Topic, publish, ring

logger = logging.getLogger(__name__)

KEYS_ARE_OLD_AFTER = timedelta(days=1)
MAY_WITHDRAW = "wanted keys that may trade and not withdraw, was keys that may withdraw"
NOT_CHECKED = "not checked yet: the venue could not be asked"

# What a paper account seals: it trades without keys.
NO_KEYS = Credentials("", "")


class KeysRefused(Exception):
    """These keys are not saved: the venue does not accept them, or they may do too much."""


class PaperRefused(Exception):
    """Nobody trades on paper at this exchange."""


@dataclass(frozen=True, slots=True)
class KeysExamined:
    """What ``keys_examine`` found: ``checked_at`` is None where the venue could not be asked."""

    checked_at: datetime | None
    warning: str


def account_create(
    *,
    owner: User,
    exchange: Exchange,
    name: str,
    currency: str,
    credentials: Credentials | None = None,
    paper_balance: Decimal | None = None,
    examined: KeysExamined | None = None,
) -> Account:
    """A new account with its keys sealed, or on paper with ``paper_balance`` of its currency, and a risk profile of defaults;
    its venue and balances are read soon after.

    Keys that were not ``examined`` are now, so call it in no transaction then. Raises KeysRefused or PaperRefused, and saves
    nothing.
    """
    if (credentials is None) == (paper_balance is None):
        raise ValueError("wanted either keys or a paper balance")
    if credentials is None:
        paper_require(exchange)
        keys, examined = NO_KEYS, KeysExamined(None, "")
    else:
        _require_venue(exchange)
        keys, examined = credentials, examined or keys_examine(exchange, credentials)
    with transaction.atomic():
        account = Account.objects.create(
            owner=owner, exchange=exchange, name=name, currency=currency.upper(),
            credentials=keys, key_hint=keys.hint, is_paper=paper_balance is not None,
            keys_checked_at=examined.checked_at, keys_warning=examined.warning,
        )  # fmt: skip
        RiskProfile.objects.create(account=account)
        if paper_balance is not None:
            PaperBalance.objects.create(account=account, currency=account.currency, total=paper_balance)
        if exchange.markets_synced_at is None:
            transaction.on_commit(lambda: ring("exchanges.sync", exchange_ids=[exchange.pk]), robust=True)
        transaction.on_commit(lambda: ring("orders.balances", account_ids=[account.pk]), robust=True)
    account.refresh_from_db()
    return account


def paper_require(exchange: Exchange) -> None:
    """Raises PaperRefused where the paper books cannot do what the exchange does, or where nobody trades."""
    if exchange.is_only_data:
        raise PaperRefused(f"wanted an exchange to trade at, {exchange.name} is only data")
    if why := venue_of(exchange.ccxt_id).no_paper:
        raise PaperRefused(f"wanted {why.format(name=exchange.name)}")


def account_rekey(account_id: int, credentials: Credentials, examined: KeysExamined | None = None) -> None:
    """Replace the account's keys; an account paused for its old ones is active again. One on paper has none to replace.

    Keys that were not ``examined`` are now, so call it in no transaction then. Raises KeysRefused, and changes nothing.
    """
    account = Account.objects.select_related("exchange").get(pk=account_id)
    if account.is_paper:
        return
    examined = examined or keys_examine(account.exchange, credentials, account)
    Account.objects.filter(pk=account_id).update(
        credentials=credentials, key_hint=credentials.hint, status=Account.Status.ACTIVE, status_reason="",
        keys_checked_at=examined.checked_at, keys_warning=examined.warning,
    )  # fmt: skip


def risk_profile_change(account_id: int, changes: Mapping[str, Any]) -> RiskProfile:
    """Change limits of an account: those named, or with ``preset`` all of them, and then those named beside it. Afterwards
    the profile bears the name of the preset that it is, or CUSTOM. Raises KeyError for a preset that there is not."""
    with transaction.atomic():
        Account.objects.select_for_update().get(pk=account_id)  # no order is valued by half of a change
        profile = RiskProfile.objects.get_or_create(account_id=account_id)[0]
        wanted = {name: value for name, value in changes.items() if name != "preset"}
        preset = changes.get("preset")
        if preset is not None and preset != RiskProfile.Preset.CUSTOM:
            wanted = preset_values(preset) | wanted
        for name, value in wanted.items():
            setattr(profile, name, value)
        profile.preset = preset_of({name: getattr(profile, name) for name in LIMIT_FIELDS})
        profile.save()
    return profile


def limits_of(account: Account) -> Limits:
    """The bounds of the account's risk profile; those of a new profile where it has none."""
    profile = getattr(account, "risk_profile", None) or RiskProfile(account=account)
    return Limits(**{field.name: getattr(profile, field.name) for field in fields(Limits)})


def account_pause(account_id: int, reason: str, keys: SealedCredentials | None = None) -> bool:
    """Stop using keys that the venue refuses, and say so once; whether it was this call that paused it.

    ``keys`` are those that were refused, as they were read: an account that was given others meanwhile goes on.
    """
    with transaction.atomic():
        active = Account.objects.filter(pk=account_id, status=Account.Status.ACTIVE)
        if keys is not None:
            active = active.filter(credentials=keys)
        paused = active.update(status=Account.Status.PAUSED, status_reason=reason[:200])
        if paused:
            owner_id = Account.objects.values_list("owner_id", flat=True).get(pk=account_id)
            publish(
                Topic.ALERTS, account_id, account_id=account_id, owner_id=owner_id,
                data={"alert": "ACCOUNT_PAUSED", "reason": reason[:200]},
            )  # fmt: skip
    return bool(paused)


def balances_refresh(account_id: int) -> list[BalanceReport]:
    """Read what the account holds. Raises ExchangeUnavailable; refused keys pause the account."""
    account = Account.objects.select_related("exchange").get(pk=account_id)
    asked_at = timezone.now()
    try:
        reports = gateway_for(account.exchange, account).balances()
    except ExchangeUnavailable as error:
        if error.is_refused_key:
            account_pause(account_id, str(error), keys=account.credentials)
        raise
    with transaction.atomic():
        # Locks the account: of two readers the one who asked later is right, whoever writes last.
        overtaken = Q(balances_synced_at__gte=asked_at, balances_synced_at__lt=asked_at + OVERTAKEN_WITHIN)
        if not Account.objects.filter(~overtaken, pk=account_id).update(balances_synced_at=asked_at):
            return reports
        gone = account.balances.exclude(currency__in=[report.currency for report in reports])
        gone.update(total=0, free=0, read_at=asked_at)
        Balance.objects.bulk_create(
            [
                Balance(
                    account=account, currency=report.currency, total=report.total, free=report.free, read_at=asked_at
                )
                for report in reports
            ],
            update_conflicts=True,
            unique_fields=["account", "currency"],
            update_fields=["total", "free", "read_at"],
        )
    return reports


def keys_examine(exchange: Exchange, credentials: Credentials, account: Account | None = None) -> KeysExamined:
    """Ask the venue what keys may do before they are saved; call it in no transaction.

    Raises KeysRefused for keys that the venue does not accept and for those that may withdraw. A venue that cannot be asked
    now is asked soon, by the sweep: the keys are good until then.
    """
    _require_venue(exchange)
    gateway = CcxtGateway(exchange.ccxt_id, exchange.base_url, credentials)
    pool = f"account:{account.pk}" if account is not None else f"key:{credentials.hint}"
    try:
        if not exchange.is_enabled:
            raise ExchangeUnavailable(f"wanted an exchange that is enabled, {exchange.name} is not")
        rights = GuardedGateway(gateway, exchange.ccxt_id, exchange.pk, pool).key_rights()
    except ExchangeUnavailable as error:
        if error.is_refused_key:
            raise KeysRefused(f"wanted keys that {exchange.name} accepts, was: {error}") from error
        logger.warning("new keys at %s were not checked: %s", exchange.name, error)
        return KeysExamined(None, NOT_CHECKED)
    if rights.can_withdraw:
        raise KeysRefused(MAY_WITHDRAW)
    return KeysExamined(timezone.now(), _warning_of(rights))


def accounts_with_unchecked_keys(now: datetime) -> list[int]:
    """Accounts in use whose venue has not said for a day, or never, what their keys may do."""
    old = Q(keys_checked_at=None) | Q(keys_checked_at__lt=now - KEYS_ARE_OLD_AFTER)
    asked = Account.objects.filter(old, status=Account.Status.ACTIVE, exchange__is_enabled=True, is_paper=False)
    return list(asked.values_list("pk", flat=True))


def keys_check(account_id: int) -> bool:
    """Ask the venue what the keys in use may do; whether they are good. Those that may withdraw, those that are refused and
    those that nobody can read pause their account. Raises ExchangeUnavailable when it cannot be asked."""
    account = Account.objects.select_related("exchange").get(pk=account_id)
    try:
        rights = gateway_for(account.exchange, account).key_rights()
    except UnableToDecrypt as error:
        account_pause(account_id, str(error), keys=account.credentials)
        return False
    except ExchangeUnavailable as error:
        if not error.is_refused_key:
            raise
        account_pause(account_id, str(error), keys=account.credentials)
        return False
    if rights.can_withdraw:
        account_pause(account_id, MAY_WITHDRAW, keys=account.credentials)
        return False
    # Of these keys only: others may have come while the venue was asked.
    Account.objects.filter(pk=account_id, credentials=account.credentials).update(
        keys_checked_at=timezone.now(), keys_warning=_warning_of(rights)
    )
    return True


def credentials_reseal() -> int:
    """Encrypt every account's keys anew with the first encryption key; how many there are. Raises UnableToDecrypt, and then
    changes nothing."""
    with transaction.atomic():
        accounts = list(Account.objects.select_for_update().order_by("pk"))
        for account in accounts:
            Account.objects.filter(pk=account.pk).update(credentials=account.credentials.reveal())
    return len(accounts)


def _warning_of(rights: KeyRights) -> str:
    """What is unwise about keys that are good enough."""
    warnings = []
    if rights.can_trade is False:
        warnings.append("the keys may not trade")
    if rights.can_withdraw is None:
        warnings.append("the venue does not say whether the keys may withdraw")
    if rights.is_bound_to_addresses is False:
        warnings.append("the keys work from any address: bind them to yours at the venue")
    return "; ".join(warnings)


def _require_venue(exchange: Exchange) -> None:
    if exchange.is_only_data:
        raise KeysRefused(f"wanted an exchange to trade at, {exchange.name} is only data")
