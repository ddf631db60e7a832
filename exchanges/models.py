"""Venues, accounts, markets, quotes and balances: what we know of the world outside, each row with the time it was read."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from domain.market import MarketRules, OrderType, Side, Trigger
from domain.risk import VarMethod
from exchanges.credentials import CredentialsField
from exchanges.gateway import VenueStatus
from pipeline.fields import ExactField


class Exchange(models.Model):
    """A venue we can reach: the ccxt class that speaks to it and, for a simulator or a test net, where it listens.

    A simulator may run faster than the world; ``clock_speed`` and the anchors translate between its time and ours, so
    that everything above asks for the venue's time and never looks at a wall clock to judge a candle.

    One without a ccxt class is a place of which there are only candles (see ``exchanges/data_markets.py``): nobody is called,
    and nobody trades there.
    """

    name = models.SlugField(max_length=40, unique=True, help_text="How sessions and journal call it, e.g. kucoin.")
    ccxt_id = models.SlugField(max_length=40, default="kucoin", help_text="The ccxt class that speaks its language.")
    base_url = models.URLField(blank=True, help_text="Only for a simulator or test net; empty means the real venue.")
    is_enabled = models.BooleanField(default=True)
    public_weight = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Weight of public requests that it allows in its usual window, where that is another than the venue's own: "
        "a simulator's, or one that was agreed upon.",
    )
    clock_speed = models.FloatField(
        default=1.0, validators=[MinValueValidator(0.0)], help_text="Venue seconds per second; 1 for every real venue."
    )
    clock_anchor_at = models.DateTimeField(null=True, editable=False, help_text="Our time when its clock was read.")
    clock_venue_at = models.DateTimeField(null=True, editable=False, help_text="Its time at that moment.")
    status = models.CharField(
        max_length=11,
        choices=[(status.value, status.value) for status in VenueStatus],
        default=VenueStatus.OPEN,
        editable=False,
        help_text="What the venue says of itself: whether it takes orders now.",
    )
    status_message = models.CharField(max_length=200, blank=True, editable=False)
    status_read_at = models.DateTimeField(null=True, editable=False)
    unreachable_at = models.DateTimeField(
        null=True, editable=False, help_text="Since when it does not answer anybody; empty while it does."
    )
    stream_seen_at = models.DateTimeField(
        null=True, editable=False, help_text="When its stream was last known to be alive; empty: polled only."
    )
    markets_synced_at = models.DateTimeField(null=True, editable=False)

    def __str__(self) -> str:
        return self.name

    @property
    def is_only_data(self) -> bool:
        """Whether there are candles of it, and nothing to call or to trade at."""
        return not self.ccxt_id

    def time_at(self, now: datetime) -> datetime:
        """The venue's time at our time ``now``."""
        if self.clock_anchor_at is None or self.clock_venue_at is None:
            return now
        return self.clock_venue_at + (now - self.clock_anchor_at) * self.clock_speed

    def our_time_of(self, venue_at: datetime, now: datetime) -> datetime:
        """Our time at the venue's time ``venue_at``, which is not after ``now``; a clock that stands still tells none, and
        ``now`` is the best guess."""
        if self.clock_anchor_at is None or self.clock_venue_at is None:
            return min(venue_at, now)
        if self.clock_speed <= 0:
            return now
        return min(self.clock_anchor_at + (venue_at - self.clock_venue_at) / self.clock_speed, now)

    def wall_delay(self, venue_delay: timedelta) -> timedelta:
        """How long ``venue_delay`` of the venue's time lasts for us; a stopped clock is looked at every second."""
        return venue_delay / self.clock_speed if self.clock_speed > 0 else timedelta(seconds=1)


class Account(models.Model):
    """A trader's account at a venue. Its row lock is what makes valuing orders atomic across sessions."""

    class Status(models.TextChoices):
        ACTIVE = "ACTIVE"
        PAUSED = "PAUSED"

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="accounts")
    exchange = models.ForeignKey(Exchange, on_delete=models.PROTECT, related_name="accounts")
    name = models.CharField(max_length=80)
    currency = models.CharField(max_length=16, default="USDT", help_text="What equity and limits are counted in.")
    credentials = CredentialsField(editable=True)
    key_hint = models.CharField(max_length=8, blank=True, editable=False)
    keys_checked_at = models.DateTimeField(
        null=True, editable=False, help_text="When the venue last said what the keys may do."
    )
    keys_warning = models.CharField(
        max_length=200, blank=True, editable=False, help_text="What is unwise about keys that are good enough."
    )
    is_paper = models.BooleanField(default=False, help_text="Virtual money on the venue's real prices; needs no keys.")
    status = models.CharField(max_length=8, choices=Status.choices, default=Status.ACTIVE, editable=False)
    status_reason = models.CharField(max_length=200, blank=True, editable=False)
    balances_synced_at = models.DateTimeField(null=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["owner", "name"], name="account_name_once_per_owner")]

    def __str__(self) -> str:
        return f"{self.name} ({self.exchange.name})"


