"""Reading exchanges into rows: clocks, status, markets, quotes; and handing out gateways to them.

No verb here holds a transaction while it calls a venue; each writes what it read with the time just before it asked.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models import Q
from django.utils import timezone

from exchanges.ccxt_gateway import CcxtGateway, ccxt_load
from exchanges.gateway import ExchangeUnavailable, Gateway, MarketReport, QuoteReport, VenueStatus
from exchanges.guarded_gateway import GuardedGateway, breaker_of
from exchanges.models import Account, Exchange, Market, Quote
from exchanges.paper_gateway import PaperGateway
from exchanges.venues import venue_of
from pipeline.topics import Note, Topic, publish_all

# Gateways a thread keeps: each holds an HTTP connection and a few MB.
GATEWAYS_PER_THREAD = 32

MARKETS_ARE_OLD_AFTER = timedelta(hours=6)
# What was read later than we asked overtook us. No request lasts as long as this: a reading later than that was written
# before our clock was set back, and counts no more.
OVERTAKEN_WITHIN = timedelta(minutes=1)
STATUS_IS_OLD_AFTER = timedelta(seconds=55)

_local = threading.local()


def gateway_for(exchange: Exchange, account: Account | None = None, markets: Iterable[Market] = ()) -> Gateway:
    """A gateway to ``exchange`` in the name of ``account`` (None: public data only), knowing ``markets`` already, behind the
    rate budgets and the circuit breaker that all workers share.

    A paper account trades in its own books, at the prices of the public gateway. Cached per thread; keys that changed make
    a new one. Raises ExchangeUnavailable for an exchange that is disabled, and exchanges.credentials.UnableToDecrypt.
    """
    if not exchange.is_enabled:
        raise ExchangeUnavailable(f"wanted an exchange that is enabled, {exchange.name} is not")
    if exchange.is_only_data:
        raise ExchangeUnavailable(f"wanted an exchange that can be called, {exchange.name} is only data")
    if account is not None and account.is_paper:
        return PaperGateway(exchange, account.pk, lambda markets: gateway_for(exchange, markets=markets))
    token = account.credentials.token if account is not None else b""
    cache: OrderedDict[Any, tuple[CcxtGateway, Gateway]] = _local.__dict__.setdefault("gateways", OrderedDict())
    key = (exchange.pk, exchange.ccxt_id, exchange.base_url, exchange.public_weight, account and account.pk, token)
    if key not in cache:
        gateway = CcxtGateway(
            exchange.ccxt_id, exchange.base_url, account.credentials.reveal() if account is not None else None
        )
        pool = f"account:{account.pk}" if account is not None else ""
        cache[key] = gateway, GuardedGateway(gateway, exchange.ccxt_id, exchange.pk, pool, exchange.public_weight)
        if len(cache) > GATEWAYS_PER_THREAD:
            cache.popitem(last=False)
    cache.move_to_end(key)
    opened, guarded = cache[key]
    opened.know((market.symbol, market.venue_info) for market in markets)
    return guarded


def rests_exits(account: Account) -> bool:
    """Whether stop orders can rest at the account's venue, as many as are wanted for what is held: they are looked up by our
    id, and hold nothing while they wait. Asks nobody."""
    return account.is_paper or venue_of(account.exchange.ccxt_id).stops is not None


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


def exchanges_to_read_status_of(now: datetime) -> list[int]:
    """Exchanges in use whose status was read a minute ago; one that takes no orders, or no calls, is asked every time."""
    is_bad = ~Q(status=VenueStatus.OPEN) | Q(unreachable_at__isnull=False)
    old = Q(status_read_at=None) | Q(status_read_at__lt=now - STATUS_IS_OLD_AFTER) | is_bad
    return list(
        Exchange.objects.filter(old, is_enabled=True, accounts__isnull=False).distinct().values_list("pk", flat=True)
    )


def exchange_status_read(exchange_id: int) -> str:
    """Ask the venue whether it takes orders; what it says. Each change, and each loss and return of the venue, is told once
    to every trader with an account there. Raises ExchangeUnavailable, when the circuit is open after having told of it."""
    exchange = Exchange.objects.get(pk=exchange_id)
    asked_at = timezone.now()
    try:
        report = gateway_for(exchange).status()
    except ExchangeUnavailable as error:
        if breaker_of(exchange_id).is_open():
            _exchange_lost(exchange, str(error))
        raise
    status, message = report.status, report.message[:200]
    with transaction.atomic():
        # Locked: of two readers the one who asked later is right, and each change has one teller.
        was = Exchange.objects.select_for_update().get(pk=exchange_id)
        if was.status_read_at and asked_at <= was.status_read_at < asked_at + OVERTAKEN_WITHIN:
            return was.status
        Exchange.objects.filter(pk=exchange_id).update(
            status=status, status_message=message, status_read_at=asked_at, unreachable_at=None
        )
        if was.unreachable_at is not None:
            _tell_owners(exchange, "VENUE_REACHABLE", since=was.unreachable_at)
        if was.status != status:
            _tell_owners(exchange, "VENUE_STATUS", status=status, was=was.status, message=message)
    return status


def _exchange_lost(exchange: Exchange, reason: str) -> None:
    with transaction.atomic():
        reached = Exchange.objects.filter(pk=exchange.pk, unreachable_at=None)
        if reached.update(unreachable_at=timezone.now()):
            _tell_owners(exchange, "VENUE_UNREACHABLE", reason=reason[:200])


def _tell_owners(exchange: Exchange, alert: str, **facts: Any) -> None:
    """One alert to each trader with accounts at ``exchange``, under the first of them."""
    firsts = exchange.accounts.order_by("owner_id", "pk").distinct("owner_id").values_list("pk", "owner_id")
    publish_all(
        Topic.ALERTS,
        [
            Note(
                key=account_id,
                ids={"account_id": account_id, "owner_id": owner_id, "exchange_id": exchange.pk},
                data={"alert": alert, "exchange": exchange.name, **facts},
            )
            for account_id, owner_id in firsts
        ],
    )


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
