"""An account's risk at a glance: what it is concentrated in, what it may lose, and how far it is from each of its limits."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.db.models import Q, QuerySet

from domain.limits import Book, Candidate, Limits, Past, Returns, periods_of, portfolio, weigh
from domain.market import ZERO, PositionSide
from domain.risk import VarMethod, book_risk, correlations
from exchanges.accounts import limits_of
from exchanges.models import Account
from money.book import account_book
from money.history import day_start_equity, past_of, peak_equity, returns_of
from money.models import TradingHalt
from positions.models import LIVE_POSITIONS, Position

HUNDRED = Decimal(100)


def account_risk(account: Account, now: datetime) -> dict[str, Any]:
    """Concentration, correlation, value at risk by all three methods, losses, and every limit that is set with its figure,
    bound and margin. Amounts in the account's currency, ``now`` our time; None where something is not known."""
    limits = limits_of(account)
    book = account_book(account)
    if book is None:
        return {"account": account.pk, "currency": account.currency, "equity": None, "halts": list(_halts(account))}
    seen = book.seen
    returns = returns_of(account.exchange_id, seen.by("market")) if seen.holdings else None
    held = portfolio(seen, returns) if returns is not None else None
    return {
        "account": account.pk,
        "currency": account.currency,
        "equity": book.equity,
        "free_balance": book.free_balance,
        "exposure": seen.exposure,
        "net_exposure": seen.net_exposure,
        "open_risk": seen.open_risk,
        "open_positions": book.open_positions,
        "by_market": _concentration(seen, "market"),
        "by_currency": _concentration(seen, "base"),
        "correlations": _correlations(returns) if held is not None else None,
        "value_at_risk": [_value_at_risk(seen, limits, returns, method) for method in VarMethod],
        "daily_loss": _loss(day_start_equity(account, now), book.equity),
        "drawdown": _loss(peak_equity(account), book.equity),
        "limits": _limits(account, limits, seen, returns, now),
        "halts": list(_halts(account)),
    }


def _concentration(book: Book, name: str) -> list[dict[str, Any]]:
    """Largest first; a market or currency that is long here and short there counts both in ``exposure``."""
    rows = []
    for key, net in book.by(name).items():
        gross = sum((abs(one.notional) for one in book.of(**{name: key})), ZERO)
        percent = gross / book.equity * HUNDRED if book.equity > 0 else None
        rows.append({"name": key, "net": net, "exposure": gross, "percent_of_equity": percent})
    return sorted(rows, key=lambda row: row["exposure"], reverse=True)


def _correlations(returns: Returns | None) -> dict[str, Any] | None:
    if returns is None:
        return None
    matrix = correlations(returns.matrix)
    return {
        "markets": list(returns.markets),
        "matrix": [[round(float(value), 6) for value in row] for row in matrix],
        "periods": len(returns.matrix),
        "period_seconds": int(returns.period.total_seconds()),
    }


def _value_at_risk(book: Book, limits: Limits, returns: Returns | None, method: VarMethod) -> dict[str, Any]:
    told: dict[str, Any] = {
        "method": method.value, "confidence": limits.var_confidence, "horizon_hours": limits.var_horizon_hours,
        "var": None, "cvar": None, "detail": "",
    }  # fmt: skip
    if not book.holdings:
        return told | {"var": ZERO, "cvar": ZERO}
    held = portfolio(book, returns) if returns is not None else None
    if returns is None or held is None:
        return told | {"detail": "wanted candles of every market held over the same time, was too few"}
    try:
        risk = book_risk(
            returns.matrix, held, method=method, confidence=limits.var_confidence, horizon=periods_of(limits, returns)
        )
    except ValueError as error:
        return told | {"detail": str(error)}
    return told | {"var": round(Decimal(risk.var), 8), "cvar": round(Decimal(risk.cvar), 8)}


def _loss(before: Decimal | None, equity: Decimal) -> dict[str, Any] | None:
    """How far equity is below an earlier figure; None where there is no earlier figure."""
    if before is None:
        return None
    amount = max(before - equity, ZERO)
    return {"since": before, "amount": amount, "percent": amount / before * HUNDRED if before > 0 else None}


def _limits(
    account: Account, limits: Limits, book: Book, returns: Returns | None, now: datetime
) -> list[dict[str, Any]]:
    """Every limit that is set, as it would be measured for one more long position, without a stop, where the account is
    concentrated most already."""
    largest = max(book.holdings, key=lambda one: abs(one.notional), default=None)
    if largest is None:  # nothing is held, and so nothing to be lost or correlated
        limits = replace(limits, max_correlated_exposure_percent=None, max_var_percent=None, max_cvar_percent=None)
    live = Position.objects.filter(account=account, status__in=LIVE_POSITIONS)
    levers = live.values_list("leverage", flat=True)
    candidate = Candidate(
        market=largest.market if largest is not None else "",
        base=largest.base if largest is not None else "",
        side=PositionSide.LONG,
        risk_fraction=Decimal(1),
        leverage=max(levers, default=Decimal(1)),
    )
    past: Past = past_of(account, limits, None, now)
    checks = weigh(limits, book, past, candidate, ZERO, returns, account.exchange.time_at(now))
    return [check.told(ZERO, ZERO) for check in checks]


def _halts(account: Account) -> QuerySet[TradingHalt]:
    """Halts in force that the account, or a session of it, is under."""
    everywhere = Q(session=None, account=None, owner=None)
    of = Q(account=account) | Q(session__account=account) | Q(owner=account.owner_id) | everywhere
    return TradingHalt.objects.filter(of, lifted_at=None).order_by("tripped_at")