def _limit(help_text: str, **kwargs: Any) -> ExactField:
    return ExactField(null=True, blank=True, validators=[MinValueValidator(0)], help_text=help_text, **kwargs)


class RiskProfile(models.Model):
    """What one account may risk over all of its sessions. An empty limit is no limit. Percentages are of equity, exposures
    of the value of positions and entries together."""

    class Preset(models.TextChoices):
        CUSTOM = "CUSTOM"
        CONSERVATIVE = "CONSERVATIVE"
        BALANCED = "BALANCED"
        AGGRESSIVE = "AGGRESSIVE"

    account = models.OneToOneField(Account, on_delete=models.CASCADE, related_name="risk_profile")
    preset = models.CharField(
        max_length=12, choices=Preset.choices, default=Preset.CUSTOM, help_text="Where its limits came from."
    )
    max_open_positions = models.PositiveIntegerField(
        null=True, blank=True, default=5, help_text="Positions open at once, over all sessions."
    )
    max_exposure = _limit("Value of all positions and entries together, in the account's currency.")
    max_exposure_percent = _limit("The same in percent of equity.")
    max_net_exposure_percent = _limit("Long less short, or short less long.")
    max_market_exposure_percent = _limit("On one market.")
    max_currency_exposure_percent = _limit("To one base currency, over all its markets.")
    max_correlated_exposure_percent = _limit("Weighted by how the markets' returns move together.")
    max_leverage = _limit("Of a single position, and of all of them together.")
    max_risk_per_trade_percent = _limit("Lost when the stop of one position is hit.")
    max_open_risk_percent = _limit("Lost when all stops are hit; a position without a stop counts whole.")
    max_orders_per_minute = models.PositiveIntegerField(null=True, blank=True, help_text="Entries let through.")
    max_daily_loss_percent = _limit("Since midnight UTC, what is not realised included.")
    max_drawdown_percent = _limit("Below the highest equity there was.")
    max_var_percent = _limit("Value at risk of the book with the order.")
    max_cvar_percent = _limit("Mean loss of the book with the order beyond its value at risk.")
    var_method = models.CharField(
        max_length=11, choices=[(method.value, method.value.replace("_", " ").capitalize()) for method in VarMethod],
        default=VarMethod.HISTORICAL,
    )  # fmt: skip
    var_confidence = models.FloatField(
        default=0.95,
        validators=[MinValueValidator(0.5), MaxValueValidator(0.999)],
        help_text="0.95: one case in twenty.",
    )
    var_horizon_hours = models.PositiveIntegerField(
        default=24, validators=[MinValueValidator(1), MaxValueValidator(720)]
    )
    cooldown_losses = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1)], help_text="After so many losses in a row..."
    )
    cooldown_minutes = models.PositiveIntegerField(default=60, help_text="...no entry for so long.")
    price_band_percent = _limit("How far a limit or stop price may be from the last price.")

    def __str__(self) -> str:
        return f"limits of {self.account}"


class Market(models.Model):
    """A tradable symbol of a venue with its tick, lot and minimums; ``venue_info`` is what its gateway needs to trade it
    without asking again."""

    class Kind(models.TextChoices):
        SPOT = "SPOT"
        LINEAR_FUTURE = "LINEAR_FUTURE"

    exchange = models.ForeignKey(Exchange, on_delete=models.PROTECT, related_name="markets")
    symbol = models.CharField(max_length=40)
    base = models.CharField(max_length=20)
    quote = models.CharField(max_length=20)
    kind = models.CharField(max_length=16, choices=Kind.choices, default=Kind.SPOT)
    tick_size = ExactField()
    lot_size = ExactField()
    min_quantity = ExactField(default=0)
    max_quantity = ExactField(null=True)
    min_notional = ExactField(default=0)
    contract_size = ExactField(default=1)
    maker_fee = ExactField(default=0)
    taker_fee = ExactField(default=0)
    is_active = models.BooleanField(default=True)
    venue_info = models.JSONField(default=dict, editable=False)
    synced_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["exchange", "symbol"], name="market_once_per_exchange")]

    def __str__(self) -> str:
        return f"{self.symbol} at {self.exchange.name}"

    @property
    def max_leverage(self) -> Decimal | None:
        """The most the venue lends on contracts here; None where it does not say."""
        most = ((self.venue_info.get("limits") or {}).get("leverage") or {}).get("max")
        return None if most is None else Decimal(str(most))

    @property
    def rules(self) -> MarketRules:
        """What the venue accepts here, as the pure functions take it."""
        return MarketRules(
            symbol=self.symbol,
            base=self.base,
            quote=self.quote,
            tick_size=self.tick_size,
            lot_size=self.lot_size,
            min_quantity=self.min_quantity,
            max_quantity=self.max_quantity,
            min_notional=self.min_notional,
            contract_size=self.contract_size,
            maker_fee=self.maker_fee,
            taker_fee=self.taker_fee,
        )


