"""Reading the world outside into rows: clocks, markets, quotes, balances; and handing out gateways.

No verb here holds a transaction while it calls a venue; each writes what it read with the time just before it asked.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.models import User
from django.db import connection, transaction
from django.db.models import Q
from django.utils import timezone

from exchanges.ccxt_gateway import CcxtGateway, ccxt_load
from exchanges.credentials import Credentials
from exchanges.gateway import BalanceReport, ExchangeUnavailable, Gateway, MarketReport, QuoteReport
from exchanges.models import Account, Balance, Exchange, Market, Quote, RiskProfile
from pipeline.topics import Topic, publish, ring

# Gateways a thread keeps: each holds an HTTP connection and a few MB.
GATEWAYS_PER_THREAD = 32

MARKETS_ARE_OLD_AFTER = timedelta(hours=6)
# What was read later than we asked overtook us. No request lasts as long as this: a reading later than that was written
# before our clock was set back, and counts no more.
OVERTAKEN_WITHIN = timedelta(minutes=1)

_local = threading.local()


def gateway_for(exchange: Exchange, account: Account | None = None, markets: Iterable[Market] = ()) -> Gateway:
    """A gateway to ``exchange`` in the name of ``account`` (None: public data only), knowing ``markets`` already.

    Cached per thread; keys that changed make a new one. Raises ExchangeUnavailable for an exchange that is disabled, and
    exchanges.credentials.UnableToDecrypt.
    """
    if not exchange.is_enabled:
        raise ExchangeUnavailable(f"wanted an exchange that is enabled, {exchange.name} is not")
    token = account.credentials.token if account is not None else b""
    cache: OrderedDict[Any, CcxtGateway] = _local.__dict__.setdefault("gateways", OrderedDict())
    key = (exchange.ccxt_id, exchange.base_url, token)
    gateway = cache.get(key)
    if gateway is None:
        credentials = account.credentials.reveal() if account is not None else None
        gateway = cache[key] = CcxtGateway(exchange.ccxt_id, exchange.base_url, credentials)
        if len(cache) > GATEWAYS_PER_THREAD:
            cache.popitem(last=False)
    cache.move_to_end(key)
    gateway.know((market.symbol, market.venue_info) for market in markets)
    return gateway


def gateways_warm() -> None:
    """Load what the first gateway of a process needs: 1.7 s that no order should wait for."""
    ccxt_load()


def exchanges_due(now: datetime) -> list[int]:
    """Exchanges on which somebody has an account and whose markets were never read, or long ago: what the sweep rings
    for. Nobody else's venue is called."""
    old = Q(markets_synced_at=None) | Q(markets_synced_at__lt=now - MARKETS_ARE_OLD_AFTER)
    in_use = Exchange.objects.filter(old, is_enabled=True, accounts__isnull=False)
    return list(in_use.distinct().values_list("pk", flat=True))


def exchange_sync(exchange_id: int) -> int:
    """Read the venue's clock and markets; how many markets it has. Raises ExchangeUnavailable.

    Markets the venue no longer lists are kept and marked inactive: positions and history refer to them.
    """
    exchange = Exchange.objects.get(pk=exchange_id)
    gateway = gateway_for(exchange)
    asked_at = timezone.now()
    reports = gateway.markets()
    with transaction.atomic():
        Market.objects.bulk_create(
            [_market_of(exchange, report, asked_at) for report in reports],
            update_conflicts=True,
            unique_fields=["exchange", "symbol"],
            update_fields=[
                "base",
                "quote",
                "kind",
                "tick_size",
                "lot_size",
                "min_quantity",
                "max_quantity",
                "min_notional",
                "contract_size",
                "maker_fee",
                "taker_fee",
                "is_active",
                "venue_info",
                "synced_at",
            ],  # fmt: skip
        )
        exchange.markets.filter(synced_at__lt=asked_at).update(is_active=False)
    exchange_clock_sync(exchange_id)
    # Last: a venue whose clock could not be read is not read yet, and the sweep asks again.
    Exchange.objects.filter(pk=exchange_id).update(markets_synced_at=asked_at)
    return len(reports)


def exchange_clock_sync(exchange_id: int) -> datetime:
    """Read the venue's clock alone; its time. Raises ExchangeUnavailable."""
    exchange = Exchange.objects.get(pk=exchange_id)
    venue_at = gateway_for(exchange).time()
    # Our time is taken after the answer: the venue's clock is then never ahead of the truth, and a candle that is still
    # open is never taken for closed.
    Exchange.objects.filter(pk=exchange_id).update(clock_anchor_at=timezone.now(), clock_venue_at=venue_at)
    return venue_at


