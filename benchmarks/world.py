"""The rows a benchmark trades with, made as the services leave them but by the thousand, and the venue they point at."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import requests
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from domain.candles import Timeframe
from domain.sizing import SizingMethod
from exchanges.credentials import Credentials
from exchanges.gateway import CandleReport
from exchanges.models import Account, Balance, Exchange, Market, RiskProfile
from exchanges.services import exchange_clock_sync, exchange_sync, quotes_refresh
from marketdata.models import Feed
from marketdata.services import candles_store, feed_ensure
from pipeline.topics import Topic, publish
from sessions.models import SessionStatus, TradingSession
from strategies.models import StrategyConfig

PRICE = "50000"
FUNDS = "10000000"
STAKE = Decimal(100)
# Three falling closes and a jump: the average of two candles crosses the average of three on the last of them.
FALL_AND_JUMP = ("50000", "49990", "49980", "51000")
PARAMETERS = {"fast": 2, "slow": 3}

_numbers = itertools.count(1)


@dataclass
class Venue:
    """The simulated exchange, its market clock stopped and its price pinned, as rows and as an address."""

    url: str
    exchange: Exchange
    owner: User

    @classmethod
    def at(cls, url: str, name: str = "bench") -> Venue:
        """Read the exchange at ``url`` into a database that knows none of this ``name``."""
        owner = User.objects.create_user(name)
        exchange = Exchange.objects.create(name=name, ccxt_id="kucoin", base_url=url, clock_speed=0.0)
        venue = cls(url, exchange, owner)
        venue.control("market/BTC-USDT/price", price=PRICE)
        exchange_sync(exchange.pk)
        quotes_refresh(exchange.pk, ["BTC/USDT"])
        exchange.refresh_from_db()
        return venue

    def control(self, path: str, /, **body: Any) -> dict[str, Any]:
        """POST to the simulator's control API."""
        response = requests.post(f"{self.url}/_sim/{path}", json=body, timeout=30)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    @property
    def now(self) -> datetime:
        return self.exchange.time_at(timezone.now())

    def market(self, symbol: str = "BTC/USDT") -> Market:
        return Market.objects.get(exchange=self.exchange, symbol=symbol)

    def step(self, seconds: int) -> None:
        """Move the market clock on, and what we know of it."""
        self.control("clock", advance_s=seconds)
        exchange_clock_sync(self.exchange.pk)
        self.exchange.refresh_from_db()

    def accounts(self, count: int) -> list[Account]:
        """Accounts there and here, each with its own keys, plenty of funds and no limits."""
        now = timezone.now()
        made = []
        for _ in range(count):
            key = f"bench-{next(_numbers):06}"
            credentials = Credentials(key, f"secret-{key}", f"pass-{key}")
            self.control(
                "accounts", apiKey=key, secret=credentials.secret, passphrase=credentials.passphrase,
                balances={"USDT": FUNDS},
            )  # fmt: skip
            made.append(
                Account(
                    owner=self.owner, exchange=self.exchange, name=key, currency="USDT", credentials=credentials,
                    balances_synced_at=now, keys_checked_at=now,
                )
            )  # fmt: skip
        with transaction.atomic():  # or a worker that sees an account without its balances reads them first
            accounts = list(
                Account.objects.in_bulk([account.pk for account in Account.objects.bulk_create(made)]).values()
            )
            RiskProfile.objects.bulk_create(
                RiskProfile(account=account, max_open_positions=None) for account in accounts
            )
            Balance.objects.bulk_create(
                Balance(account=account, currency="USDT", total=Decimal(FUNDS), free=Decimal(FUNDS), read_at=now)
                for account in accounts
            )
        return accounts

    def feed(self, timeframe: Timeframe, symbol: str = "BTC/USDT") -> Feed:
        """A feed that is in use, and never due by itself: its candles are this benchmark's doing."""
        feed = feed_ensure(self.market(symbol), timeframe)
        last_open_at = timeframe.open_of(self.now) - timeframe.length
        Feed.objects.filter(pk=feed.pk).update(is_needed=True, next_due_at=None, last_open_at=last_open_at)
        # Somebody who holds something on it, or the next sweep would end its collection.
        [account], [config] = self.accounts(1), self.configs(feed, 1, is_needed=False)
        [holder] = self.sessions([(account, config)], SessionStatus.SUSPENDED)
        TradingSession.objects.filter(pk=holder.pk).update(has_exposure=True)
        return feed

    def configs(self, feed: Feed, count: int, *, is_needed: bool) -> list[StrategyConfig]:
        return StrategyConfig.objects.bulk_create(
            StrategyConfig(
                owner=self.owner, name=f"config-{next(_numbers)}", feed=feed, strategy="sma_cross", parameters=PARAMETERS,
                is_needed=is_needed,
            )
            for _ in range(count)
        )  # fmt: skip

    def sessions(self, pairs: list[tuple[Account, StrategyConfig]], status: SessionStatus) -> list[TradingSession]:
        now = timezone.now()
        return TradingSession.objects.bulk_create(
            TradingSession(
                account=account, config=config, name=f"session-{next(_numbers)}", status=status,
                sizing_method=SizingMethod.FIXED_QUOTE, sizing_amount=STAKE, started_at=now,
                signals_after=self.now - timedelta(days=1),
            )
            for account, config in pairs
        )  # fmt: skip


def candles_announce(feed: Feed) -> datetime:
    """Store candles on which every configuration of ``feed`` says buy, and announce them, in one transaction as the
    collector does; the open time of the last."""
    feed.refresh_from_db()
    timeframe = Timeframe(feed.timeframe)
    assert feed.last_open_at is not None
    opens = [feed.last_open_at + (index + 1) * timeframe.length for index in range(len(FALL_AND_JUMP))]
    rows = [
        CandleReport(open_at, *(Decimal(close),) * 4, Decimal(1))
        for open_at, close in zip(opens, FALL_AND_JUMP, strict=True)
    ]
    with transaction.atomic():
        new = candles_store(feed.pk, rows)
        Feed.objects.filter(pk=feed.pk).update(last_open_at=opens[-1])
        publish(
            Topic.MARKETDATA, feed.pk, feed_id=feed.pk, data={"new": new, "last_open_at": opens[-1].astimezone(UTC)}
        )
    return opens[-1]