class Quote(models.Model):
    """The last price seen of a market: one row, overwritten. ``quoted_at`` is our time of reading it."""

    market = models.OneToOneField(Market, on_delete=models.CASCADE, primary_key=True, related_name="last_quote")
    bid = ExactField()
    ask = ExactField()
    last = ExactField()
    quoted_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.market_id}: {self.last}"


class Balance(models.Model):
    """What an account holds of one currency, as the venue said at ``read_at`` (our time just before asking)."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="balances")
    currency = models.CharField(max_length=20)
    total = ExactField()
    free = ExactField()
    read_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["account", "currency"], name="balance_once_per_currency")]

    def __str__(self) -> str:
        return f"{self.total} {self.currency}"


class PaperBalance(models.Model):
    """Virtual money of a paper account in one currency. ``held`` is set aside for open orders; that neither it nor what
    is free is ever negative is the database's word."""

    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="paper_balances")
    currency = models.CharField(max_length=20)
    total = ExactField(default=0)
    held = ExactField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["account", "currency"], name="paper_balance_once_per_currency"),
            models.CheckConstraint(
                condition=models.Q(held__gte=0, held__lte=models.F("total")), name="paper_balance_holds_what_it_has"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.total} {self.currency} on paper"

    @property
    def free(self) -> Decimal:
        """What a new order may use."""
        free: Decimal = self.total - self.held
        return free


class PaperOrder(models.Model):
    """An order in the books of a paper account, kept for ever: its client order id is never free again.

    ``held`` is what it holds of the currency it pays with: nothing while it waits for its stop price. Times are the venue's.
    Prices before ``matched_until`` cannot fill it any more: they came before it, or were looked at.
    """

    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="paper_orders")
    market = models.ForeignKey(Market, on_delete=models.PROTECT, related_name="paper_orders")
    client_order_id = models.CharField(max_length=64)
    side = models.CharField(max_length=4, choices=[(side.value, side.value) for side in Side])
    order_type = models.CharField(max_length=8, choices=[(kind.value, kind.value) for kind in OrderType])
    quantity = ExactField()
    price = ExactField(null=True)
    stop_price = ExactField(null=True)
    trigger = models.CharField(max_length=7, choices=[(side.value, side.value) for side in Trigger], blank=True)
    triggered_at = models.DateTimeField(null=True)
    filled = ExactField(default=0)
    filled_quote = ExactField(default=0)
    held = ExactField(default=0)
    is_open = models.BooleanField(default=True)
    is_canceled = models.BooleanField(default=False)
    created_at = models.DateTimeField()
    matched_until = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["account", "client_order_id"], name="paper_order_once_per_client_order_id"),
        ]
        indexes = [
            models.Index(fields=["account"], condition=models.Q(is_open=True), name="paper_order_open"),
            models.Index(fields=["account", "market", "created_at"], name="paper_order_history"),
        ]

    def __str__(self) -> str:
        return f"{self.side} {self.quantity} on paper"

    @property
    def is_waiting(self) -> bool:
        """Whether it is a stop order whose price was not met yet."""
        return self.is_open and self.stop_price is not None and self.triggered_at is None


class PaperFill(models.Model):
    """One execution in the books of a paper account; the fee is in the market's quote currency. ``filled_at`` is the
    venue's time."""

    order = models.ForeignKey(PaperOrder, on_delete=models.PROTECT, related_name="fills")
    quantity = ExactField()
    price = ExactField()
    fee = ExactField()
    filled_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.quantity} at {self.price} on paper"