def quotes_refresh(exchange_id: int, symbols: Sequence[str]) -> int:
    """Read the last prices of ``symbols``, one call for all of them; how many came. Raises ExchangeUnavailable."""
    exchange = Exchange.objects.get(pk=exchange_id)
    markets = {market.symbol: market for market in exchange.markets.filter(symbol__in=list(symbols))}
    asked_at = timezone.now()
    reports = gateway_for(exchange, markets=markets.values()).quotes(list(markets))
    with transaction.atomic():
        stored = Quote.objects.select_for_update().filter(market__in=markets.values()).order_by("pk")
        overtaken = {quote.market_id for quote in stored if asked_at <= quote.quoted_at < asked_at + OVERTAKEN_WITHIN}
        quotes = [
            Quote(market=markets[report.symbol], bid=report.bid, ask=report.ask, last=report.last, quoted_at=asked_at)
            for report in sorted(reports, key=lambda report: markets[report.symbol].pk)
            if markets[report.symbol].pk not in overtaken
        ]
        Quote.objects.bulk_create(
            quotes,
            update_conflicts=True,
            unique_fields=["market"],
            update_fields=["bid", "ask", "last", "quoted_at"],
        )
    return len(reports)


def quotes_store(rows: Sequence[tuple[int, QuoteReport, datetime]]) -> int:
    """Keep prices that came by themselves, as (market, price, our time of it): one statement, the newest wins; how many
    were newer than what is known."""
    newest = {market_id: (report, at) for market_id, report, at in sorted(rows, key=lambda row: row[2])}
    if not newest:
        return 0
    # In the order of their ids, as quotes_refresh locks them.
    ids = sorted(newest)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO exchanges_quote AS q (market_id, bid, ask, last, quoted_at)
            SELECT * FROM unnest(%s::bigint[], %s::numeric[], %s::numeric[], %s::numeric[], %s::timestamptz[])
            ON CONFLICT (market_id) DO UPDATE
            SET bid = excluded.bid, ask = excluded.ask, last = excluded.last, quoted_at = excluded.quoted_at
            WHERE q.quoted_at < excluded.quoted_at OR q.quoted_at >= excluded.quoted_at + make_interval(secs => %s)
            """,
            [
                ids,
                *([getattr(newest[pk][0], name) for pk in ids] for name in ("bid", "ask", "last")),
                [newest[pk][1] for pk in ids],
                OVERTAKEN_WITHIN.total_seconds(),
            ],
        )
        return int(cursor.rowcount)


def balances_refresh(account_id: int) -> list[BalanceReport]:
    """Read what the account holds. Raises ExchangeUnavailable; refused keys pause the account."""
    account = Account.objects.select_related("exchange").get(pk=account_id)
    asked_at = timezone.now()
    try:
        reports = gateway_for(account.exchange, account).balances()
    except ExchangeUnavailable as error:
        if error.is_refused_key:
            account_pause(account_id, str(error))
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


def account_create(*, owner: User, exchange: Exchange, name: str, currency: str, credentials: Credentials) -> Account:
    """A new account with its keys sealed and a risk profile of defaults; its venue and balances are read soon after."""
    with transaction.atomic():
        account = Account.objects.create(
            owner=owner, exchange=exchange, name=name, currency=currency.upper(),
            credentials=credentials, key_hint=credentials.hint,
        )  # fmt: skip
        RiskProfile.objects.create(account=account)
        if exchange.markets_synced_at is None:
            transaction.on_commit(lambda: ring("exchanges.sync", exchange_ids=[exchange.pk]), robust=True)
        transaction.on_commit(lambda: ring("orders.balances", account_ids=[account.pk]), robust=True)
    account.refresh_from_db()
    return account


def account_rekey(account_id: int, credentials: Credentials) -> None:
    """Replace the account's keys; an account paused for its old ones is active again."""
    Account.objects.filter(pk=account_id).update(
        credentials=credentials, key_hint=credentials.hint, status=Account.Status.ACTIVE, status_reason=""
    )


def credentials_reseal() -> int:
    """Encrypt every account's keys anew with the first encryption key; how many there are. Raises UnableToDecrypt, and then
    changes nothing."""
    with transaction.atomic():
        accounts = list(Account.objects.select_for_update().order_by("pk"))
        for account in accounts:
            Account.objects.filter(pk=account.pk).update(credentials=account.credentials.reveal())
    return len(accounts)


def account_pause(account_id: int, reason: str) -> bool:
    """Stop using keys that the venue refuses, and say so once; whether it was this call that paused it."""
    with transaction.atomic():
        paused = Account.objects.filter(pk=account_id, status=Account.Status.ACTIVE).update(
            status=Account.Status.PAUSED, status_reason=reason[:200]
        )
        if paused:
            owner_id = Account.objects.values_list("owner_id", flat=True).get(pk=account_id)
            publish(
                Topic.ALERTS, account_id, account_id=account_id, owner_id=owner_id,
                data={"alert": "ACCOUNT_PAUSED", "reason": reason[:200]},
            )  # fmt: skip
    return bool(paused)


def _market_of(exchange: Exchange, report: MarketReport, at: datetime) -> Market:
    rules = report.rules
    return Market(
        exchange=exchange,
        symbol=rules.symbol,
        base=rules.base,
        quote=rules.quote,
        kind=report.kind,
        tick_size=rules.tick_size,
        lot_size=rules.lot_size,
        min_quantity=rules.min_quantity,
        max_quantity=rules.max_quantity,
        min_notional=rules.min_notional,
        contract_size=rules.contract_size,
        maker_fee=rules.maker_fee,
        taker_fee=rules.taker_fee,
        is_active=report.is_active,
        venue_info=report.venue_info,
        synced_at=at,
    )
