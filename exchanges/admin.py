"""Exchanges, accounts and what was read from them. Keys go in and are never shown again."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.contrib.auth.models import User
from django.db import models
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.views.decorators.debug import sensitive_post_parameters
from unfold.decorators import display
from unfold.widgets import UnfoldAdminDecimalFieldWidget, UnfoldAdminPasswordWidget, UnfoldAdminTextInputWidget

from exchanges import accounts, services
from exchanges.ccxt_gateway import is_ccxt_exchange
from exchanges.credentials import Credentials, UnableToDecrypt
from exchanges.gateway import ExchangeUnavailable
from exchanges.models import Account, Balance, Exchange, Market, Quote, RiskProfile
from exchanges.presets import LIMIT_FIELDS, PRESETS, preset_of, preset_values
from pipeline.fields import ExactField
from pipeline.pages import (
    BADGES,
    SECTION_ROWS,
    BaseStackedInline,
    Fact,
    OwnRelatedFilter,
    Page,
    ReadOnlyPage,
    Sections,
    SupervisedPage,
    badge,
    batch,
    button,
    exact_widget,
    link_to_list,
    list_url,
    moment,
    plain,
    table,
)

SECRETS = ("api_key", "secret", "passphrase")


def _read_now(request: HttpRequest, exchange: Exchange) -> str:
    return f"read the clock and {services.exchange_sync(exchange.pk)} markets"


def _read_balances(request: HttpRequest, account: Account) -> str:
    return f"read the balances of {len(accounts.balances_refresh(account.pk))} currencies"


class ExchangeForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    ccxt_id = forms.SlugField(
        label="Speaks", max_length=40, widget=UnfoldAdminTextInputWidget,
        help_text="The ccxt class that speaks its language: kucoin, binance, or any other that ccxt has.",
    )  # fmt: skip

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # One that was made for candles alone may stay so.
        self.fields["ccxt_id"].required = not (self.instance.pk and self.instance.is_only_data)

    def clean_ccxt_id(self) -> str:
        ccxt_id: str = self.cleaned_data["ccxt_id"]
        if ccxt_id and not is_ccxt_exchange(ccxt_id):
            raise forms.ValidationError(f"wanted an exchange that ccxt speaks to, was {ccxt_id!r}")
        return ccxt_id


@admin.register(Exchange)
class ExchangePage(SupervisedPage):
    form = ExchangeForm
    formfield_overrides = {**Page.formfield_overrides, models.URLField: {"assume_scheme": "https"}}
    refusals = (ExchangeUnavailable,)
    list_display = ("name", "speaks", "is_enabled", "status_shown", "stream_shown", "its_time", "markets_synced_at")
    list_filter = ("is_enabled",)
    search_fields = ("name",)
    ordering = ("name",)
    fields = ("name", "ccxt_id", "base_url", "is_enabled", "public_weight", "clock_speed")
    actions_detail = ("read_now",)
    actions = ("read_now_selected",)

    read_now = button(
        "Read now", _read_now, icon="sync",
        question="Asks the exchange for its clock and for every market it has. This may take some seconds.",
    )  # fmt: skip
    read_now_selected = batch("Read markets and clock now", _read_now)

    @admin.display(description="speaks", ordering="ccxt_id")
    def speaks(self, exchange: Exchange) -> str:
        return exchange.ccxt_id

    @display(description="status", ordering="status", label=BADGES)
    def status_shown(self, exchange: Exchange) -> str:
        if exchange.unreachable_at:
            return "UNREACHABLE"
        if exchange.is_only_data:
            return "ONLY DATA"
        # What nobody has asked is not open.
        return exchange.status if exchange.status_read_at else "NOT READ"

    @admin.display(description="stream", ordering="stream_seen_at")
    def stream_shown(self, exchange: Exchange) -> str:
        return moment(exchange.stream_seen_at) if exchange.stream_seen_at else "polled only"

    @admin.display(description="its time")
    def its_time(self, exchange: Exchange) -> str:
        return moment(exchange.time_at(timezone.now())) if exchange.clock_anchor_at else "-"

    def sections(self, request: HttpRequest, row: Exchange) -> Sections:
        markets = row.markets.filter(is_active=True).count()
        unread = "nobody is called for it" if row.is_only_data else "read once an account is there"
        read = f"read at {moment(row.status_read_at)}" if row.status_read_at else unread
        said = f"silent since {moment(row.unreachable_at)}" if row.unreachable_at else row.status_message or read
        return Sections(
            [
                Fact("Status", badge(self.status_shown(row)), said),
                Fact("Its time", self.its_time(row), f"clock read at {moment(row.clock_anchor_at)}"),
                Fact("Clock speed", f"{row.clock_speed:g} ×"),
                Fact("Stream", self.stream_shown(row), "when it last spoke" if row.stream_seen_at else "no stream is open"),
                Fact(
                    "Markets", link_to_list(Market, markets, exchange=row.pk, is_active__exact=1),
                    f"read at {moment(row.markets_synced_at)}",
                ),
            ]
        )  # fmt: skip


def secret_field(label: str, help_text: str = "") -> forms.CharField:
    """A field that is typed into and never filled in."""
    widget = UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password", "spellcheck": "false"})
    return forms.CharField(label=label, required=False, max_length=400, widget=widget, help_text=help_text)


class AccountForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    """An account with its keys: typed in when it is made, left empty to keep them."""

    trader: ClassVar[User]
    # What the venue says of the keys that were entered; it was asked before the transaction in which forms are saved.
    examined: ClassVar[accounts.KeysExamined | accounts.KeysRefused | None]

    api_key = secret_field("API key")
    secret = secret_field("API secret")
    passphrase = secret_field("API passphrase", "Where the exchange has one; KuCoin does.")
    paper_balance = forms.DecimalField(
        label="Paper balance", required=False, min_value=0, max_digits=36, decimal_places=18,
        widget=UnfoldAdminDecimalFieldWidget, help_text="What a paper account starts with, in its currency.",
    )  # fmt: skip

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        self._check_keys(data)
        if isinstance(self.examined, accounts.KeysRefused):
            self.add_error("api_key", str(self.examined))
        owner = data.get("owner") or (self.instance.owner if self.instance.pk else self.trader)
        others = Account.objects.filter(owner=owner, name=data.get("name")).exclude(pk=self.instance.pk)
        if others.exists():
            self.add_error("name", f"wanted a name that none of your other accounts has, was {data['name']!r}")
        return data

    def _check_keys(self, data: dict[str, Any]) -> None:
        is_entered = any(data.get(name) for name in SECRETS)
        if self.instance.is_paper or data.get("is_paper"):
            if is_entered:
                self.add_error("api_key", "wanted no keys for a paper account, was given some")
            if not self.instance.pk and data.get("paper_balance") is None and "paper_balance" not in self.errors:
                self.add_error("paper_balance", "wanted the balance that a paper account starts with, was nothing")
            if not self.instance.pk and data.get("exchange") is not None:
                try:
                    accounts.paper_require(data["exchange"])
                except accounts.PaperRefused as error:
                    self.add_error("exchange", str(error))
            return
        if data.get("paper_balance") is not None:
            self.add_error("paper_balance", "wanted nothing here for an account with keys, was given")
        if self.instance.pk and not is_entered:
            return
        for name in ("api_key", "secret"):
            if not data.get(name) and name not in self.errors:
                found = "the others without it" if is_entered else "nothing"
                self.add_error(
                    name, f"wanted the {self.fields[name].label}, was {found}; new keys are entered together"
                )

    @property
    def credentials(self) -> Credentials | None:
        """The keys that were entered, if any were."""
        values = [self.cleaned_data.get(name, "") for name in SECRETS]
        return Credentials(*values) if any(values) else None


class RiskProfileForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    """Limits, and a preset to set all of them by: one that is chosen anew outranks what the other fields say."""

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        chosen = data.get("preset") or RiskProfile.Preset.CUSTOM
        if "preset" in self.changed_data and chosen in PRESETS:
            data |= preset_values(chosen)
        elif not self.errors:
            data["preset"] = preset_of({name: data.get(name) for name in LIMIT_FIELDS})
        return data


class RiskProfileInline(BaseStackedInline):
    model = RiskProfile
    form = RiskProfileForm
    can_delete = False
    min_num = 1
    hide_title = True
    fields = (
        "preset",
        ("max_open_positions", "max_orders_per_minute"),
        ("max_risk_per_trade_percent", "max_open_risk_percent"),
        ("max_exposure", "max_exposure_percent"),
        ("max_market_exposure_percent", "max_currency_exposure_percent"),
        ("max_net_exposure_percent", "max_leverage"),
        ("max_daily_loss_percent", "max_drawdown_percent"),
        ("cooldown_losses", "cooldown_minutes"),
        ("max_correlated_exposure_percent", "price_band_percent"),
        ("max_var_percent", "max_cvar_percent"),
        ("var_method", "var_confidence"),
        "var_horizon_hours",
    )
    verbose_name = "risk limits"
    formfield_overrides = {ExactField: exact_widget()}

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Account)
class AccountPage(Page):
    form = AccountForm
    owner_path = "owner"
    refusals = (ExchangeUnavailable, UnableToDecrypt)
    list_display = ("name", "exchange", "currency", "status_shown", "held", "key", "balances_synced_at")
    list_select_related = ("exchange", "owner")
    list_filter = (("exchange", OwnRelatedFilter), "status")
    search_fields = ("name",)
    ordering = ("name",)
    inlines = (RiskProfileInline,)
    actions_detail = ("read_balances",)
    actions = ("read_balances_selected",)

    read_balances = button(
        "Read balances", _read_balances, icon="sync", question="Asks the exchange what this account holds.",
    )  # fmt: skip
    read_balances_selected = batch("Read balances now", _read_balances)

    @display(description="status", ordering="status", label=BADGES)
    def status_shown(self, account: Account) -> str:
        return account.status

    @admin.display(description="key", ordering="key_hint")
    def key(self, account: Account) -> str:
        return "on paper" if account.is_paper else account.key_hint or "none"

    @admin.display(description="total")
    def held(self, account: Account) -> str:
        balance = next((one for one in account.balances.all() if one.currency == account.currency), None)
        return f"{plain(balance.total)} {account.currency}" if balance else "not read yet"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Account]:
        return super().get_queryset(request).prefetch_related("balances")

    def get_readonly_fields(self, request: HttpRequest, obj: Account | None = None) -> tuple[str, ...]:
        # What orders and limits were counted in does not change under them; a new account is quickly made.
        return ("owner", "exchange", "currency", "is_paper") if obj else ()

    def get_fieldsets(self, request: HttpRequest, obj: Account | None = None) -> Any:
        about = ["name", "exchange", "currency"]
        if request.user.is_superuser:
            about.insert(0, "owner")
        note = (
            f"The key in use ends in {obj.key_hint}. Leave all three empty to keep it."
            if obj and obj.key_hint
            else "Stored encrypted and never shown again. The key needs the right to trade, and none to withdraw. "
            "For an account on paper leave them empty."
        )
        keys = ("Keys", {"fields": SECRETS, "description": note})
        if obj is not None:
            return [(None, {"fields": [*about, "is_paper"]})] if obj.is_paper else [(None, {"fields": about}), keys]
        paper = ("Paper", {"fields": ("is_paper", "paper_balance"), "description": "Instead of keys."})
        return [(None, {"fields": about}), keys, paper]

    def get_form(self, request: HttpRequest, obj: Account | None = None, change: bool = False, **kwargs: Any) -> Any:
        form: Any = super().get_form(request, obj, change, **kwargs)
        form.trader = request.user
        form.examined = getattr(request, "keys_examined", None)
        return form

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"owner": request.user.pk, **super().get_changeform_initial_data(request)}

    @method_decorator(sensitive_post_parameters(*SECRETS))
    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:  # what Django passes
        if request.method == "POST":
            # Here, because what Django does next is one transaction, and no venue is asked within one.
            request.keys_examined = self._examined(request, *args, **kwargs)  # type: ignore[attr-defined]
        return super().changeform_view(request, *args, **kwargs)

    def _examined(
        self, request: HttpRequest, object_id: str | None = None, *_: Any, **__: Any
    ) -> accounts.KeysExamined | accounts.KeysRefused | None:
        """What the venue says of the keys that were entered, where this trader may save them there; None without keys."""
        credentials = Credentials(*(request.POST.get(name, "").strip() for name in SECRETS))
        if not credentials.api_key or not credentials.secret:
            return None
        account = self.get_object(request, unquote(object_id)) if object_id else None
        may_save = self.has_change_permission(request, account) if account else self.has_add_permission(request)
        asked = request.POST.get("exchange", "")
        exchange = (
            account.exchange if account else Exchange.objects.filter(pk=asked if asked.isdecimal() else 0).first()
        )
        if exchange is None or not may_save or (object_id and account is None):
            return None
        try:
            return accounts.keys_examine(exchange, credentials, account)
        except accounts.KeysRefused as error:
            return error

    def save_model(self, request: HttpRequest, obj: Account, form: AccountForm, change: bool) -> None:
        credentials = form.credentials
        examined = form.examined if isinstance(form.examined, accounts.KeysExamined) else None
        if change:
            super().save_model(request, obj, form, change)
            if credentials is not None:
                accounts.account_rekey(obj.pk, credentials, examined)
        else:
            owner = form.cleaned_data.get("owner") or form.trader
            made = accounts.account_create(
                owner=owner, exchange=obj.exchange, name=obj.name, currency=obj.currency, credentials=credentials,
                paper_balance=form.cleaned_data.get("paper_balance"), examined=examined,
            )  # fmt: skip
            obj.pk, obj.currency, obj.owner = made.pk, made.currency, made.owner
            obj._state.adding = False

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        if change:
            super().save_formset(request, form, formset, change)
            return
        # The account came with limits of its own: what was typed in goes onto that row.
        for profile in formset.save(commit=False):
            RiskProfile.objects.filter(account=form.instance).update(
                **{name: getattr(profile, name) for name in ("preset", *LIMIT_FIELDS)}
            )

    def sections(self, request: HttpRequest, row: Account) -> Sections:
        balances = row.balances.exclude(total=0).order_by("currency")[:SECTION_ROWS]
        checked = f"checked at {moment(row.keys_checked_at)}" if row.keys_checked_at else "not checked yet"
        return Sections(
            [
                Fact("Status", badge(row.status), row.status_reason),
                Fact("Key", self.key(row), "virtual money at real prices" if row.is_paper else row.keys_warning or checked),
                Fact("Holds", self.held(row), f"read at {moment(row.balances_synced_at)}"),
            ],
            [
                table(
                    "Balances", ("Currency", "Total", "Free", "Read at"),
                    ((one.currency, one.total, one.free, one.read_at) for one in balances),
                    list_url(Balance, account__id__exact=row.pk),
                )
            ],
        )  # fmt: skip


@admin.register(Balance)
class BalancePage(ReadOnlyPage):
    owner_path = "account__owner"
    list_display = ("currency", "account", "total", "free", "read_at")
    list_select_related = ("account__exchange", "account__owner")
    list_filter = (("account", OwnRelatedFilter),)
    search_fields = ("currency", "account__name")
    ordering = ("account", "currency")


@admin.register(Market)
class MarketPage(ReadOnlyPage):
    hidden = ("venue_info",)
    list_display = ("symbol", "exchange", "kind", "tick_size", "lot_size", "min_notional", "taker_fee", "is_active")
    list_select_related = ("exchange",)
    list_filter = ("exchange", "is_active", "kind", "quote")
    search_fields = ("symbol",)
    ordering = ("symbol",)

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[QuerySet[Any], bool]:
        found, may_repeat = super().get_search_results(request, queryset, search_term)
        if request.resolver_match is not None and request.resolver_match.url_name == "autocomplete":
            found = found.filter(is_active=True, exchange__is_enabled=True)  # what a configuration may trade
        return found, may_repeat


@admin.register(Quote)
class QuotePage(ReadOnlyPage):
    list_display = ("market", "bid", "ask", "last", "quoted_at")
    list_select_related = ("market__exchange",)
    list_filter = ("market__exchange",)
    search_fields = ("market__symbol",)
    ordering = ("-quoted_at",)
